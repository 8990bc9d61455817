//! The shapes of all messages that the codec knows, parsed once from two short texts.
//!
//! `requests.txt` and `responses.txt` state facts of Kafka's message definitions. A line that
//! starts with a number opens a message: its API key, name, versions, and from which version on it
//! is flexible (KIP-482). The fields follow in their order on the wire, each as
//!
//! ```text
//! Name:[]type?2+@4-7#1     [] array · ? nullable (from a version on) · @ versions · # tag
//! Name:[]?@10+{ … }        the same for structs
//! ```
//!
//! Without `@` a field is in every version that its surroundings are in.

use std::{iter::Peekable, mem::size_of, str::FromStr, sync::LazyLock};

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;

/// The shapes of one direction's messages; found by API key.
pub(super) struct Table(Vec<Option<Message>>);

pub(super) static REQUESTS: LazyLock<Table> =
    LazyLock::new(|| Table::parse(include_str!("requests.txt")));
pub(super) static RESPONSES: LazyLock<Table> =
    LazyLock::new(|| Table::parse(include_str!("responses.txt")));

/// The shape of one message in all its versions.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) versions: Versions,
    pub(super) flexible: Versions,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) versions: Versions,
    pub(super) nullable: Versions,
    pub(super) tag: Option<u32>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Takes this many bytes.
    Fixed(usize),
    Text,
    Bytes,
    Struct(Vec<Field>),
    Array {
        element: Box<Self>,
        /// What an element takes in the decoded message's array.
        element_memory_bytes: usize,
    },
}

/// An inclusive range of versions; `1..=0` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions(i16, i16);

impl Versions {
    const ALL: Self = Self(i16::MIN, i16::MAX);
    const NONE: Self = Self(1, 0);

    pub(super) const fn contains(self, version: i16) -> bool {
        self.0 <= version && version <= self.1
    }

    #[cfg(test)]
    pub(super) fn iter(self) -> std::ops::RangeInclusive<i16> {
        self.0..=self.1
    }
}

impl FromStr for Versions {
    type Err = std::num::ParseIntError;

    /// `4` · `4+` · `-4` · `4-7`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(last) = text.strip_prefix('-') {
            return Ok(Self(0, last.parse()?));
        }
        if let Some(first) = text.strip_suffix('+') {
            return Ok(Self(first.parse()?, i16::MAX));
        }
        match text.split_once('-') {
            Some((first, last)) => Ok(Self(first.parse()?, last.parse()?)),
            None => text.parse().map(|only| Self(only, only)),
        }
    }
}

/// The parser runs over constants that a test has parsed: it can only fail while the texts are
/// being changed.
const WRONG: &str = "the table of shapes is written as its module says";

impl Table {
    /// The shape of `key`'s message.
    pub(super) fn find(&self, key: ApiKey) -> Option<&Message> {
        self.0.get(usize::try_from(key as i16).ok()?)?.as_ref()
    }

    fn parse(text: &'static str) -> Self {
        let mut table = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let mut words = line.split(' ');
            let mut word = || words.next().expect(WRONG);
            let key: usize = word().parse().expect(WRONG);
            let (_name, versions) = (word(), word().parse().expect(WRONG));
            let flexible = match words.next() {
                None => Versions::NONE,
                Some(_) => words.next().expect(WRONG).parse().expect(WRONG),
            };
            let mut fields = Vec::new();
            let mut tokens = tokens(&mut lines);
            parse_fields(&mut tokens.drain(..).peekable(), &mut fields);
            table.resize_with(table.len().max(key + 1), || None);
            table[key] = Some(Message { versions, flexible, fields });
        }
        Self(table)
    }
}

/// Words, `{` and `}` of the lines that belong to one message.
fn tokens(lines: &mut Peekable<std::str::Lines<'static>>) -> Vec<&'static str> {
    let mut tokens = Vec::new();
    while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
        for piece in line.split_inclusive([' ', '{', '}']) {
            let (word, end) = piece.split_at(piece.len() - 1);
            let (word, end) = match end {
                " " | "{" | "}" => (word, end),
                _ => (piece, ""),
            };
            tokens.extend([word, end].into_iter().filter(|token| !token.trim().is_empty()));
        }
    }
    tokens
}

fn parse_fields<I>(tokens: &mut Peekable<I>, fields: &mut Vec<Field>)
where
    I: Iterator<Item = &'static str>,
{
    while let Some(token) = tokens.next_if(|token| *token != "}") {
        let (name, rest) = token.split_once(':').expect(WRONG);
        let (rest, is_array) = match rest.strip_prefix("[]") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (kind, mut modifiers) = rest.split_at(rest.find(['?', '@', '#']).unwrap_or(rest.len()));
        let mut kind = parse_kind(kind, tokens);
        if is_array {
            let element_memory_bytes = memory_bytes(&kind);
            kind = Kind::Array { element: Box::new(kind), element_memory_bytes };
        }
        let (mut versions, mut nullable, mut tag) = (Versions::ALL, Versions::NONE, None);
        while !modifiers.is_empty() {
            let (modifier, rest) = modifiers.split_at(1);
            let end = rest.find(['?', '@', '#']).unwrap_or(rest.len());
            let value = &rest[..end];
            modifiers = &rest[end..];
            match modifier {
                "?" if value.is_empty() => nullable = Versions::ALL,
                "?" => nullable = value.parse().expect(WRONG),
                "@" => versions = value.parse().expect(WRONG),
                "#" => tag = Some(value.parse().expect(WRONG)),
                _ => unreachable!("split where one of the three is"),
            }
        }
        fields.push(Field { name, kind, versions, nullable, tag });
    }
}

fn parse_kind<I>(kind: &str, tokens: &mut Peekable<I>) -> Kind
where
    I: Iterator<Item = &'static str>,
{
    match kind {
        "bool" | "i8" => Kind::Fixed(1),
        "i16" | "u16" => Kind::Fixed(2),
        "i32" | "u32" => Kind::Fixed(4),
        "i64" | "f64" => Kind::Fixed(8),
        "uuid" => Kind::Fixed(16),
        "str" => Kind::Text,
        "bytes" => Kind::Bytes,
        _ => {
            assert_eq!((kind, tokens.next()), ("", Some("{")), "{WRONG}");
            let mut fields = Vec::new();
            parse_fields(tokens, &mut fields);
            assert_eq!(tokens.next(), Some("}"), "{WRONG}");
            Kind::Struct(fields)
        }
    }
}

/// The decoded size of a value, without what it points to. Structs hold all fields of all versions,
/// and a map of unknown tagged fields.
fn memory_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::Fixed(bytes) => *bytes,
        Kind::Text | Kind::Bytes => size_of::<Option<Bytes>>(),
        Kind::Array { .. } => size_of::<Vec<u8>>(),
        Kind::Struct(fields) => {
            let fields: usize = fields.iter().map(|field| memory_bytes(&field.kind)).sum();
            (fields + size_of::<std::collections::BTreeMap<i32, Bytes>>()).next_multiple_of(8)
        }
    }
}
