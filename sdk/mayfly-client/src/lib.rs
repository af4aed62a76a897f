//! mayfly-client
