//! What the settings of models may be.

use std::ops::RangeInclusive;

use crate::{Error, Result};

/// A size that memory alone bounds.
pub(crate) const SIZE: RangeInclusive<f64> = 1.0..=f64::MAX;

/// Refuses a value that a setting, by its name in recipes, may not have.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn check(setting: &str, found: f64, allowed: RangeInclusive<f64>) -> Result<()> {
    match allowed.contains(&found) {
        true => Ok(()),
        false => Err(Error::Config {
            field: setting.to_owned(),
            found,
            allowed,
        }),
    }
}

/// A list that is written as its element where that is the only one.
pub(crate) mod one_or_many {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
    use serde::de::{MapAccess, SeqAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        list: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match list {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    /// By what is there rather than by trying both, so that errors name what is wrong with the element.
    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }

    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or a list of them")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
}
