//! Requests to frames, frames to responses.
//!
//! No response reaches the codec before the shape guard has walked it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};

use super::wire;
use super::{
    connection::Frame,
    error::{ClientError, Malformed},
};

/// Text as the codec takes it.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The API of a request type of the codec crate.
pub(crate) fn api_of<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).expect("every request type of the codec carries a key of its own")
}

/// The start of a frame: a blank length and the request header.
pub(crate) fn head(
    api: ApiKey,
    version: i16,
    header_version: i16,
    client_id: &StrBytes,
    capacity: usize,
) -> Result<BytesMut, ClientError> {
    let mut head = BytesMut::with_capacity(capacity + 32 + client_id.len());
    head.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_client_id(Some(client_id.clone()))
        .encode(&mut head, header_version)
        .map_err(|_| ClientError::Inexpressible { api, version })?;
    Ok(head)
}

/// Fills in the length of a frame whose `head` is followed by `rest_bytes`.
pub(crate) fn finish(head: &mut BytesMut, rest_bytes: usize) {
    let length = u32::try_from(head.len() - 4 + rest_bytes).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&length.to_be_bytes());
}

/// A request as a frame.
pub(crate) fn encode<R: Request>(
    request: &R,
    version: i16,
    client_id: &StrBytes,
) -> Result<Frame, ClientError> {
    let api = api_of::<R>();
    let inexpressible = |_| ClientError::Inexpressible { api, version };
    let size = request.compute_size(version).map_err(inexpressible)?;
    let mut head = head(api, version, R::header_version(version), client_id, size)?;
    request.encode(&mut head, version).map_err(inexpressible)?;
    finish(&mut head, 0);
    Ok(Frame { api, head, parts: Vec::new(), answered: true })
}

/// A response, its header included, to an `R` of `version`.
pub(crate) fn decode<R: Request>(
    mut response: Bytes,
    version: i16,
) -> Result<R::Response, Malformed> {
    wire::check_response(api_of::<R>(), version, &response)?;
    let codec = |_| Malformed::Codec;
    let header_version = R::Response::header_version(version);
    ResponseHeader::decode(&mut response, header_version).map_err(codec)?;
    let decoded = R::Response::decode(&mut response, version).map_err(codec)?;
    if response.has_remaining() { Err(Malformed::Codec) } else { Ok(decoded) }
}
