//! The metadata quorum: Raft over a durable store.
