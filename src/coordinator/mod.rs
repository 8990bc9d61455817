//! Runs coordinators over their shards of an internal topic.
