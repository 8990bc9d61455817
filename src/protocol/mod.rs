//! Kafka's wire protocol: framing, which APIs there are, guards for what arrives, record batches.
//!
//! The message codecs are the crate `kafka-protocol`. Nothing here does I/O or keeps state between
//! messages, and nothing reserves memory by a number that was read off the wire before as many
//! bytes have arrived: [`shape`] walks each message before the codec sees it, [`frame`] grows with
//! what arrives, [`compression`] streams under a cap.

pub mod api;
pub mod batch;
pub mod compression;
pub mod fetch_response;
pub mod frame;
pub mod lags;
pub mod shape;
pub mod validate;

pub use kafka_protocol::{
    error::{ParseResponseErrorCode, ResponseError},
    messages,
    protocol::StrBytes,
};
