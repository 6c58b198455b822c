//! What the machine knows of Python: the storages of PyTorch, and what makes tensors of them.

use super::machine::Machine;
use super::value::{Id, Storage, Unknown, Value, View};
use crate::Encoding;

/// PyTorch's names of an encoding: the storage of such values (some have none), and the type.
type Type = (&'static str, &'static str, Encoding);

const TYPES: [Type; 13] = [
    ("FloatStorage", "float32", Encoding::F32),
    ("HalfStorage", "float16", Encoding::F16),
    ("BFloat16Storage", "bfloat16", Encoding::BF16),
    ("DoubleStorage", "float64", Encoding::F64),
    ("CharStorage", "int8", Encoding::I8),
    ("ShortStorage", "int16", Encoding::I16),
    ("IntStorage", "int32", Encoding::I32),
    ("LongStorage", "int64", Encoding::I64),
    ("ByteStorage", "uint8", Encoding::U8),
    ("", "uint16", Encoding::U16),
    ("", "uint32", Encoding::U32),
    ("", "uint64", Encoding::U64),
    ("BoolStorage", "bool", Encoding::Bool),
];

/// The encoding that a name in a column of the table stands for.
fn find(module: &str, name: &str, column: fn(&Type) -> &'static str) -> Option<Encoding> {
    let row = TYPES.iter().find(|row| column(row) == name)?;
    (module == "torch" && !name.is_empty()).then_some(row.2)
}

impl<'a> Machine<'a> {
    /// Pushes what a call makes, which is nothing but a note of it where it is not known.
    pub(super) fn call(&mut self, maker: Id, arguments: Id) -> Option<()> {
        let Value::Tuple(items, of_storage) = self.value(arguments) else {
            return None;
        };
        let maker = match self.value(maker) {
            Value::Global(global) => **global,
            Value::Unknown(unknown) => unknown.maker,
            _ => return None,
        };
        let made = match (maker.module, maker.name, &**items) {
            ("collections", "OrderedDict", []) => Some(Value::Dict(Vec::new())),
            (
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
                &[data, ..],
            ) if matches!(self.value(data), Value::Tensor(_)) => {
                self.stack.push(data);
                return Some(());
            }
            ("torch._utils", "_rebuild_tensor_v2", items) => self.tensor(items, None),
            ("torch._utils", "_rebuild_tensor_v3", &[ref items @ .., dtype]) => {
                self.tensor(items, Some(dtype))
            }
            _ => None,
        };
        // Of several that are not known, the first is what is missing.
        let maker = match of_storage.map(|id| self.value(id)) {
            Some(Value::Unknown(first)) => first.maker,
            _ => maker,
        };
        let of_storage = of_storage.is_some();
        let unknown = || Value::Unknown(Box::new(Unknown { maker, of_storage }));
        self.push(made.unwrap_or_else(unknown));
        Some(())
    }

    /// The first value that is made of a storage, of this and all that it holds in tuples.
    pub(super) fn of_storage(&self, id: Id) -> Option<Id> {
        match self.value(id) {
            Value::Tuple(_, inner) => *inner,
            Value::Storage(_) | Value::Tensor(_) => Some(id),
            Value::Unknown(unknown) => unknown.of_storage.then_some(id),
            _ => None,
        }
    }

    /// The storage with this name, which is ("storage", class, key, device, number of values).
    pub(super) fn storage(&self, name: Id) -> Option<Value<'a>> {
        let Value::Tuple(items, _) = self.value(name) else {
            return None;
        };
        let &[_, class, key, _, count] = &**items else {
            return None;
        };
        let of = [class, key, count].map(|id| self.value(id));
        let [Value::Global(class), Value::Text(key), &Value::Int(count)] = of else {
            return None;
        };
        let encoding = find(class.module, class.name, |&(storage, ..)| storage);
        if encoding.is_none() && (class.module, class.name) != ("torch.storage", "UntypedStorage") {
            let (maker, of_storage) = (**class, true);
            return Some(Value::Unknown(Box::new(Unknown { maker, of_storage })));
        }
        Some(Value::Storage(Box::new(Storage {
            encoding,
            key,
            count,
        })))
    }

    /// A tensor of (storage, offset, sizes, strides, and two that say how it is trained). There is more where its values
    /// are to be conjugated or negated.
    fn tensor(&self, items: &[Id], dtype: Option<Id>) -> Option<Value<'a>> {
        let &[storage, offset, dims, strides, _, _] = items else {
            return None;
        };
        let of = [storage, offset].map(|id| self.value(id));
        let [Value::Storage(storage), &Value::Int(offset)] = of else {
            return None;
        };
        let named = dtype.and_then(|dtype| match self.value(dtype) {
            Value::Global(dtype) => find(dtype.module, dtype.name, |&(_, dtype, _)| dtype),
            _ => None,
        });
        Some(Value::Tensor(Box::new(View {
            storage: **storage,
            encoding: storage.encoding.or(named)?,
            offset,
            dims,
            strides,
        })))
    }
}
