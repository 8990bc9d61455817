//! The group coordinator: Kafka's classic group protocol and committed offsets.
