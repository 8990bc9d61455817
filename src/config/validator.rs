//! What a value must satisfy beyond its type.

use super::value::{InvalidReason, Value};

/// A condition on the values of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Validator {
    /// Every value of the type.
    Any,
    /// An integer in this closed range.
    Between(i64, i64),
    /// An integer in this closed range, or this one value beside it.
    BetweenOr(i64, i64, i64),
    /// A number in this closed range.
    Fraction(f64, f64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// One of these texts in any case.
    OneOfAnyCase(&'static [&'static str]),
    /// A text of at least one character.
    NonEmpty,
    /// A list without duplicates; empty where the flag says so.
    List {
        /// Whether a list of no elements will do.
        may_be_empty: bool,
    },
    /// A list without duplicates of these texts.
    ListOf {
        /// The texts that it may hold.
        allowed: &'static [&'static str],
        /// Whether a list of no elements will do.
        may_be_empty: bool,
    },
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
    /// `earliest`, `latest` or `by_duration:` with an ISO-8601 duration.
    OffsetReset,
    /// A list of `host:port`.
    Endpoints,
}

/// A floor without a ceiling.
pub(super) const fn at_least(floor: i64) -> Validator {
    Validator::Between(floor, i64::MAX)
}

impl Validator {
    /// Checks a value that already has the right type.
    pub fn check(self, value: &Value) -> Result<(), InvalidReason> {
        match self {
            Self::Any => Ok(()),
            Self::Between(low, high) => check_range(value, low, high, None),
            Self::BetweenOr(low, high, other) => check_range(value, low, high, Some(other)),
            Self::Fraction(low, high) => match value {
                Value::Double(number) if !(low..=high).contains(number) => {
                    Err(InvalidReason::NotBetween { low, high })
                }
                _ => Ok(()),
            },
            Self::OneOf(allowed) => match value.as_text() {
                Some(text) if !allowed.contains(&text) => Err(InvalidReason::NotOneOf { allowed }),
                _ => Ok(()),
            },
            Self::OneOfAnyCase(allowed) => match value.as_text() {
                Some(text) if !allowed.iter().any(|one| one.eq_ignore_ascii_case(text)) => {
                    Err(InvalidReason::NotOneOf { allowed })
                }
                _ => Ok(()),
            },
            Self::NonEmpty => match value.as_text() {
                Some("") => Err(InvalidReason::Empty),
                _ => Ok(()),
            },
            Self::List { may_be_empty } => check_list(value, may_be_empty),
            Self::ListOf { allowed, may_be_empty } => {
                check_list(value, may_be_empty)?;
                match value.as_list().iter().all(|one| allowed.contains(&one.as_str())) {
                    true => Ok(()),
                    false => Err(InvalidReason::NotAllOf { allowed }),
                }
            }
            Self::ThrottledReplicas => match value.as_list() {
                [all] if all == "*" => Ok(()),
                pairs if pairs.iter().all(|pair| is_replica(pair)) => Ok(()),
                _ => Err(InvalidReason::NotReplicas),
            },
            Self::OffsetReset => match value.as_text() {
                Some(text) if !is_offset_reset(text) => Err(InvalidReason::NotOffsetReset),
                _ => Ok(()),
            },
            Self::Endpoints => match value.as_list().iter().all(|one| is_endpoint(one)) {
                true => Ok(()),
                false => Err(InvalidReason::NotEndpoints),
            },
        }
    }

    /// What it accepts, in words, for documentation; `None` where the type says it all.
    pub fn describe(self) -> Option<String> {
        let text = match self {
            Self::Any => return None,
            Self::Between(low, i64::MAX) => format!("at least {low}"),
            Self::Between(low, high) => format!("{low} to {high}"),
            Self::BetweenOr(low, high, other) => format!("{low} to {high}, or {other}"),
            Self::Fraction(low, high) => format!("{low} to {high}"),
            Self::OneOf(allowed) => format!("one of {}", allowed.join(", ")),
            Self::OneOfAnyCase(allowed) => format!("one of {} (any case)", allowed.join(", ")),
            Self::NonEmpty => "not empty".to_owned(),
            Self::List { may_be_empty: true } => "no duplicates".to_owned(),
            Self::List { may_be_empty: false } => "at least one, no duplicates".to_owned(),
            Self::ListOf { allowed, .. } => format!("any of {}", allowed.join(", ")),
            Self::ThrottledReplicas => "* or PARTITION:BROKER,…".to_owned(),
            Self::OffsetReset => "earliest, latest or by_duration:DURATION".to_owned(),
            Self::Endpoints => "HOST:PORT,…".to_owned(),
        };
        Some(text)
    }
}

fn check_range(value: &Value, low: i64, high: i64, or: Option<i64>) -> Result<(), InvalidReason> {
    match value.as_integer() {
        Some(number) if (low..=high).contains(&number) || or == Some(number) => Ok(()),
        Some(_) if high == i64::MAX => Err(InvalidReason::TooSmall { low }),
        Some(_) => Err(InvalidReason::OutOfRange { low, high, or }),
        None => Ok(()),
    }
}

fn check_list(value: &Value, may_be_empty: bool) -> Result<(), InvalidReason> {
    let list = value.as_list();
    if list.is_empty() && !may_be_empty {
        return Err(InvalidReason::Empty);
    }
    if list.iter().any(String::is_empty) {
        return Err(InvalidReason::EmptyElement);
    }
    match list.iter().enumerate().find(|(index, one)| list[..*index].contains(*one)) {
        Some((_, twice)) => Err(InvalidReason::Duplicate { element: twice.clone() }),
        None => Ok(()),
    }
}

fn is_replica(text: &str) -> bool {
    let Some((partition, broker)) = text.split_once(':') else { return false };
    [partition, broker].iter().all(|part| part.parse::<u32>().is_ok())
}

fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && port.parse::<u16>().is_ok()
}

/// Accepts what Kafka does of ISO-8601: days, hours, minutes and seconds, not negative.
fn is_offset_reset(text: &str) -> bool {
    let Some(duration) = text.strip_prefix("by_duration:") else {
        return matches!(text, "earliest" | "latest");
    };
    let Some(rest) = duration.strip_prefix(['P', 'p']) else { return false };
    let (days, time) = match rest.split_once(['T', 't']) {
        Some((_, "")) => return false,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    !(days.is_empty() && time.is_empty()) && has_units(days, "D") && has_units(time, "HMS")
}

/// Whether a text is a run of numbers, each followed by one of the units, in their order.
fn has_units(text: &str, units: &str) -> bool {
    let mut left = units.chars();
    let mut digits = 0;
    for letter in text.chars() {
        if letter.is_ascii_digit() || letter == '.' {
            digits += 1;
            continue;
        }
        if digits == 0 || !left.by_ref().any(|unit| unit == letter.to_ascii_uppercase()) {
            return false;
        }
        digits = 0;
    }
    digits == 0
}
