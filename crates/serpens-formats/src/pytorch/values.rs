//! The values that a pickle makes, and what the machine knows of Python: PyTorch's storages, and what makes tensors of
//! them.

use Value::{Dict, Global, Int, Plain, Storage, Tensor, Text, Tuple, Unknown};

use super::machine::Machine;
use crate::Encoding;

/// What a pickle makes: small, and copied however often it is named. What is larger lies in an arena, dictionaries in a
/// list.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// One that no tensor is made of: fractions, numbers below zero, lists, sets, `None`, `True`, `False`.
    Plain,
    Int(usize),
    Text(&'a str),
    /// With the first in it, at any depth, that is made of a storage.
    Tuple(&'a [Value<'a>], Option<&'a Value<'a>>),
    /// The number of a dictionary.
    Dict(usize),
    Global(&'a Name<'a>),
    Storage(&'a Stored<'a>),
    Tensor(&'a View<'a>),
    /// What something that is not known would have made, and whether of a storage: it may stand for a tensor then.
    Unknown(&'a Name<'a>, bool),
}

/// A module of Python's, and the name of something in it.
pub(super) type Name<'a> = [&'a str; 2];

/// A storage: its encoding, unless it is bytes, to which a tensor gives a type; its name in the archive; and how many
/// values or bytes it has.
pub(super) struct Stored<'a> {
    pub(super) encoding: Option<Encoding>,
    pub(super) key: &'a str,
    pub(super) count: usize,
}

/// A tensor: which values of a storage it has, from `offset` on. Nothing of it is checked.
pub(super) struct View<'a> {
    pub(super) storage: &'a Stored<'a>,
    pub(super) encoding: Encoding,
    pub(super) offset: usize,
    /// Of its axes, and how far apart values along them are.
    pub(super) sizes: [Value<'a>; 2],
}

const UTILS: &str = "torch._utils";

/// PyTorch's names of an encoding: the storage of such values, where it has one, and the type.
const TYPES: [(&str, &str, Encoding); 13] = [
    ("FloatStorage", "float32", Encoding::F32),
    ("HalfStorage", "float16", Encoding::F16),
    ("BFloat16Storage", "bfloat16", Encoding::BF16),
    ("DoubleStorage", "float64", Encoding::F64),
    ("CharStorage", "int8", Encoding::Other("I8")),
    ("ShortStorage", "int16", Encoding::Other("I16")),
    ("IntStorage", "int32", Encoding::Other("I32")),
    ("LongStorage", "int64", Encoding::Other("I64")),
    ("ByteStorage", "uint8", Encoding::Other("U8")),
    ("uint16", "uint16", Encoding::Other("U16")),
    ("uint32", "uint32", Encoding::U32),
    ("uint64", "uint64", Encoding::Other("U64")),
    ("BoolStorage", "bool", Encoding::Other("Bool")),
];

/// The encoding of a storage's class, or of a type.
fn encoding([module, name]: &Name<'_>) -> Option<Encoding> {
    let mut rows = TYPES.iter().filter(|_| *module == "torch");
    let row = rows.find(|(storage, dtype, _)| [storage, dtype].contains(&name))?;
    Some(row.2)
}

impl<'a> Machine<'a> {
    /// A tuple of values.
    pub(super) fn tuple(&self, items: &[Value<'a>]) -> Value<'a> {
        let items = &*self.arena.alloc_slice_copy(items);
        let of_storage = items.iter().find_map(|item| match item {
            Tuple(_, inner) => *inner,
            Storage(_) | Tensor(_) | Unknown(_, true) => Some(item),
            _ => None,
        });
        Tuple(items, of_storage)
    }

    /// Something with a name.
    pub(super) fn global(&self, module: &'a str, name: &'a str) -> Value<'a> {
        Global(self.arena.alloc([module, name]))
    }

    /// An empty dictionary.
    pub(super) fn dict(&mut self) -> Value<'a> {
        self.dicts.push(Vec::new());
        Dict(self.dicts.len() - 1)
    }

    /// What a call makes, which is nothing but a note of it where it is not known.
    pub(super) fn call(&mut self, maker: Value<'a>, arguments: Value<'a>) -> Option<Value<'a>> {
        let (Global(maker) | Unknown(maker, _), Tuple(items, of_storage)) = (maker, arguments)
        else {
            return None;
        };
        let made = match (*maker, items) {
            (["collections", "OrderedDict"], []) => Some(self.dict()),
            ([UTILS, "_rebuild_parameter"], &[data @ Tensor(_), ..]) => Some(data),
            ([UTILS, "_rebuild_parameter_with_state"], &[data @ Tensor(_), ..]) => Some(data),
            ([UTILS, "_rebuild_tensor_v2"], items) => self.tensor(items, None),
            ([UTILS, "_rebuild_tensor_v3"], [items @ .., Global(dtype)]) => {
                self.tensor(items, encoding(dtype))
            }
            _ => None,
        };
        // Of several that are not known, the first is what is missing.
        let maker = match of_storage {
            Some(Unknown(first, _)) => first,
            _ => maker,
        };
        Some(made.unwrap_or_else(|| self.unknown(maker, of_storage.is_some())))
    }

    /// The storage with this name, which is ("storage", class, key, device, number of values).
    pub(super) fn storage(&mut self, name: Value<'a>) -> Value<'a> {
        let Tuple(&[_, Global(class), Text(key), _, Int(count)], _) = name else {
            return Plain;
        };
        let encoding = encoding(class);
        if encoding.is_none() && *class != ["torch.storage", "UntypedStorage"] {
            return self.unknown(class, true);
        }
        let stored = Stored {
            encoding,
            key,
            count,
        };
        Storage(self.arena.alloc(stored))
    }

    /// A tensor of (storage, offset, sizes, strides, and two that say how it is trained). There is more where its
    /// values are to be conjugated or negated.
    fn tensor(&self, items: &[Value<'a>], named: Option<Encoding>) -> Option<Value<'a>> {
        let &[Storage(storage), Int(offset), dims, strides, _, _] = items else {
            return None;
        };
        Some(Tensor(self.arena.alloc(View {
            storage,
            encoding: storage.encoding.or(named)?,
            offset,
            sizes: [dims, strides],
        })))
    }

    fn unknown(&mut self, maker: &'a Name<'a>, of_storage: bool) -> Value<'a> {
        self.unknown.get_or_insert(maker);
        Unknown(maker, of_storage)
    }
}
