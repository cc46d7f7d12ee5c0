//! The floor: takes clients, then sends each frame that the first one writes to all the others, or to as many
//! as a room has members. Nothing else.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

#[expect(clippy::disallowed_types, reason = "blocking sockets are the floor")]
type Listener = std::net::TcpListener;
#[expect(clippy::disallowed_types, reason = "blocking sockets are the floor")]
type Stream = std::net::TcpStream;

/// The first line on standard output is the port. The first client publishes, the others subscribe.
#[expect(clippy::print_stdout, reason = "the port is for the parent")]
pub fn run() {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    println!("{}", listener.local_addr().expect("bound").port());
    let numbers: Vec<usize> = std::env::args().skip(2).filter_map(|number| number.parse().ok()).collect();
    let [members, frame_bytes, audience] = numbers[..] else { panic!("bare MEMBERS FRAME_BYTES AUDIENCE") };
    let accept = || {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("a socket");
        stream
    };
    let mut publisher: Stream = accept();
    let mut listeners: Vec<Stream> = (0..members).map(|_| accept()).collect();
    let mut frame = vec![0; frame_bytes];
    // Connections that receive the same message are far apart, as the members of a room are.
    let stride = members / audience;
    let mut first = 0;
    while publisher.read_exact(&mut frame).is_ok() {
        for listener in listeners[first..].iter_mut().step_by(stride).take(audience) {
            if listener.write_all(&frame).is_err() {
                return;
            }
        }
        first = (first + 1) % stride;
    }
}
