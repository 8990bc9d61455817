//! Nodes that an operator took from the voters of the metadata quorum: they are not promoted again
//! by themselves.

use kafka_protocol::ResponseError;

use crate::{
    base::NodeId,
    controller::{Decision, View, draft::Draft},
    metadata::{features, records::VoterExclusionRecord},
};

/// Whether a node may be promoted to a voter without an operator. No request of Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ExcludeVoterRequest {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node_id: u32,
    /// Whether it may not.
    #[prost(bool, tag = "2")]
    pub excluded: bool,
}

/// The answer to an [`ExcludeVoterRequest`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ExcludeVoterResponse {
    /// Kafka's code: UNSUPPORTED_VERSION while nodes of an older release take part.
    #[prost(int32, tag = "1")]
    pub error_code: i32,
}

pub(super) fn exclude(
    view: &View<'_>,
    request: ExcludeVoterRequest,
) -> Decision<ExcludeVoterResponse> {
    let ExcludeVoterRequest { node_id, excluded } = request;
    if view.image.metadata_version() < features::EXCLUDED_VOTERS {
        let error_code = i32::from(ResponseError::UnsupportedVersion.code());
        return Decision::answer(ExcludeVoterResponse { error_code });
    }
    let mut draft = Draft::new(view.image);
    if view.image.is_excluded_voter(NodeId(node_id)) != excluded {
        draft.add_alone(VoterExclusionRecord { node_id, excluded });
    }
    draft.decide(ExcludeVoterResponse { error_code: 0 })
}
