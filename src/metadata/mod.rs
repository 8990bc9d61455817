//! The cluster's metadata: records, the immutable image they fold into, and deltas.
