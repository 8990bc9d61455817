//! What the client takes from `protocol`, in one place.

use std::io::Read as _;

use bytes::Bytes;

use crate::protocol::compression::Reader;
pub use crate::protocol::{ResponseError as Error, compression::Compression};
pub(crate) use crate::protocol::{
    compression::{Codec, CompressionError},
    shape::{ShapeError, check_response},
};

pub(crate) const fn attributes(compression: Compression) -> i16 {
    compression.id() as i16
}

pub(crate) const fn from_attributes(attributes: i16) -> Option<Compression> {
    Compression::from_id((attributes & 7) as u8)
}

pub(crate) fn compress(
    compression: Compression,
    level: Option<i32>,
    plain: &[u8],
) -> Result<Vec<u8>, CompressionError> {
    let packed = Codec { compression, level }.compress(plain)?;
    Ok(packed.unwrap_or_else(|| plain.to_vec()))
}

/// Decompresses; fails once more than `limit` bytes came out.
pub(crate) fn decompress(
    compression: Compression,
    packed: &Bytes,
    limit: usize,
) -> Result<Bytes, CompressionError> {
    if compression == Compression::None {
        return Ok(packed.clone());
    }
    let mut plain = Vec::new();
    Reader::new(compression, packed.clone(), limit)?
        .read_to_end(&mut plain)
        .map_err(CompressionError::from_io)?;
    Ok(plain.into())
}
