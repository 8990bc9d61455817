//! The point of a snapshot within a Raft message, and back.

use prost::Message as _;
use raft::eraftpb::{Snapshot, SnapshotMetadata};

use crate::quorum::{
    identity::{Configuration, stored},
    store::Point,
};

pub(super) fn snapshot_at(point: &Point) -> Snapshot {
    let mut metadata = SnapshotMetadata::default();
    metadata.set_conf_state(point.configuration.conf_state.clone());
    metadata.index = point.index;
    metadata.term = point.term;
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(metadata);
    // The image itself is streamed beside the message; only who the peers are goes along.
    snapshot.data = point.configuration.to_stored().encode_to_vec().into();
    snapshot
}

pub(super) fn point_of(snapshot: &Snapshot) -> Point {
    let metadata = snapshot.get_metadata();
    let mut configuration = stored::Configuration::decode(&snapshot.data[..])
        .ok()
        .and_then(Configuration::from_stored)
        .unwrap_or_default();
    configuration.conf_state = metadata.get_conf_state().clone();
    Point { index: metadata.index, term: metadata.term, configuration }
}
