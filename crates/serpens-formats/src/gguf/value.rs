//! The types of metadata: their numbers, and how they are read and written.

use super::Fault;
use super::header::Header;
use crate::Result;

/// The number of the type of arrays.
const ARRAY: u32 = 9;

/// A type of metadata: a number, a bool, a text, or a `Vec` of these.
pub trait Kind: Into<Value> + Sized {
    /// Its name.
    const NAME: &'static str;

    /// The value, where it is of this type.
    fn of(value: &Value) -> Option<&Self>;
}

/// A value that has one form in files.
pub(super) trait Stored: Sized {
    fn read(header: &mut Header<'_>) -> Result<Self>;
    fn write(&self, to: &mut Vec<u8>);
}

macro_rules! kinds {
    ($($number:literal $name:ident $plural:ident: $rust:ty, $doc:literal;)+) => {
        /// A value of the metadata, of any of the format's types; there are no arrays of arrays.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(
                #[doc = $doc]
                $name($rust),
                #[doc = concat!("An array: ", $doc)]
                $plural(Vec<$rust>),
            )+
        }

        impl Value {
            /// The name of its type.
            pub fn name(&self) -> &'static str {
                match self {
                    $(
                        Value::$name(_) => <$rust>::NAME,
                        Value::$plural(_) => Vec::<$rust>::NAME,
                    )+
                }
            }

            /// Reads the number of the type of the value of a key, and the value.
            pub(super) fn read(header: &mut Header<'_>, key: &str) -> Result<Self> {
                let mut number = u32::read(header)?;
                let is_array = number == ARRAY;
                if is_array {
                    number = u32::read(header)?;
                }
                match (is_array, number) {
                    $(
                        (false, $number) => Ok(Value::$name(Stored::read(header)?)),
                        (true, $number) => Ok(Value::$plural(Stored::read(header)?)),
                    )+
                    _ => Err(header.error(Fault::Type { key: key.to_owned(), number })),
                }
            }

            /// Writes the number of its type and the value.
            pub(super) fn write(&self, to: &mut Vec<u8>) {
                match self {
                    $(
                        Value::$name(value) => {
                            u32::write(&$number, to);
                            value.write(to);
                        }
                        Value::$plural(values) => {
                            [ARRAY, $number].iter().for_each(|number| number.write(to));
                            values.write(to);
                        }
                    )+
                }
            }
        }

        $(
            kinds!(one $name, $rust, stringify!($rust));
            kinds!(one $plural, Vec<$rust>, concat!("array of ", stringify!($rust)));
        )+
    };
    (one $name:ident, $rust:ty, $text:expr) => {
        impl From<$rust> for Value {
            fn from(value: $rust) -> Self {
                Value::$name(value)
            }
        }

        impl Kind for $rust {
            const NAME: &'static str = $text;

            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$name(value) => Some(value),
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    0 U8 U8s: u8, "Bytes.";
    1 I8 I8s: i8, "Signed bytes.";
    2 U16 U16s: u16, "Unsigned, of two bytes.";
    3 I16 I16s: i16, "Signed, of two bytes.";
    4 U32 U32s: u32, "Unsigned, of four bytes.";
    5 I32 I32s: i32, "Signed, of four bytes.";
    6 F32 F32s: f32, "Single precision.";
    7 Bool Bools: bool, "Yes or no.";
    8 String Strings: String, "Text.";
    10 U64 U64s: u64, "Unsigned, of eight bytes.";
    11 I64 I64s: i64, "Signed, of eight bytes.";
    12 F64 F64s: f64, "Double precision.";
}

macro_rules! numbers {
    ($($rust:ty)+) => {
        $(
            impl Stored for $rust {
                fn read(header: &mut Header<'_>) -> Result<Self> {
                    Ok(<$rust>::from_le_bytes(header.take()?))
                }

                fn write(&self, to: &mut Vec<u8>) {
                    to.extend(self.to_le_bytes());
                }
            }
        )+
    };
}

numbers! { u8 i8 u16 i16 u32 i32 f32 u64 i64 f64 }

impl Stored for bool {
    fn read(header: &mut Header<'_>) -> Result<Self> {
        Ok(u8::read(header)? != 0)
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
}

impl Stored for String {
    fn read(header: &mut Header<'_>) -> Result<Self> {
        let length = u64::read(header)?;
        let text = String::from_utf8(header.bytes(length)?);
        text.map_err(|_| header.error(Fault::Text))
    }

    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u64).write(to);
        to.extend(self.as_bytes());
    }
}

impl<T: Stored> Stored for Vec<T> {
    fn read(header: &mut Header<'_>) -> Result<Self> {
        // Nothing is reserved for a count, which may be wrong: it ends with the header then.
        (0..u64::read(header)?).map(|_| T::read(header)).collect()
    }

    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u64).write(to);
        self.iter().for_each(|value| value.write(to));
    }
}
