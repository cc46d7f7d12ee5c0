//! What the settings name beyond themselves: hosts and files. A fuzzer reaches neither: it would look up
//! names and read devices.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

/// The addresses of `host:port`.
pub(super) fn addresses(text: &str) -> io::Result<Vec<SocketAddr>> {
    if cfg!(fuzzing) {
        return Ok(vec![text.parse().map_err(io::Error::other)?]);
    }
    Ok(text.to_socket_addrs()?.collect())
}

/// The content of a file.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    if cfg!(fuzzing) {
        return Err(io::ErrorKind::NotFound.into());
    }
    std::fs::read(path)
}

/// The content of a file, which is UTF-8.
pub(super) fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
