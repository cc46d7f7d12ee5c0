//! The floor: takes clients, then sends each frame that the first one writes to all the others. Nothing else.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

#[expect(clippy::disallowed_types, reason = "blocking sockets are the floor")]
type Listener = std::net::TcpListener;
#[expect(clippy::disallowed_types, reason = "blocking sockets are the floor")]
type Stream = std::net::TcpStream;

/// The first line on standard output is the port. The first client speaks, the others listen.
#[expect(clippy::print_stdout, reason = "the port is for the parent")]
pub fn run() {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    println!("{}", listener.local_addr().expect("bound").port());
    let members: usize =
        std::env::args().nth(2).and_then(|count| count.parse().ok()).expect("bare MEMBERS FRAME_BYTES");
    let frame_bytes: usize =
        std::env::args().nth(3).and_then(|count| count.parse().ok()).expect("bare MEMBERS FRAME_BYTES");
    let accept = || {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("a socket");
        stream
    };
    let mut speaker: Stream = accept();
    let mut listeners: Vec<Stream> = (0..members).map(|_| accept()).collect();
    let mut frame = vec![0; frame_bytes];
    while speaker.read_exact(&mut frame).is_ok() {
        for listener in &mut listeners {
            if listener.write_all(&frame).is_err() {
                return;
            }
        }
    }
}
