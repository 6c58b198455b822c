//! Things of several kinds, told apart by the key `kind` of their settings.

/// Declares the kinds of something, each with its settings: an enum that is read and written with the kind's name,
/// which gives the settings of whatever kind as the trait that all of them implement.
macro_rules! kinds {
    ($(#[$about:meta])* $name:ident: $common:ident { $($(#[$doc:meta])* $kind:ident($settings:ty),)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "kind", rename_all = "kebab-case", expecting = "a table with a kind, as { kind = … }")]
        pub enum $name {
            $($(#[$doc])* $kind($settings),)*
        }

        impl std::ops::Deref for $name {
            type Target = dyn $common;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($name::$kind(settings) => settings,)*
                }
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $($name::$kind(settings) => settings,)*
                }
            }
        }

        $(impl From<$settings> for $name {
            fn from(settings: $settings) -> Self {
                $name::$kind(settings)
            }
        })*
    };
}

pub(crate) use kinds;
