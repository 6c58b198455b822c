//! The tensors of a pickle's dictionaries, and where their values are.

use std::collections::BTreeMap;
use std::ops::Range;

use serpens_core::{MAX_RANK, Shape};

use super::Fault;
use super::value::{Id, Value, View};
use crate::tensor_file::Entry;

/// The key under which Lightning has the weights.
const WEIGHTS: &str = "state_dict";
/// Bytes of names, and items without one, for each byte of the pickle, at most. No more are there but where dictionaries
/// hold themselves, or each other many times.
const NAMES: usize = 4;

/// The tensors under a prefix, by name without it, in a pickle of so many bytes.
pub(super) fn find<'a, 'v>(
    values: &'v [Value<'a>],
    root: Id,
    prefix: &str,
    pickle: usize,
) -> Result<BTreeMap<String, &'v View<'a>>, Fault> {
    let value = |id: Id| &values[id as usize];
    let (mut tensors, mut other, mut room) = (BTreeMap::new(), None, NAMES * pickle);
    let mut open = vec![(String::new(), weights(values, root))];
    while let Some((folder, dict)) = open.pop() {
        let Value::Dict(items) = value(dict) else {
            continue;
        };
        for &[key, item] in items {
            let name = match (value(key), &*folder) {
                (Value::Text(key), "") => Some((*key).to_owned()),
                (Value::Text(key), folder) => Some(format!("{folder}.{key}")),
                _ => None,
            };
            let said = name.as_ref().map_or(0, String::len) + 1;
            room = room.checked_sub(said).ok_or(Fault::Names)?;
            let Some(name) = name else {
                continue;
            };
            let under = name.strip_prefix(prefix).filter(|short| !short.is_empty());
            match (value(item), under) {
                (Value::Dict(_), _) => open.push((name, item)),
                (Value::Tensor(_), None) => other = Some(name),
                (Value::Tensor(_), Some(short)) if tensors.contains_key(short) => {
                    return Err(Fault::Twice(name));
                }
                (Value::Tensor(view), Some(short)) => {
                    tensors.insert(short.to_owned(), &**view);
                }
                (Value::Unknown(unknown), Some(_)) if unknown.of_storage => {
                    let maker = unknown.maker.to_string();
                    return Err(Fault::Unknown { name, maker });
                }
                _ => {}
            }
        }
    }
    let unknown = values.iter().find_map(|value| match value {
        Value::Unknown(unknown) => Some(unknown.maker.to_string()),
        _ => None,
    });
    match other {
        _ if !tensors.is_empty() => Ok(tensors),
        None => Err(Fault::Empty(unknown)),
        Some(other) => Err(Fault::Prefix {
            prefix: prefix.to_owned(),
            other,
        }),
    }
}

/// The dictionary of weights, which may stand beside other things.
fn weights(values: &[Value<'_>], root: Id) -> Id {
    let Value::Dict(items) = &values[root as usize] else {
        return root;
    };
    let named = items.iter().find(|pair| {
        let pair = pair.map(|id| &values[id as usize]);
        matches!(pair, [Value::Text(WEIGHTS), Value::Dict(_)])
    });
    named.map_or(root, |&[_, weights]| weights)
}

/// Where in a file the values of a tensor are; `None` where its storage does not have them.
pub(super) fn locate(values: &[Value<'_>], view: &View<'_>, storage: Range<u64>) -> Option<Entry> {
    let [dims, strides] = [view.dims, view.strides].map(|id| sizes(values, id));
    let (dims, strides) = (dims?, strides?);
    let shape = Shape::try_from(&*dims).ok()?;
    let (_, size) = view.encoding.block();
    let bytes = usize::try_from(storage.end - storage.start).ok()?;
    let offset = usize::try_from(view.offset).ok()?;
    let stated = usize::try_from(view.storage.count).ok()?;
    let count = match view.storage.encoding {
        Some(_) => stated,
        None => stated / size,
    };
    let mut last = offset;
    let mut is_by_rows = true;
    let mut row = 1;
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
fn sizes(values: &[Value<'_>], id: Id) -> Option<Vec<usize>> {
    let Value::Tuple(items, _) = &values[id as usize] else {
        return None;
    };
    let sizes = items.iter().take(MAX_RANK + 1);
    let size = |&item: &Id| match values[item as usize] {
        Value::Int(size) => usize::try_from(size).ok(),
        _ => None,
    };
    sizes.map(size).collect()
}
