//! The values that a pickle makes.

use std::fmt;

use crate::Encoding;

/// The place of a value among all that were made.
pub(super) type Id = u32;

/// What a pickle makes. What holds others holds their places, so that nothing is copied however often it is named.
pub(super) enum Value<'a> {
    /// One that no tensor is made of: fractions, lists, sets, bytes, `None`, `True`, `False`.
    Plain,
    Int(i64),
    Text(&'a str),
    /// With the first in it, at any depth, that is made of a storage.
    Tuple(Box<[Id]>, Option<Id>),
    Dict(Vec<[Id; 2]>),
    Global(Box<Global<'a>>),
    Storage(Box<Storage<'a>>),
    Tensor(Box<View<'a>>),
    /// What something that is not known would have made.
    Unknown(Box<Unknown<'a>>),
}

/// The name of something in a module of Python's.
#[derive(Clone, Copy)]
pub(super) struct Global<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
}

pub(super) struct Unknown<'a> {
    pub(super) maker: Global<'a>,
    /// Whether it was to be made of a storage: it may stand for a tensor then.
    pub(super) of_storage: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    /// None where it is bytes, to which a tensor gives a type.
    pub(super) encoding: Option<Encoding>,
    /// Its name in the archive.
    pub(super) key: &'a str,
    /// The values in it, or the bytes.
    pub(super) count: i64,
}

/// A tensor: which values of a storage it has. Nothing of it is checked.
pub(super) struct View<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) encoding: Encoding,
    /// Values before the first.
    pub(super) offset: i64,
    pub(super) dims: Id,
    pub(super) strides: Id,
}

impl fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}
