//! Answers to client requests, one file per family of APIs.

pub mod groups;
