//! Writes messages by their shape, for tests: random ones, and ones that take as much memory for as
//! few bytes as an array allows.
//!
//! The unit tests use it as a part of the module, `tests/decode_memory.rs` by its path.

use std::ptr;

use bytes::BufMut;
use kafka_protocol::messages::ApiKey;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

use super::table::{Field, Kind, Message, REQUESTS, RESPONSES, Table};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Direction {
    Request,
    Response,
}

use Direction::{Request, Response};

/// Every message that the codec knows, in every version.
pub(super) fn all_messages() -> impl Iterator<Item = (Direction, ApiKey, i16)> {
    ApiKey::iter().flat_map(|key| {
        [Request, Response].into_iter().flat_map(move |direction| {
            shape(direction, key).versions.iter().map(move |version| (direction, key, version))
        })
    })
}

pub(super) fn shape(direction: Direction, key: ApiKey) -> &'static Message {
    let table: &'static Table = if direction == Request { &REQUESTS } else { &RESPONSES };
    table.find(key).unwrap()
}

/// How long what is written becomes.
enum Lengths {
    /// Anything from nothing to three elements.
    Random,
    /// `array` has `count` elements with as little in them as there may be, or one unknown tagged
    /// field. Arrays around it have one element.
    Dense { array: &'static Kind, count: usize, tagged: bool, within: bool },
}

pub(super) struct Writer {
    rng: SmallRng,
    pub(super) out: Vec<u8>,
    version: i16,
    flexible: bool,
    lengths: Lengths,
}

/// A random message.
pub(super) fn write(direction: Direction, key: ApiKey, version: i16, seed: u64) -> Vec<u8> {
    Writer::new(direction, key, version, seed, Lengths::Random).message(direction, key)
}

/// A message whose `array` has `count` elements that take the least bytes, or a few more for an
/// unknown tagged field in each.
pub(super) fn write_dense(
    (direction, key, version): (Direction, ApiKey, i16),
    array: &'static Kind,
    count: usize,
    tagged: bool,
) -> Vec<u8> {
    let lengths = Lengths::Dense { array, count, tagged, within: false };
    Writer::new(direction, key, version, 0, lengths).message(direction, key)
}

/// All arrays that a message has in this version, at any depth.
pub(super) fn arrays(direction: Direction, key: ApiKey, version: i16) -> Vec<&'static Kind> {
    fn collect(kind: &'static Kind, version: i16, found: &mut Vec<&'static Kind>) {
        match kind {
            Kind::Array { element, .. } => {
                found.push(kind);
                collect(element, version, found);
            }
            Kind::Struct(fields) => {
                for field in fields.iter().filter(|field| field.versions.contains(version)) {
                    collect(&field.kind, version, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for field in &shape(direction, key).fields {
        if field.versions.contains(version) {
            collect(&field.kind, version, &mut found);
        }
    }
    found
}

/// Flips a bit, cuts, inserts, or puts in an extreme number.
pub(super) fn damage(bytes: &mut Vec<u8>, rng: &mut impl Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..5) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes.insert(at, rng.random()),
        3 => overwrite(bytes, at, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        _ => overwrite(bytes, at, &i32::MAX.to_be_bytes()),
    }
}

/// Replaces what is at `at`, as far as the message reaches.
pub(super) fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let end = (at + with.len()).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}

impl Writer {
    fn new(direction: Direction, key: ApiKey, version: i16, seed: u64, lengths: Lengths) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            out: Vec::new(),
            version,
            flexible: shape(direction, key).flexible.contains(version),
            lengths,
        }
    }

    /// The header alone.
    pub(super) fn of_header(direction: Direction, key: ApiKey, version: i16) -> Self {
        let mut writer = Self::new(direction, key, version, 0, Lengths::Random);
        writer.header(direction, key);
        writer
    }

    fn message(mut self, direction: Direction, key: ApiKey) -> Vec<u8> {
        self.header(direction, key);
        self.fields(&shape(direction, key).fields);
        self.out
    }

    fn header(&mut self, direction: Direction, key: ApiKey) {
        let tags = match direction {
            Request => {
                self.out.put_i16(key as i16);
                self.out.put_i16(self.version);
                self.out.put_i32(7);
                self.out.put_i16(2);
                self.out.put_slice(b"me");
                key.request_header_version(self.version) >= 2
            }
            Response => {
                self.out.put_i32(7);
                key.response_header_version(self.version) >= 1
            }
        };
        if tags {
            self.out.put_u8(0);
        }
    }

    fn fields(&mut self, fields: &'static [Field]) {
        let present = |field: &&Field| field.versions.contains(self.version);
        let fields: Vec<_> = fields.iter().filter(present).collect();
        for field in fields.iter().filter(|field| field.tag.is_none()) {
            self.field(field);
        }
        if !self.flexible {
            return;
        }
        let mut tagged: Vec<_> = fields.into_iter().filter(|field| field.tag.is_some()).collect();
        let (any_known, unknown) = match self.lengths {
            Lengths::Random => (true, self.rng.random_ratio(1, 8)),
            Lengths::Dense { within, tagged, .. } => (!within, within && tagged),
        };
        tagged.retain(|_| any_known && self.is_written());
        tagged.sort_by_key(|field| field.tag);
        self.uvarint(tagged.len() + usize::from(unknown));
        for field in tagged {
            let before = std::mem::take(&mut self.out);
            self.field(field);
            let value = std::mem::replace(&mut self.out, before);
            self.uvarint(field.tag.unwrap() as usize);
            self.uvarint(value.len());
            self.out.extend(value);
        }
        if unknown {
            let value: &[u8] = if any_known { b"new" } else { b"" };
            self.uvarint(9999);
            self.uvarint(value.len());
            self.out.extend(value);
        }
    }

    /// Whether to write what may be left out: always, around a dense array.
    fn is_written(&mut self) -> bool {
        match self.lengths {
            Lengths::Random => self.rng.random(),
            Lengths::Dense { within, .. } => !within,
        }
    }

    fn field(&mut self, field: &'static Field) {
        let nullable = field.nullable.contains(self.version);
        let null = nullable && !self.is_written();
        match &field.kind {
            Kind::Struct(_) if null => self.out.put_i8(-1),
            Kind::Struct(fields) => {
                if nullable {
                    self.out.put_i8(1);
                }
                self.fields(fields);
            }
            Kind::Text if null && !self.flexible => self.out.put_i16(-1),
            _ if null && self.flexible => self.out.put_u8(0),
            _ if null => self.out.put_i32(-1),
            kind => self.value(kind),
        }
    }

    fn value(&mut self, kind: &'static Kind) {
        let length = match &self.lengths {
            Lengths::Random => self.rng.random_range(0..=3),
            Lengths::Dense { array, count, .. } if ptr::eq(*array, kind) => *count,
            Lengths::Dense { within, .. } => {
                usize::from(!within && matches!(kind, Kind::Array { .. }))
            }
        };
        match kind {
            // Small numbers, as some are checked to be bool or the like.
            Kind::Fixed(bytes) => {
                self.out.extend(std::iter::repeat_n(0, bytes - 1));
                self.out.push(self.rng.random_range(0..2));
            }
            Kind::Text if !self.flexible => {
                self.out.put_i16(length as i16);
                self.out.extend(std::iter::repeat_n(b'x', length));
            }
            Kind::Text | Kind::Bytes => {
                self.length(length);
                self.out.extend(std::iter::repeat_n(b'x', length));
            }
            Kind::Struct(fields) => self.fields(fields),
            Kind::Array { element, .. } => {
                self.length(length);
                self.enter(kind, true);
                (0..length).for_each(|_| self.value(element));
                self.enter(kind, false);
            }
        }
    }

    /// Whether what follows is inside the dense array.
    fn enter(&mut self, kind: &'static Kind, inside: bool) {
        if let Lengths::Dense { array, within, .. } = &mut self.lengths
            && ptr::eq(*array, kind)
        {
            *within = inside;
        }
    }

    fn length(&mut self, length: usize) {
        if self.flexible {
            self.uvarint(length + 1);
        } else {
            self.out.put_i32(length as i32);
        }
    }

    pub(super) fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}
