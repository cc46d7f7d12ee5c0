//! One recorded trace of what clients do, through every driver: each client must be sent the same bytes. And what only a burst
//! brings about: more at once than a driver has buffers, completions or room for.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use rustix::process::Signal;
use support::{Server, Tcp};

const DRIVERS: [&str; 2] = ["epoll", "uring"];

/// What a client does.
enum Step {
    /// Connects; from now on it is known by its number.
    Connect,
    /// Sends bytes, so many at a time.
    Send(usize, Vec<u8>, usize),
    /// Reads until these bytes have come, after all that it has read before.
    Hear(usize, &'static [u8]),
    /// Says that it sends no more.
    HalfClose(usize),
    /// Reads to the end.
    End(usize),
}

/// A masked frame: its first byte, and a payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [1, 2, 3, 4];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(KEY);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]));
    frame
}

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

fn trace() -> Vec<Step> {
    use Step::*;
    let whole = usize::MAX;
    let three = [text("one"), text("two"), text("three")].concat();
    let pieces = [frame(0x01, b"in "), frame(0x89, b"between"), frame(0x80, b"pieces")].concat();
    let long = "x".repeat(60_000) + "end";
    vec![
        Connect,
        Send(0, upgrade("/ws/a?room=r"), 7),
        Hear(0, b"\r\n\r\n"),
        Connect,
        Send(1, [upgrade("/ws/b?room=r"), text("with the head")].concat(), whole),
        Hear(0, b"b: with the head"),
        Hear(1, b"b: with the head"),
        Send(0, text("byte by byte"), 1),
        Hear(0, b"a: byte by byte"),
        Hear(1, b"a: byte by byte"),
        Send(1, three, whole),
        Hear(0, b"b: three"),
        Hear(1, b"b: three"),
        Send(1, pieces, 3),
        Hear(1, b"b: in pieces"),
        Hear(0, b"b: in pieces"),
        Send(0, text(&long), 5000),
        Hear(0, b"xend"),
        Hear(1, b"xend"),
        Connect,
        Send(2, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), whole),
        HalfClose(2),
        End(2),
        Connect,
        Send(3, b"nonsense\r\n\r\n".to_vec(), whole),
        End(3),
        Connect,
        Send(4, [upgrade("/ws/d"), frame(0x82, b"binary")].concat(), whole),
        End(4),
        Send(1, frame(0x88, &1000_u16.to_be_bytes()), whole),
        End(1),
        Send(0, text("alone"), whole),
        Hear(0, b"a: alone"),
        HalfClose(0),
        End(0),
    ]
}

/// What each client was sent.
fn transcript(server: &Server) -> Vec<String> {
    let mut clients: Vec<(Tcp, Vec<u8>, usize)> = Vec::new();
    for step in trace() {
        match step {
            Step::Connect => clients.push((server.raw(), Vec::new(), 0)),
            Step::Send(client, bytes, at_a_time) => {
                for piece in bytes.chunks(at_a_time.min(bytes.len())) {
                    clients[client].0.write_all(piece).unwrap();
                }
            }
            Step::Hear(client, until) => {
                let (stream, heard, from) = &mut clients[client];
                loop {
                    if let Some(at) = heard[*from..].windows(until.len()).position(|window| window == until) {
                        *from += at + until.len();
                        break;
                    }
                    let mut piece = [0; 4096];
                    let len = stream.read(&mut piece).unwrap();
                    assert!(len > 0, "client {client}: the end instead of {}", until.escape_ascii());
                    heard.extend_from_slice(&piece[..len]);
                }
            }
            Step::HalfClose(client) => clients[client].0.shutdown(Shutdown::Write).unwrap(),
            Step::End(client) => {
                let (stream, heard, _) = &mut clients[client];
                stream.read_to_end(heard).unwrap();
            }
        }
    }
    clients.into_iter().map(|(_, heard, _)| heard.escape_ascii().to_string()).collect()
}

/// Starts a server on `driver`, or says that it cannot be had.
fn start(driver: &str, more: &[&str]) -> Option<Server> {
    if driver == "uring" && !support::has_uring() {
        return None;
    }
    Some(Server::start(&[&["--shards", "1", "--echo", "--driver", driver], more].concat()))
}

#[test]
fn one_trace_gives_one_transcript() {
    let transcripts: Vec<_> =
        DRIVERS.iter().filter_map(|driver| Some((driver, transcript(&start(driver, &[])?)))).collect();
    let (_, expected) = &transcripts[0];
    assert!(expected.iter().all(|heard| !heard.is_empty()));
    for (driver, heard) in &transcripts {
        for (client, (heard, expected)) in heard.iter().zip(expected).enumerate() {
            assert_eq!(heard, expected, "client {client} on {driver}");
        }
    }
}

/// An upgraded echo client.
fn echo(server: &Server) -> Tcp {
    let mut client = server.raw();
    client.write_all(&upgrade("/echo")).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    client
}

/// More completions than the ring has places, and far more than it has buffers: nothing may be lost, and nobody mixed up.
#[test]
fn all_speak_at_once() {
    const CLIENTS: usize = 4500;
    for driver in DRIVERS {
        let Some(server) = start(driver, &[]) else { continue };
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| echo(&server)).collect();
        // While the server stands still, a third leaves without a word, and the others speak.
        server.signal(Signal::STOP);
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&text(&format!("{number:08}"))).unwrap();
        }
        let mut number = 0;
        clients.retain(|_| {
            number += 1;
            number % 3 != 0
        });
        server.signal(Signal::CONT);
        // Newcomers take the slots of those who are gone.
        let mut late: Vec<_> = (0..100).map(|_| echo(&server)).collect();
        for client in &mut late {
            client.write_all(&text("late 123")).unwrap();
        }
        let mut expected = (0..CLIENTS).filter(|number| number % 3 != 2);
        let mut heard = [0; 10];
        for client in &mut clients {
            client.read_exact(&mut heard).unwrap();
            assert_eq!(heard[2..], *format!("{:08}", expected.next().unwrap()).as_bytes(), "{driver}");
        }
        for client in &mut late {
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard[2..], b"late 123", "{driver}");
        }
    }
}

/// A client that speaks on and does not listen is not read from any more, until it listens: then everything is there, in order.
#[test]
fn who_does_not_listen_is_not_heard_until_it_does() {
    for driver in DRIVERS {
        let Some(server) = start(driver, &[]) else { continue };
        let mut client = echo(&server);
        client.set_nonblocking(true).unwrap();
        let (mut sent, mut pending) = (0_u32, Vec::new());
        // Until neither the server nor the kernels between take anything any more: that is well above what the server holds.
        let mut still = 0;
        while still < 200 {
            if pending.is_empty() {
                pending = frame(0x82, &sent.to_be_bytes().repeat(500));
                sent += 1;
            }
            match client.write(&pending) {
                Ok(len) => {
                    pending.drain(..len);
                    still = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    still += 1;
                    // The server answers somebody else meanwhile, as a clock that counts its turns.
                    assert!(server.get("/healthz").ends_with("ok\n"));
                }
                Err(error) => panic!("{driver}: {error}"),
            }
        }
        let mut writer = client.try_clone().unwrap();
        client.set_nonblocking(false).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&pending).unwrap());
            let mut message = vec![0; 2004];
            for number in 0..sent {
                client.read_exact(&mut message).unwrap();
                assert_eq!(message[4..], number.to_be_bytes().repeat(500), "{driver}: message {number}");
            }
        });
        assert!(server.metric("stentor_read_pauses_total") > 0, "{driver}: it was never paused");
    }
}
