//! The client plane's listeners and connections.
