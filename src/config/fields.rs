//! Typed structs out of tables of keys.

use std::fmt;

use super::value::Value;

/// A type that a value can become. The conversion cannot fail for a value that passed the key's
/// validator, which a test holds for every key that a typed struct reads.
pub(super) trait FromValue: Sized {
    fn from_value(value: Option<Value>) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $value:expr;)+) => {$(
        impl FromValue for $type {
            fn from_value(value: Option<Value>) -> Option<Self> {
                match value? {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        }
    )+};
}

from_value! {
    bool: Value::Boolean(flag) => flag;
    i16: Value::Short(number) => number;
    i32: Value::Int(number) => number;
    f64: Value::Double(number) => number;
    String: Value::String(text) => text;
    Vec<String>: Value::List(list) => list;
}

/// Of every width, since a key of hours (int) stands in for one of milliseconds (long).
impl FromValue for i64 {
    fn from_value(value: Option<Value>) -> Option<Self> {
        value?.as_integer()
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Option<Value>) -> Option<Self> {
        match value {
            None => Some(None),
            some => T::from_value(some).map(Some),
        }
    }
}

/// Makes an enum of the texts that a key accepts.
macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $crate::config::fields::FromValue for $name {
            fn from_value(value: Option<$crate::config::Value>) -> Option<Self> {
                match value?.as_text()? {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }
    };
}
pub(super) use text_enum;

/// Makes a struct whose fields are read from keys, and the list of those keys.
macro_rules! config_struct {
    ($(#[$meta:meta])* $name:ident from $layers:ty {
        $($(#[$doc:meta])* $field:ident: $type:ty = $key:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $name {
            /// The keys that are read, which are those that have an effect.
            pub const KEYS: &'static [&'static str] = &[$($key,)+];

            /// Resolves every field from the layers.
            pub fn resolve(layers: $layers) -> Self {
                Self {
                    $($field: $crate::config::fields::read($key, layers.find($key)),)+
                }
            }
        }
    };
}
pub(super) use config_struct;

/// Converts what was found for a key.
pub(super) fn read<T: FromValue>(key: &str, found: super::layers::Found) -> T {
    T::from_value(found.value).unwrap_or_else(|| mismatch(key))
}

#[cold]
fn mismatch<T>(key: impl fmt::Display) -> T {
    panic!("the type of {key} in its typed struct does not fit its definition")
}
