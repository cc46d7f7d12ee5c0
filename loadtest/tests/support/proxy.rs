//! A proxy that drops or duplicates one chunk of one stream of server-sent events.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Listener, spawn};

#[expect(clippy::disallowed_types, reason = "a blocking proxy, threads for each connection")]
type Stream = std::net::TcpStream;

/// What happens to a chunk.
#[derive(Clone, Copy)]
pub struct ChunkFault {
    /// In this one of the streams, by the order of their requests, from 0.
    pub stream: usize,
    /// This one of its chunks, from 0.
    pub chunk: usize,
    /// It is passed on so often.
    pub copies: usize,
}

/// Starts a proxy in front of `upstream`; returns its URL.
pub fn proxy(upstream: &str, fault: ChunkFault) -> String {
    let upstream = upstream.split_once("://").unwrap().1.to_owned();
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    spawn(move || {
        let streams = Arc::new(AtomicUsize::new(0));
        for client in listener.incoming().flatten() {
            let (server, streams) = (Stream::connect(&upstream).unwrap(), Arc::clone(&streams));
            spawn(move || {
                let _ = serve(&client, &server, &streams, fault);
                for socket in [&client, &server] {
                    let _ = socket.shutdown(Shutdown::Both);
                }
            });
        }
    });
    url
}

fn serve(client: &Stream, server: &Stream, streams: &AtomicUsize, fault: ChunkFault) -> Result<()> {
    for socket in [client, server] {
        socket.set_nodelay(true)?;
    }
    let mut request = [0; 4096];
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let len = from_client.read(&mut request)?;
    to_server.write_all(&request[..len])?;
    let is_stream = request.starts_with(b"GET /sse/");
    let is_faulty = is_stream && streams.fetch_add(1, Ordering::Relaxed) == fault.stream;
    spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (BufReader::new(server), client);
    if is_faulty {
        let mut line = String::new();
        while !matches!(line.as_str(), "\r\n") {
            line.clear();
            from_server.read_line(&mut line)?;
            to_client.write_all(line.as_bytes())?;
        }
        for index in 0..=fault.chunk {
            let mut line = String::new();
            from_server.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
            let mut bytes = line.into_bytes();
            let start = bytes.len();
            bytes.resize(start + size + 2, 0);
            from_server.read_exact(&mut bytes[start..])?;
            let copies = if index == fault.chunk { fault.copies } else { 1 };
            to_client.write_all(&bytes.repeat(copies))?;
        }
    }
    std::io::copy(&mut from_server, &mut to_client).map(drop)
}
