//! swarm: a load tester for WebSocket broadcast servers.

fn main() {}
