//! What the client takes from `protocol`, in one place.

pub use crate::protocol::{ResponseError as Error, compression::Compression};
pub(crate) use crate::protocol::{
    compression::{Codec, CompressionError},
    shape::{ShapeError, check_response},
};
