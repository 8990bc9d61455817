//! A small Kafka client, for the command line, the benchmarks and the chaos suite.
