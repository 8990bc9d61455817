//! Walks messages over their raw bytes before the codec decodes them.
//!
//! The codec reserves memory by the counts that it reads (`Vec::with_capacity`), so that eight
//! bytes could ask for gigabytes. This guard follows the shape of each message, and passes it only
//! if every count and length is backed by bytes that arrived. What it passes may still fail to
//! decode, where text is not UTF-8, but it costs no more than [`Walked::memory_bytes`].
//!
//! It also holds the limits that Kafka 4.4 introduced, here for each message as a whole: a million
//! array elements and ten thousand tagged fields.
//!
//! Stricter than the codec where that is what Kafka says: null only where a field may be null, no
//! variable-length integer beyond 32 bits, no tagged field that is longer or shorter than it says.

mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[expect(dead_code, reason = "tests/decode_memory.rs uses all of it")]
mod writer;

use kafka_protocol::messages::ApiKey;
use table::{Field, Kind, Message};

/// The most elements that a message's arrays may have together.
pub const MAX_ELEMENTS: usize = 1_000_000;
/// The most tagged fields that a message may have.
pub const MAX_TAGGED_FIELDS: usize = 10_000;

/// What a map takes for its first entries; see the layout of `BTreeMap`.
const MAP_NODE_BYTES: usize = 512;
/// What a map takes for each entry beyond, with half-full nodes.
const MAP_ENTRY_BYTES: usize = 96;

/// What the guard found out about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// About how much memory the decoded message takes beside the frame, which it shares.
    pub memory_bytes: usize,
    /// How far the message reaches. Whatever follows is ignored, as Kafka does.
    pub size_bytes: usize,
}

/// A message that must not reach the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The codec has no such message.
    #[error("the message is not known in this version")]
    Unknown,
    /// It ends before it should.
    #[error("the message ends within {field}")]
    Truncated { field: &'static str },
    /// A length or count is below -1, or null where that is not allowed.
    #[error("{field} cannot be null or have a negative length")]
    Null { field: &'static str },
    /// A variable-length integer has more than 32 bits.
    #[error("a variable-length integer in {field} does not end")]
    Varint { field: &'static str },
    /// A tagged field does not fill the size it gave.
    #[error("the tagged field {field} has another size than it says")]
    TagSize { field: &'static str },
    /// More array elements than [`MAX_ELEMENTS`].
    #[error("more than a million array elements, at {field}")]
    Elements { field: &'static str },
    /// More tagged fields than [`MAX_TAGGED_FIELDS`].
    #[error("more than ten thousand tagged fields")]
    Tags,
}

/// Walks a request, header included.
///
/// # Errors
/// See [`ShapeError`].
pub fn check_request(key: ApiKey, version: i16, bytes: &[u8]) -> Result<Walked, ShapeError> {
    let message = table::REQUESTS.find(key).ok_or(ShapeError::Unknown)?;
    let mut walk = Walk::new(message, version, bytes)?;
    walk.take("header", 8)?;
    // The client id is never in the compact form, so that the header can be read up to it before
    // its version is understood.
    let length = i16::from_be_bytes(walk.array("client_id")?);
    walk.take_nullable("client_id", i64::from(length), true)?;
    if key.request_header_version(version) >= 2 {
        walk.tags(&[])?;
    }
    walk.message(message)
}

/// Walks a response, header included.
///
/// # Errors
/// See [`ShapeError`].
pub fn check_response(key: ApiKey, version: i16, bytes: &[u8]) -> Result<Walked, ShapeError> {
    let message = table::RESPONSES.find(key).ok_or(ShapeError::Unknown)?;
    let mut walk = Walk::new(message, version, bytes)?;
    walk.take("header", 4)?;
    if key.response_header_version(version) >= 1 {
        walk.tags(&[])?;
    }
    walk.message(message)
}

struct Walk<'a> {
    rest: &'a [u8],
    size_bytes: usize,
    version: i16,
    flexible: bool,
    elements: usize,
    tagged_fields: usize,
    memory_bytes: usize,
}

impl<'a> Walk<'a> {
    fn new(message: &Message, version: i16, bytes: &'a [u8]) -> Result<Self, ShapeError> {
        if !message.versions.contains(version) {
            return Err(ShapeError::Unknown);
        }
        Ok(Self {
            rest: bytes,
            size_bytes: bytes.len(),
            version,
            flexible: message.flexible.contains(version),
            elements: 0,
            tagged_fields: 0,
            memory_bytes: 0,
        })
    }

    fn message(mut self, message: &'static Message) -> Result<Walked, ShapeError> {
        self.fields(&message.fields)?;
        Ok(Walked {
            memory_bytes: self.memory_bytes,
            size_bytes: self.size_bytes - self.rest.len(),
        })
    }

    fn fields(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        for field in fields {
            if field.tag.is_none() && field.versions.contains(self.version) {
                self.field(field)?;
            }
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn field(&mut self, field: &'static Field) -> Result<(), ShapeError> {
        let nullable = field.nullable.contains(self.version);
        match &field.kind {
            Kind::Struct(fields) if nullable => match self.array(field.name)? {
                [0xff] => Ok(()),
                [1] => self.fields(fields),
                _ => Err(ShapeError::Null { field: field.name }),
            },
            kind => self.value(field.name, kind, nullable),
        }
    }

    fn value(
        &mut self,
        name: &'static str,
        kind: &'static Kind,
        nullable: bool,
    ) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(bytes) => self.take(name, *bytes).map(drop),
            Kind::Text if !self.flexible => {
                let length = i16::from_be_bytes(self.array(name)?);
                self.take_nullable(name, i64::from(length), nullable)
            }
            Kind::Text | Kind::Bytes => {
                let length = self.length(name)?;
                self.take_nullable(name, length, nullable)
            }
            Kind::Struct(fields) => self.fields(fields),
            Kind::Array { element, element_memory_bytes } => {
                let length = self.length(name)?;
                if length == -1 && nullable {
                    return Ok(());
                }
                let count =
                    usize::try_from(length).map_err(|_| ShapeError::Null { field: name })?;
                self.elements(name, count, element, *element_memory_bytes)
            }
        }
    }

    fn elements(
        &mut self,
        name: &'static str,
        count: usize,
        element: &'static Kind,
        element_memory_bytes: usize,
    ) -> Result<(), ShapeError> {
        // No element takes less than a byte.
        if count > self.rest.len() {
            return Err(ShapeError::Truncated { field: name });
        }
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            return Err(ShapeError::Elements { field: name });
        }
        self.memory_bytes += count * element_memory_bytes;
        if let Kind::Fixed(bytes) = element {
            return self.take(name, count * bytes).map(drop);
        }
        (0..count).try_for_each(|_| self.value(name, element, false))
    }

    /// Tagged fields: those of `fields` that have a tag, and any that nobody knows.
    fn tags(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        const TAGS: &str = "tagged fields";
        let count = self.uvarint(TAGS)? as usize;
        self.tagged_fields = self.tagged_fields.saturating_add(count);
        if self.tagged_fields > MAX_TAGGED_FIELDS {
            return Err(ShapeError::Tags);
        }
        let mut unknown = 0;
        for _ in 0..count {
            let tag = self.uvarint(TAGS)?;
            let size = self.uvarint(TAGS)? as usize;
            if size > self.rest.len() {
                return Err(ShapeError::Truncated { field: TAGS });
            }
            let known = fields
                .iter()
                .find(|field| field.tag == Some(tag) && field.versions.contains(self.version));
            let Some(field) = known else {
                self.take(TAGS, size)?;
                unknown += 1;
                continue;
            };
            let end = self.rest.len() - size;
            self.field(field)?;
            if self.rest.len() != end {
                return Err(ShapeError::TagSize { field: field.name });
            }
        }
        if unknown > 0 {
            self.memory_bytes += MAP_NODE_BYTES + unknown * MAP_ENTRY_BYTES;
        }
        Ok(())
    }

    /// The length of an array or byte string, or -1 for null.
    fn length(&mut self, name: &'static str) -> Result<i64, ShapeError> {
        if self.flexible {
            Ok(i64::from(self.uvarint(name)?) - 1)
        } else {
            Ok(i64::from(i32::from_be_bytes(self.array(name)?)))
        }
    }

    fn take_nullable(
        &mut self,
        name: &'static str,
        length: i64,
        nullable: bool,
    ) -> Result<(), ShapeError> {
        if length == -1 && nullable {
            return Ok(());
        }
        let length = usize::try_from(length).map_err(|_| ShapeError::Null { field: name })?;
        self.take(name, length).map(drop)
    }

    fn uvarint(&mut self, name: &'static str) -> Result<u32, ShapeError> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array(name)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let fits = shift < 28 || byte < 0x10;
                return if fits { Ok(value) } else { Err(ShapeError::Varint { field: name }) };
            }
        }
        Err(ShapeError::Varint { field: name })
    }

    fn array<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], ShapeError> {
        let (array, rest) =
            self.rest.split_first_chunk::<N>().ok_or(ShapeError::Truncated { field: name })?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, name: &'static str, length: usize) -> Result<&'a [u8], ShapeError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(ShapeError::Truncated { field: name })?;
        self.rest = rest;
        Ok(taken)
    }
}
