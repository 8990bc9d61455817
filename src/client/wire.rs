//! What the client takes from `protocol`, in one place.

pub use crate::protocol::{ResponseError as Error, compression::Compression, lags::FollowerLag};
pub(crate) use crate::protocol::{
    compression::{Codec, CompressionError},
    lags::{TAG as FOLLOWER_LAGS, decode as follower_lags},
    shape::{ShapeError, check_response},
};
