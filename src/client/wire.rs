//! What the client takes from `protocol`, in one place.

use std::io::{self, Read, Write};

use bytes::Bytes;
pub(crate) use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::ApiKey;

/// A response that the guard refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its shape is not that of the API and version")]
pub struct ShapeError;

pub(crate) fn check_response(_: ApiKey, _: i16, _: &[u8]) -> Result<(), ShapeError> {
    Ok(())
}

/// The codec of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// zstd.
    Zstd,
}

impl Compression {
    pub(crate) const fn attributes(self) -> i16 {
        self as i16
    }

    pub(crate) const fn from_attributes(attributes: i16) -> Option<Self> {
        Some(match attributes & 7 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }
}

pub(crate) fn compress(
    codec: Compression,
    level: Option<i32>,
    plain: &[u8],
) -> Result<Vec<u8>, io::Error> {
    Ok(match codec {
        Compression::None => plain.to_vec(),
        Compression::Gzip => {
            let level = level.map_or(flate2::Compression::default(), |level| {
                flate2::Compression::new(level.unsigned_abs())
            });
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(plain)?;
            out.finish()?
        }
        Compression::Snappy => {
            let mut out = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
            for block in plain.chunks(32 << 10) {
                let packed = snap::raw::Encoder::new().compress_vec(block)?;
                out.extend((packed.len() as u32).to_be_bytes());
                out.extend(packed);
            }
            out
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            out.write_all(plain)?;
            out.finish().map_err(io::Error::other)?
        }
        Compression::Zstd => zstd::stream::encode_all(plain, level.unwrap_or(3))?,
    })
}

pub(crate) fn decompress(codec: Compression, packed: &Bytes, cap: u64) -> io::Result<Bytes> {
    let mut out = Vec::new();
    match codec {
        Compression::None => return Ok(packed.clone()),
        Compression::Gzip => {
            flate2::read::GzDecoder::new(&packed[..]).take(cap).read_to_end(&mut out)?;
        }
        Compression::Snappy => {
            let mut rest = packed.get(16..).unwrap_or_default();
            while rest.len() > 4 {
                let size = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let block = rest.get(4..4 + size).ok_or(io::ErrorKind::UnexpectedEof)?;
                out.extend(snap::raw::Decoder::new().decompress_vec(block)?);
                rest = &rest[4 + size..];
            }
        }
        Compression::Lz4 => {
            lz4_flex::frame::FrameDecoder::new(&packed[..]).take(cap).read_to_end(&mut out)?;
        }
        Compression::Zstd => {
            zstd::stream::Decoder::new(&packed[..])?.take(cap).read_to_end(&mut out)?;
        }
    }
    Ok(out.into())
}
