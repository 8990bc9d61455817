//! The cluster's metadata as a state machine without I/O: records, the immutable image they fold
//! into, and the delta that says what a batch of them changed.
//!
//! A Raft entry is a [`Batch`] of [`Record`]s. [`MetadataImage::apply`] folds it and returns the
//! next image, which shares all that did not change with the one before, and a [`MetadataDelta`].
//! The delta's [`writes`](MetadataDelta::writes) bring a key-value store from one image to the
//! next; [`MetadataImage::load`] reads it back. Each stored value is a record that makes its part
//! of the image from nothing, so that a store is a compacted log, and a snapshot is a store.
//!
//! Invariants, held by [`MetadataImage::check`]:
//! - Topic names and ids map to each other one to one; partitions are numbered from 0 without gaps.
//! - Replicas are distinct, have one directory each, and hold the ISR and the eligible leader
//!   replicas; the latter two are disjoint; a leader is in the ISR.
//! - A fenced broker leads nothing; epochs of brokers are below the next one.
//! - Configurations belong to topics that exist.
//!
//! Must not: read a clock, draw a random number, decide anything (that is `controller`'s), or know
//! of Raft terms.
//!
//! References: KIP-500, KIP-631, KIP-966, KIP-858.

mod apply;
mod delta;
pub mod features;
mod image;
mod invariants;
mod overrides;
pub mod records;
mod requests;
mod store;

pub use crate::config::CLUSTER_LISTENER;
pub use delta::{MetadataDelta, TopicDelta};
pub(crate) use image::is_internal;
pub use image::{
    Broker, ConfigResource, ConfigResourceType, MetadataImage, Partition, Topic, directory,
};
pub use invariants::Violation;
pub use overrides::Overrides;
pub use records::{Batch, DecodeError, Record};
pub use requests::{ANSWER_MAX_BYTES, DecidedRequest, RequestId};
pub use store::{LoadError, Write};
