//! Metadata: typed values by key, and how they stand in files.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use crate::{Error, Fault, Result};

/// The key of the alignment, which is 32 where there is none.
const ALIGNMENT: &str = "general.alignment";
/// The largest alignment: no file is filled up by more, whatever it says.
const MOST_ALIGNED: u32 = 1 << 16;

/// What a GGUF file says of its model and tokenizer, by key.
///
/// ```
/// use serpens_formats::gguf::Metadata;
///
/// # fn main() -> serpens_formats::Result<()> {
/// let mut metadata = Metadata::default();
/// metadata.set("general.architecture", "mamba".to_owned());
/// metadata.set("mamba.block_count", 24_u32);
/// metadata.set("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()]);
/// assert_eq!(metadata.get::<u32>("mamba.block_count")?, 24);
/// assert_eq!(metadata.get::<Vec<String>>("tokenizer.ggml.tokens")?.len(), 2);
/// assert_eq!(metadata.find::<bool>("mamba.ssm.dt_b_c_rms")?, None);
/// assert!(metadata.get::<f32>("mamba.block_count").is_err()); // it is of another type
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The file, if it was read from one.
    pub(super) path: PathBuf,
    /// Values as they stand in files, with their types.
    pub(super) values: BTreeMap<String, Vec<u8>>,
}

impl Metadata {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Fault::MissingKey`], [`Fault::OtherType`].
    pub fn get<T: Kind>(&self, key: &str) -> Result<T> {
        let missing = || Fault::MissingKey(key.to_owned(), type_name(T::TYPE));
        let value = self.read(key).and_then(|value| value.ok_or_else(missing));
        value.map_err(Error::at(&self.path))
    }

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// [`Fault::OtherType`].
    pub fn find<T: Kind>(&self, key: &str) -> Result<Option<T>> {
        self.read(key).map_err(Error::at(&self.path))
    }

    fn read<T: Kind>(&self, key: &str) -> Result<Option<T>, Fault> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match value.strip_prefix(T::TYPE) {
            Some(mut value) => T::read(&mut value).map(Some),
            None => {
                let [found, wanted] = [value, T::TYPE].map(type_name);
                Err(Fault::OtherType(key.to_owned(), found, wanted))
            }
        }
    }

    /// What the places of tensors are multiples of, in a file.
    pub(super) fn alignment(&self) -> Result<u32, Fault> {
        let stated = self.read(ALIGNMENT)?.unwrap_or(32_u32);
        let usable = stated.is_power_of_two() && stated <= MOST_ALIGNED;
        usable.then_some(stated).ok_or(Fault::Alignment(stated))
    }

    /// Sets the value of a key.
    pub fn set<T: Kind>(&mut self, key: &str, value: T) {
        let mut stored = T::TYPE.to_vec();
        value.write(&mut stored);
        self.values.insert(key.to_owned(), stored);
    }
}

/// The names of types, by number.
const NAMES: [&str; 13] = [
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "String", "array", "u64", "i64", "f64",
];
/// Bytes of a value of a type, by number; none where they differ.
const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const STRING: u8 = 8;
const ARRAY: u8 = 9;

/// A type of metadata: a number, a bool, a text, or a `Vec` of these.
pub trait Kind: Sized {
    /// What stands before a value: the number of its type in four bytes; before that the one of arrays, for these.
    const TYPE: &'static [u8];

    /// Reads what stands behind the type.
    ///
    /// # Errors
    /// [`Fault::Header`].
    fn read(from: &mut impl Read) -> Result<Self, Fault>;

    /// Writes what stands behind the type.
    fn write(&self, to: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:literal $rust:ty;)+) => {$(
        impl Kind for $rust {
            const TYPE: &'static [u8] = &[$number, 0, 0, 0];

            fn read(from: &mut impl Read) -> Result<Self, Fault> {
                let mut bytes = [0; size_of::<Self>()];
                from.read_exact(&mut bytes)?;
                Ok(Self::from_le_bytes(bytes))
            }

            fn write(&self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }
        }
    )+};
}

numbers! { 0 u8; 1 i8; 2 u16; 3 i16; 4 u32; 5 i32; 6 f32; 10 u64; 11 i64; 12 f64; }

impl Kind for bool {
    const TYPE: &'static [u8] = &[7, 0, 0, 0];

    fn read(from: &mut impl Read) -> Result<Self, Fault> {
        Ok(u8::read(from)? != 0)
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
}

impl Kind for String {
    const TYPE: &'static [u8] = &[STRING, 0, 0, 0];

    fn read(from: &mut impl Read) -> Result<Self, Fault> {
        let length = u64::read(from)?;
        let text = String::from_utf8(take(from, length)?);
        text.map_err(|error| io::Error::other(error).into())
    }

    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u64).write(to);
        to.extend(self.as_bytes());
    }
}

impl<T: Kind> Kind for Vec<T> {
    const TYPE: &'static [u8] = {
        assert!(T::TYPE.len() == 4, "there are no arrays of arrays");
        &[ARRAY, 0, 0, 0, T::TYPE[0], 0, 0, 0]
    };

    fn read(from: &mut impl Read) -> Result<Self, Fault> {
        // Nothing is reserved for a count, which may be wrong: it ends with the header then.
        (0..u64::read(from)?).map(|_| T::read(from)).collect()
    }

    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u64).write(to);
        self.iter().for_each(|value| value.write(to));
    }
}

/// The next bytes. No more memory is taken than there are.
fn take(from: &mut impl Read, count: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let read = from.take(count).read_to_end(&mut bytes)?;
    let whole = (read as u64 == count).then_some(bytes);
    whole.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof).into())
}

/// Reads the value of a key as it stands there, with its type. No more memory is taken than the file has bytes.
pub(super) fn read_any(key: &str, from: &mut impl Read) -> Result<Vec<u8>, Fault> {
    let (mut number, mut count, mut value) = (u32::read(from)?, 1, Vec::new());
    number.write(&mut value);
    if number == u32::from(ARRAY) {
        (number, count) = (u32::read(from)?, u64::read(from)?);
        number.write(&mut value);
        count.write(&mut value);
    }
    match SIZES.get(number as usize) {
        Some(0) if number == u32::from(STRING) => {
            for _ in 0..count {
                String::read(from)?.write(&mut value);
            }
        }
        None | Some(0) => return Err(Fault::Type(key.to_owned(), number)),
        Some(size) => value.extend(take(from, count.saturating_mul(*size))?),
    }
    Ok(value)
}

/// The name of the type that a value begins with.
pub(super) fn type_name(value: &[u8]) -> String {
    match value {
        [ARRAY, _, _, _, of, ..] => format!("array of {}", NAMES[usize::from(*of)]),
        _ => NAMES[usize::from(value[0])].to_owned(),
    }
}
