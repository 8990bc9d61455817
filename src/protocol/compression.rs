//! The codecs of record batches. Decompression streams under a cap.
//!
//! Must not reserve memory by a number read from the compressed bytes beyond what those bytes can
//! become.

use std::{
    fmt,
    io::{self, Cursor, Read, Write},
};

use bytes::{Buf, Bytes};

/// A batch's codec, by its name in `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Compression {
    /// Records as they are.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks, framed as the Java client does.
    Snappy,
    /// LZ4's frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec with this number.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// The codec's name in Kafka's settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A codec and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codec {
    /// Which.
    pub compression: Compression,
    /// gzip 1–9, zstd -131072–22; the codec's default otherwise. lz4 and snappy have one level
    /// only.
    pub level: Option<i32>,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        Self { compression, level: None }
    }
}

/// Bytes that do not decompress, or too many that do.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// More than the cap came out.
    #[error("decompresses to more than {limit} bytes")]
    TooLarge { limit: usize },
    /// Not in the codec's format.
    #[error("the compressed bytes are damaged")]
    Damaged(#[source] io::Error),
}

impl CompressionError {
    /// What a [`Reader`] failed with.
    #[must_use]
    pub fn from_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TooLarge>()) {
            Some(TooLarge { limit }) => Self::TooLarge { limit: *limit },
            None => Self::Damaged(error),
        }
    }
}

/// Carries the cap through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("decompresses to more than {limit} bytes")]
struct TooLarge {
    limit: usize,
}

fn too_large(limit: usize) -> io::Error {
    io::Error::other(TooLarge { limit })
}

/// What Java's snappy stream starts with.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// Snappy's densest element makes 64 bytes out of three.
const SNAPPY_MAX_RATIO: usize = 22;

impl Codec {
    /// The compressed form of `bytes`; `None` where the codec is `none`.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub fn compress(self, bytes: &[u8]) -> Result<Option<Vec<u8>>, CompressionError> {
        self.compress_io(bytes).map_err(CompressionError::Damaged)
    }

    fn compress_io(self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let guess = Vec::with_capacity(bytes.len() / 2 + 64);
        Ok(Some(match self.compression {
            Compression::None => return Ok(None),
            Compression::Gzip => {
                let level = self.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, |level| {
                    flate2::Compression::new(level.min(9))
                });
                let mut encoder = flate2::write::GzEncoder::new(guess, level);
                encoder.write_all(bytes)?;
                encoder.finish()?
            }
            Compression::Snappy => compress_snappy(guess, bytes)?,
            Compression::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, guess);
                encoder.write_all(bytes)?;
                encoder.finish()?
            }
            Compression::Zstd => {
                let level = self.level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                zstd::stream::encode_all(bytes, level)?
            }
        }))
    }
}

fn compress_snappy(mut out: Vec<u8>, bytes: &[u8]) -> io::Result<Vec<u8>> {
    out.extend_from_slice(XERIAL_MAGIC);
    // Version and the oldest compatible version.
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend_from_slice(&(block.len() as i32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}

/// Decompresses as it is read, and fails once more than its cap has come out.
pub struct Reader {
    inner: Inner,
    left: usize,
    limit: usize,
}

enum Inner {
    None(Cursor<Bytes>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Cursor<Bytes>>>),
    Snappy(SnappyReader),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Cursor<Bytes>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Cursor<Bytes>>>),
}

impl Reader {
    /// A reader that lets at most `limit` bytes out.
    ///
    /// # Errors
    /// Where the decompressor does not start.
    pub fn new(
        compression: Compression,
        bytes: Bytes,
        limit: usize,
    ) -> Result<Self, CompressionError> {
        let bytes = Cursor::new(bytes);
        let inner = match compression {
            Compression::None => Inner::None(bytes),
            Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            Compression::Snappy => Inner::Snappy(SnappyReader::new(bytes.into_inner(), limit)),
            Compression::Lz4 => Inner::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(bytes))),
            Compression::Zstd => {
                // Kafka's levels go up to windows of 2^27 bytes, which is this decoder's default
                // limit as well. The window is reserved, not touched, before output fills it.
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes)
                    .map_err(CompressionError::Damaged)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner, left: limit, limit })
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        // One byte more than is left tells a stream that ends at the cap from one that goes on.
        let room = out.len().min(self.left.saturating_add(1));
        let out = &mut out[..room];
        let read = match &mut self.inner {
            Inner::None(inner) => inner.read(out)?,
            Inner::Gzip(inner) => inner.read(out)?,
            Inner::Snappy(inner) => inner.read(out)?,
            Inner::Lz4(inner) => inner.read(out)?,
            Inner::Zstd(inner) => inner.read(out)?,
        };
        self.left = self.left.checked_sub(read).ok_or_else(|| too_large(self.limit))?;
        Ok(read)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Reads snappy both as the Java client frames it and as one bare block, as librdkafka may send it.
struct SnappyReader {
    input: Bytes,
    framed: bool,
    block: Bytes,
    limit: usize,
}

impl SnappyReader {
    fn new(mut input: Bytes, limit: usize) -> Self {
        let framed = input.len() >= XERIAL_HEADER_BYTES && input.starts_with(XERIAL_MAGIC);
        if framed {
            input.advance(XERIAL_HEADER_BYTES);
        }
        Self { input, framed, block: Bytes::new(), limit }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let compressed = if self.framed {
            // Streams that were appended to one another repeat the header.
            if self.input.len() >= XERIAL_HEADER_BYTES && self.input.starts_with(XERIAL_MAGIC) {
                self.input.advance(XERIAL_HEADER_BYTES);
                return Ok(());
            }
            let length = self.input.try_get_i32().map_err(io::Error::other)?;
            let length = usize::try_from(length).map_err(io::Error::other)?;
            if length > self.input.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.split_to(length)
        } else {
            std::mem::take(&mut self.input)
        };
        let length = snap::raw::decompress_len(&compressed).map_err(io::Error::other)?;
        if length > self.limit {
            return Err(too_large(self.limit));
        }
        if length > compressed.len().saturating_mul(SNAPPY_MAX_RATIO) {
            return Err(damaged());
        }
        let block =
            snap::raw::Decoder::new().decompress_vec(&compressed).map_err(io::Error::other)?;
        self.block = Bytes::from(block);
        Ok(())
    }
}

impl Read for SnappyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            if self.input.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let length = out.len().min(self.block.len());
        self.block.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}
