//! The tensors of a pickle's dictionaries, and where their values are.

use std::collections::BTreeMap;
use std::ops::Range;

use serpens_core::{MAX_RANK, Shape};

use super::machine::Machine;
use super::values::{Value, View};
use crate::Fault;
use crate::tensor_file::Entry;

/// The key under which Lightning has the weights, which may stand beside other things.
const WEIGHTS: &str = "state_dict";
/// Bytes of names, and items without one, for each byte of the pickle, at most. No more are there but where
/// dictionaries hold themselves, or each other many times.
const NAMES: usize = 4;

impl<'a> Machine<'a> {
    /// The tensors under a prefix, by name without it, in the result.
    pub(super) fn tensors(&self, prefix: &str) -> Result<BTreeMap<String, &'a View<'a>>, Fault> {
        let items = |dict: Option<Value<'a>>| match dict {
            Some(Value::Dict(dict)) => &*self.dicts[dict],
            _ => &[],
        };
        let weights = items(self.top()).iter().find_map(|item| match *item {
            [Value::Text(WEIGHTS), weights @ Value::Dict(_)] => Some(weights),
            _ => None,
        });
        let (mut tensors, mut other, mut room) = (BTreeMap::new(), None, NAMES * self.pickle.len());
        let mut open = vec![(String::new(), weights.or(self.top()))];
        while let Some((folder, dict)) = open.pop() {
            for &[key, item] in items(dict) {
                let name = match key {
                    Value::Text(key) => format!("{folder}{key}"),
                    _ => String::new(),
                };
                room = room.checked_sub(name.len() + 1).ok_or(Fault::Names)?;
                let under = name.strip_prefix(prefix).filter(|short| !short.is_empty());
                match (item, under) {
                    _ if name.is_empty() => {}
                    (Value::Dict(_), _) => open.push((name + ".", Some(item))),
                    (Value::Tensor(_), None) => other = Some(name),
                    (Value::Tensor(_), Some(short)) if tensors.contains_key(short) => {
                        return Err(Fault::Twice(name));
                    }
                    (Value::Tensor(view), Some(short)) => {
                        tensors.insert(short.to_owned(), view);
                    }
                    (Value::Unknown(maker, true), Some(_)) => {
                        return Err(Fault::Maker(name, maker.join(".")));
                    }
                    _ => {}
                }
            }
        }
        match other {
            _ if !tensors.is_empty() => Ok(tensors),
            None => Err(Fault::Empty(self.unknown.map(|maker| maker.join(".")))),
            Some(other) => Err(Fault::Prefix(prefix.to_owned(), other)),
        }
    }
}

/// Where in a file the values of a tensor are; `None` where its storage does not have them.
pub(super) fn locate(view: &View<'_>, storage: Range<u64>) -> Option<Entry> {
    let [dims, strides] = view.sizes.map(sizes);
    let (dims, strides) = (dims?, strides?);
    let shape = Shape::try_from(&*dims).ok()?;
    let (_, size) = view.encoding.block();
    let bytes = usize::try_from(storage.end - storage.start).ok()?;
    let (offset, stored) = (view.offset, view.storage);
    let count = match stored.encoding {
        Some(_) => stored.count,
        None => stored.count / size,
    };
    let (mut last, mut row, mut is_by_rows) = (offset, 1, true);
    for (&dim, &stride) in dims.iter().zip(&strides).rev() {
        last = last.checked_add(dim.saturating_sub(1).checked_mul(stride)?)?;
        is_by_rows &= dim == 1 || stride == row;
        row = row.saturating_mul(dim);
    }
    let lies = match row {
        0 => offset <= count,
        values => last < count && values <= count,
    };
    (lies && dims.len() == strides.len() && count <= bytes / size).then(|| Entry {
        encoding: view.encoding,
        shape,
        start: storage.start + (offset * size) as u64,
        strides: (!is_by_rows).then(|| strides.into()),
        digest: None,
    })
}

/// A tuple of sizes, of which no more are looked at than a tensor may have.
fn sizes(tuple: Value<'_>) -> Option<Vec<usize>> {
    let Value::Tuple(items, _) = tuple else {
        return None;
    };
    let size = |item: &Value<'_>| match item {
        Value::Int(size) => Some(*size),
        _ => None,
    };
    items.iter().take(MAX_RANK + 1).map(size).collect()
}
