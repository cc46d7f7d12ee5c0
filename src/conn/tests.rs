//! Tests of a connection by itself.
