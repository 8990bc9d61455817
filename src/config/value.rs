//! Values: parsed from text and printed as Kafka does, so that what DescribeConfigs shows is what
//! Kafka's own tools expect.

use std::fmt;

use super::definition::ValueType;

/// A value of a key, of the type that its definition names.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// 16 bits, signed.
    Short(i16),
    /// 32 bits, signed.
    Int(i32),
    /// 64 bits, signed.
    Long(i64),
    /// A floating-point number.
    Double(f64),
    /// Any text, also the name of a class.
    String(String),
    /// Texts parted by commas.
    List(Vec<String>),
    /// A text that neither `Debug` nor `Display` shows.
    Password(String),
}

/// Why a text is no value of a key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidReason {
    /// Not of the key's type.
    #[error("not a {0}")]
    WrongType(ValueType),
    /// Below the least value.
    #[error("must be at least {low}")]
    TooSmall {
        /// The least value.
        low: i64,
    },
    /// Outside of a closed range.
    #[error("must be between {low} and {high}{}", .or.map(|or| format!(", or {or}")).unwrap_or_default())]
    OutOfRange {
        /// The least value.
        low: i64,
        /// The greatest value.
        high: i64,
        /// A value outside of the range that will do as well.
        or: Option<i64>,
    },
    /// Outside of a closed range of fractions.
    #[error("must be between {low} and {high}")]
    NotBetween {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// None of the values that the key knows.
    #[error("must be one of {}", .allowed.join(", "))]
    NotOneOf {
        /// The values that the key knows.
        allowed: &'static [&'static str],
    },
    /// A list with an element that the key does not know.
    #[error("may only hold {}", .allowed.join(", "))]
    NotAllOf {
        /// The elements that the key knows.
        allowed: &'static [&'static str],
    },
    /// Empty, where something is needed.
    #[error("must not be empty")]
    Empty,
    /// An empty element in a list.
    #[error("must not hold an empty element")]
    EmptyElement,
    /// The same element twice.
    #[error("holds {element} twice")]
    Duplicate {
        /// The element.
        element: String,
    },
    /// Not a list of throttled replicas.
    #[error("must be * or a list of PARTITION:BROKER")]
    NotReplicas,
    /// Not a place to start reading from.
    #[error("must be earliest, latest or by_duration: with a duration such as PT1H")]
    NotOffsetReset,
    /// Not a list of addresses.
    #[error("must be a list of HOST:PORT")]
    NotEndpoints,
}

impl Value {
    /// Parses a text as Kafka parses a property: trimmed, `true` and `false` in any case, lists
    /// parted by commas with spaces around them ignored, an empty text being the empty list.
    pub fn parse(value_type: ValueType, text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        let wrong = || InvalidReason::WrongType(value_type);
        Ok(match value_type {
            ValueType::Boolean if text.eq_ignore_ascii_case("true") => Self::Boolean(true),
            ValueType::Boolean if text.eq_ignore_ascii_case("false") => Self::Boolean(false),
            ValueType::Boolean => return Err(wrong()),
            ValueType::Short => Self::Short(text.parse().map_err(|_| wrong())?),
            ValueType::Int => Self::Int(text.parse().map_err(|_| wrong())?),
            ValueType::Long => Self::Long(text.parse().map_err(|_| wrong())?),
            ValueType::Double => match text.parse::<f64>() {
                // Differs from Kafka: "NaN" is no number here; Kafka takes it and then misbehaves.
                Ok(number) if !number.is_nan() => Self::Double(number),
                _ => return Err(wrong()),
            },
            ValueType::String | ValueType::Class => Self::String(text.to_owned()),
            ValueType::Password => Self::Password(text.to_owned()),
            ValueType::List if text.is_empty() => Self::List(Vec::new()),
            ValueType::List => {
                Self::List(text.split(',').map(|one| one.trim().to_owned()).collect())
            }
        })
    }

    /// The number of an integer value of any width.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Short(number) => Some(i64::from(*number)),
            Self::Int(number) => Some(i64::from(*number)),
            Self::Long(number) => Some(*number),
            _ => None,
        }
    }

    /// The text of a string or class value.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list value; empty for every other value.
    pub fn as_list(&self) -> &[String] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }

    /// The value as a property's text, a password as well. Never for logs.
    pub fn to_property(&self) -> String {
        match self {
            Self::Password(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(flag) => write!(f, "{flag}"),
            Self::Short(number) => write!(f, "{number}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Long(number) => write!(f, "{number}"),
            Self::Double(number) => write_double(f, *number),
            Self::String(text) => f.write_str(text),
            Self::List(list) => f.write_str(&list.join(",")),
            Self::Password(_) => f.write_str("[hidden]"),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prints a number as Java's `Double.toString`, which is what clients of DescribeConfigs see.
fn write_double(f: &mut fmt::Formatter<'_>, number: f64) -> fmt::Result {
    if number.is_infinite() {
        return f.write_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if number == 0.0 || (1e-3..1e7).contains(&number.abs()) {
        return write!(f, "{number:?}");
    }
    let text = format!("{number:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => {
            write!(f, "{mantissa}.0E{exponent}")
        }
        _ => f.write_str(&text),
    }
}
