//! The active controller: decides metadata changes, as `{records, response}`.
