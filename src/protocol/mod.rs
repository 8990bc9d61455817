//! Kafka's wire protocol: framing, guards, record batches.
