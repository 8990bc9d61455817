//! What a record carries: its number, from which all else of it follows.

use ottla::client::{BatchError, Fetched};

use super::{Number, Partition};

/// How many keys there are.
const KEYS: u64 = 997;

/// A record that does not carry a number, or not what belongs to it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The record.
    #[error("the record at {partition}:{offset} carries no number")]
    NoNumber {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
    },
    /// The rest of the record.
    #[error("record {number} at {partition}:{offset} has another key or filling than it was sent")]
    Altered {
        /// Where.
        partition: Partition,
        /// Where.
        offset: i64,
        /// Which it says it is.
        number: Number,
    },
}

/// What a record of this number says: the number, and a filling.
#[must_use]
pub fn value(number: Number, filling_bytes: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(8 + filling_bytes, filling(number));
    value
}

/// The key of the record of this number.
#[must_use]
pub fn key(number: Number) -> String {
    format!("key-{}", number % KEYS)
}

/// Not all zeroes: what a crash tears off reads as zeroes.
const fn filling(number: Number) -> u8 {
    1 + (number % 250) as u8
}

/// The number of a record that was read somewhere.
///
/// # Errors
/// Where it is not as it was sent.
pub fn number(
    partition: Partition,
    offset: i64,
    held: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<Number, ReadError> {
    let (number, rest) = value
        .and_then(|value| value.split_first_chunk::<8>())
        .ok_or(ReadError::NoNumber { partition, offset })?;
    let number = Number::from_be_bytes(*number);
    let sound = rest.iter().all(|byte| *byte == filling(number))
        && held.is_none_or(|held| held == key(number).as_bytes());
    if sound { Ok(number) } else { Err(ReadError::Altered { partition, offset, number }) }
}

/// The offsets and numbers of what was fetched.
///
/// # Errors
/// Where something cannot be read.
pub fn numbers(fetched: &Fetched) -> Result<Vec<(i64, Number)>, ReadError> {
    let partition = fetched.partition.partition;
    let records = fetched.records()?.into_iter().map(|record| {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        Ok((record.offset, number(partition, record.offset, key, value)?))
    });
    records.collect()
}

/// The leader epochs of what was fetched: from which offset on which.
///
/// # Errors
/// Where a batch cannot be read.
pub fn epochs(fetched: &Fetched) -> Result<Vec<(i64, i32)>, BatchError> {
    let mut epochs: Vec<(i64, i32)> = Vec::new();
    for batch in fetched.batches() {
        let epoch = batch.header()?.leader_epoch.0;
        if epochs.last().is_none_or(|(_, last)| *last != epoch) {
            epochs.push((batch.base_offset.max(fetched.from), epoch));
        }
    }
    Ok(epochs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_from_one_that_was_altered() {
        let (key, sent) = (key(7), value(7, 3));
        let read = |key: &str, value: &[u8]| number(0, 5, Some(key.as_bytes()), Some(value));
        assert_eq!(read(&key, &sent).unwrap(), 7);
        assert_eq!(number(0, 5, None, Some(&sent)).unwrap(), 7);
        let mut torn = sent.clone();
        torn[10] = 0;
        assert!(matches!(read(&key, &torn), Err(ReadError::Altered { number: 7, .. })));
        assert!(matches!(read("key-8", &sent), Err(ReadError::Altered { .. })));
        assert!(matches!(read(&key, &sent[..4]), Err(ReadError::NoNumber { offset: 5, .. })));
    }
}
