//! Command line to configuration to server; nothing else.
fn main() {}
