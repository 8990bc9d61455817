//! Partitions: leader state, high watermarks, waiting requests.
