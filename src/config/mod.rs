//! Configuration: every key's type, default and validator, and how a node loads them.
