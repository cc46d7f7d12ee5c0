//! One recorded trace of what clients do, through every driver: each client must be sent the same bytes. And
//! what only a burst brings about: more at once than a driver has buffers, completions or room for.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use stentor_testkit::{close, frame, parse, parse_response, text, upgrade_request};
use support::{Server, Tcp, stentor};

/// What can be tested here: both, or epoll alone where the lack of io_uring is allowed.
fn drivers() -> &'static [&'static str] {
    if support::has_uring() { &["epoll", "uring"] } else { &["epoll"] }
}

/// What a client does.
enum Step {
    /// Connects; from now on it is known by its number.
    Connect,
    /// Sends bytes, so many at a time.
    Send(usize, Vec<u8>, usize),
    /// Reads until these bytes have come, after all that it has read before.
    Receive(usize, &'static [u8]),
    /// Half-closes its stream.
    HalfClose(usize),
    /// Reads to the end.
    End(usize),
}

fn upgrade(path: &str) -> Vec<u8> {
    upgrade_request(path, "").into_bytes()
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
        Receive(0, b"\r\n\r\n"),
        Connect,
        Send(1, [upgrade("/ws/b?room=r"), text("with the head")].concat(), whole),
        Receive(0, b"b: with the head"),
        Receive(1, b"b: with the head"),
        Send(0, text("byte by byte"), 1),
        Receive(0, b"a: byte by byte"),
        Receive(1, b"a: byte by byte"),
        Send(1, three, whole),
        Receive(0, b"b: three"),
        Receive(1, b"b: three"),
        Send(1, pieces, 3),
        Receive(1, b"b: in pieces"),
        Receive(0, b"b: in pieces"),
        Send(0, text(&long), 5000),
        Receive(0, b"xend"),
        Receive(1, b"xend"),
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
        Send(1, close(1000), whole),
        End(1),
        Send(0, text("alone"), whole),
        Receive(0, b"a: alone"),
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
            Step::Receive(client, until) => {
                let (stream, received, from) = &mut clients[client];
                loop {
                    if let Some(at) =
                        received[*from..].windows(until.len()).position(|window| window == until)
                    {
                        *from += at + until.len();
                        break;
                    }
                    let mut piece = [0; 4096];
                    let len = stream.read(&mut piece).unwrap();
                    assert!(len > 0, "client {client}: the end instead of {}", until.escape_ascii());
                    received.extend_from_slice(&piece[..len]);
                }
            }
            Step::HalfClose(client) => clients[client].0.shutdown(Shutdown::Write).unwrap(),
            Step::End(client) => {
                let (stream, received, _) = &mut clients[client];
                stream.read_to_end(received).unwrap();
            }
        }
    }
    clients.into_iter().map(|(_, received, _)| without_dates(&received)).collect()
}

/// The bytes, in which the second of an answer, which may begin between one driver's run and another's, is
/// left out.
fn without_dates(received: &[u8]) -> String {
    let date = regex::bytes::Regex::new(r"\r\nDate: [A-Z][a-z]{2}, [0-9A-Za-z :]{20} GMT\r\n").unwrap();
    date.replace_all(received, b"\r\nDate: _\r\n").escape_ascii().to_string()
}

/// Starts a server on `driver`.
fn start(driver: &str, more: &[&str]) -> Server {
    Server::start(&[&["--shards", "1", "--echo", "--driver", driver], more].concat())
}

#[test]
fn one_trace_gives_one_transcript() {
    let transcripts: Vec<_> =
        drivers().iter().map(|driver| (driver, transcript(&start(driver, &[])))).collect();
    let (_, expected) = &transcripts[0];
    assert!(expected.iter().all(|received| !received.is_empty()));
    assert!(expected[2].contains("Date: _"), "{}", expected[2]);
    for (driver, received) in &transcripts {
        for (client, (received, expected)) in received.iter().zip(expected).enumerate() {
            assert_eq!(received, expected, "client {client} on {driver}");
        }
    }
}

/// An upgraded echo client.
fn echo(server: &Server) -> Tcp {
    let mut client = server.raw();
    client.write_all(&upgrade("/echo")).unwrap();
    read_head(&mut client);
    client
}

/// Reads the answer to a request, up to where its head ends.
fn read_head(client: &mut Tcp) {
    let mut head = Vec::new();
    let mut byte = [0];
    while parse_response(&head).is_none() {
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
}

/// More completions than the ring has slots, and far more than it has buffers: nothing may be lost, and no
/// connections mixed up.
#[test]
fn concurrent_publishers() {
    const CLIENTS: usize = 4500;
    for driver in drivers() {
        let server = start(driver, &[]);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| echo(&server)).collect();
        // While the server stands still, a third leaves without a Close, and the others publish.
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
        // New connections take the slots of closed ones.
        let mut late: Vec<_> = (0..100).map(|_| echo(&server)).collect();
        for client in &mut late {
            client.write_all(&text("late 123")).unwrap();
        }
        let mut expected = (0..CLIENTS).filter(|number| number % 3 != 2);
        let mut received = [0; 10];
        for client in &mut clients {
            client.read_exact(&mut received).unwrap();
            assert_eq!(received[2..], *format!("{:08}", expected.next().unwrap()).as_bytes(), "{driver}");
        }
        for client in &mut late {
            client.read_exact(&mut received).unwrap();
            assert_eq!(&received[2..], b"late 123", "{driver}");
        }
    }
}

/// Sends to a server that echoes, without reading, until neither the server nor the kernels between take
/// anything any more: that is well above what the server holds. Returns how many messages were begun, and
/// what is left of the last one.
fn send_until_paused(server: &Server, client: &mut Tcp) -> (u32, Vec<u8>) {
    client.set_nonblocking(true).unwrap();
    let (mut sent, mut pending) = (0_u32, Vec::new());
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
                // The server answers another client meanwhile, as a clock that counts its turns.
                assert!(server.get("/healthz").ends_with("ok\n"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    client.set_nonblocking(false).unwrap();
    (sent, pending)
}

/// A client that sends and does not read is paused, until it reads: then everything is there, in order.
#[test]
fn a_client_that_does_not_read_is_paused() {
    for driver in drivers() {
        let server = start(driver, &[]);
        let mut client = echo(&server);
        let (sent, pending) = send_until_paused(&server, &mut client);
        let mut writer = client.try_clone().unwrap();
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

/// The turns of a server in half a second in which nothing happens, but for the two requests that count them.
fn turns_of_a_pause(server: &Server) -> u64 {
    let before = server.metric("stentor_turn_duration_seconds_count");
    std::thread::sleep(Duration::from_millis(500));
    server.metric("stentor_turn_duration_seconds_count") - before
}

/// More than the turns that a request takes, and far less than a turn every millisecond.
const FEW_TURNS: u64 = 20;

#[test]
fn an_idle_server_sleeps() {
    for driver in drivers() {
        let server = start(driver, &[]);
        let _members: Vec<_> = (0..10).map(|_| member(&server)).collect();
        let turns = turns_of_a_pause(&server);
        assert!(turns < FEW_TURNS, "{driver}: {turns} turns");
    }
}

/// A paused client costs no turns: its socket will report when it reads again.
#[test]
fn a_server_sleeps_while_a_client_is_paused() {
    for driver in drivers() {
        let server = start(driver, &[]);
        let mut client = echo(&server);
        send_until_paused(&server, &mut client);
        assert!(server.metric("stentor_read_pauses_total") > 0, "{driver}: it was never paused");
        let turns = turns_of_a_pause(&server);
        assert!(turns < FEW_TURNS, "{driver}: {turns} turns");
    }
}

/// Has the program that `command` starts be refused io_uring, as the default profiles of container engines do
/// (seccomp(2)).
fn without_uring(command: &mut Command) -> &mut Command {
    const SYSCALL_NUMBER_AT: u32 = 0; // of a struct seccomp_data
    let is_setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let step = |code, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, SYSCALL_NUMBER_AT),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, is_setup),
        step(libc::BPF_RET | libc::BPF_K, 0, refused),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let forbid = move || {
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        rustix::thread::set_no_new_privs(true)?;
        // SAFETY: the program is four instructions that live until the kernel has copied them.
        let outcome =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(forbid) }
}

#[test]
fn without_the_ring_epoll_is_used_or_the_reason_is_reported() {
    let arguments = |driver| ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--driver", driver];
    let output = without_uring(stentor().args(arguments("uring"))).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        error.trim_end(),
        "stentor: io_uring cannot be used: Operation not permitted (os error 1); set kernel.io_uring_disabled = 0 \
         (sysctl) and allow io_uring in the sandbox (seccomp), or choose --driver epoll"
    );
    let mut command = stentor();
    without_uring(command.args(arguments("auto")));
    let server = Server::from(command);
    let reason = &server.start_log[0];
    assert!(reason.contains("Operation not permitted") && reason.contains("using epoll"), "{reason}");
    assert!(server.start_log.last().unwrap().contains("\"driver\":\"epoll\""));
    assert!(server.get("/healthz").ends_with("ok\n"));
}

#[test]
fn without_io_uring_tests_fail_unless_that_is_allowed() {
    let test = "one_trace_gives_one_transcript";
    let (passes, printed) = support::run_without_uring(test, false);
    assert!(!passes && printed.contains("io_uring cannot be used here"), "{printed}");
    let (passes, printed) = support::run_without_uring(test, true);
    assert!(passes && printed.contains("1 passed"), "epoll is tested all the same: {printed}");
    assert_eq!(printed.matches("SKIPPED: drivers: io_uring cannot be used here").count(), 1, "{printed}");
}

/// With fewer slots in the ring's table than a listener's queue has, connections are accepted one by one,
/// none into a table that is full: a connection without a slot waits, and is accepted when there is one.
#[test]
fn a_full_table_loses_no_connection() {
    const PLACES: u64 = 200;
    for driver in drivers() {
        let mut command = stentor();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--shards",
            "1",
            "--driver",
            driver,
        ]);
        let limit = Rlimit { current: Some(PLACES), maximum: Some(PLACES) };
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) };
        let server = Server::from(command);
        let ask = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut clients: Vec<_> = (0..3 * PLACES).map(|_| server.raw()).collect();
        for client in &mut clients {
            client.write_all(ask).unwrap();
        }
        // Every connection is answered: with what it requested, or that the server is full.
        let (mut served, mut full) = (0, 0);
        for mut client in clients {
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            match &answer {
                b"HTTP/1.1 200" => served += 1,
                b"HTTP/1.1 503" => full += 1,
                other => panic!("{driver}: {}", other.escape_ascii()),
            }
        }
        assert!(served > 50 && served + full == 3 * PLACES, "{driver}: {served} served, {full} turned away");
    }
}

/// How a client ends its connection.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// It ends its stream, and would read on.
    Shutdown,
    /// It closes its socket.
    Close,
    /// It resets the connection.
    Reset,
}

/// What a client sent last and the end of its stream are one event for the server when both come while it
/// looks elsewhere. The end is seen all the same: with pings off, nothing else would find the member gone.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    const MEMBERS: usize = 20;
    for driver in drivers() {
        for leaving in [Leaving::Shutdown, Leaving::Close, Leaving::Reset] {
            let server = start(driver, &["--ping-interval", "0s"]);
            let mut members: Vec<_> = (0..MEMBERS).map(|_| member(&server)).collect();
            assert_eq!(server.metric("stentor_members"), MEMBERS as u64);
            server.signal(Signal::STOP);
            for member in &mut members {
                member.write_all(&text("the last bytes")).unwrap();
                match leaving {
                    Leaving::Shutdown => member.shutdown(Shutdown::Write).unwrap(),
                    Leaving::Close => {}
                    Leaving::Reset => {
                        socket2::SockRef::from(&*member).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
            }
            if !matches!(leaving, Leaving::Shutdown) {
                members.clear();
            }
            server.signal(Signal::CONT);
            // Each request is some turns of the server's: what it has not seen by then it will never see.
            let left = (0..50).map(|_| server.metric("stentor_members")).find(|&left| left == 0);
            assert_eq!(left, Some(0), "{driver}, {leaving:?}: {} ghosts", server.metric("stentor_members"));
        }
    }
}

/// A silent member of a room.
fn member(server: &Server) -> Tcp {
    let mut client = server.raw();
    client.write_all(&upgrade("/ws/a?room=r")).unwrap();
    read_head(&mut client);
    client
}

/// A member that sends and ends its stream at once is gone when its stream is, however fast that was.
#[test]
fn a_client_that_sends_and_closes_at_once_leaves_no_member() {
    for driver in drivers() {
        let server = start(driver, &["--ping-interval", "0s"]);
        let leave = |_| {
            let mut client = member(&server);
            client.write_all(&text("bye")).unwrap();
            // It still reads: so nothing but the end of its stream shows that it is gone.
            client.shutdown(Shutdown::Write).map(|()| client).unwrap()
        };
        let _readers: Vec<_> = (0..200).map(leave).collect();
        let left = (0..50).map(|_| server.metric("stentor_members")).find(|&left| left == 0);
        assert_eq!(left, Some(0), "{driver}: {} ghosts", server.metric("stentor_members"));
    }
}

/// Where the kernel does not report the peer's address, the bound on connections of one address holds all the
/// same: for all such connections together.
#[test]
fn connections_of_an_unknown_address_are_counted_together() {
    let server = start("uring", &["--max-connections-per-address", "3"]);
    // No descriptor is left to find an address with.
    server.limit_descriptors(4);
    let mut clients: Vec<_> = (0..8).map(|_| server.raw()).collect();
    let mut answers = [0; 2];
    for client in &mut clients {
        client.write_all(&upgrade("/ws/a?room=r")).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        match &answer {
            b"HTTP/1.1 101" => answers[0] += 1,
            b"HTTP/1.1 429" => answers[1] += 1,
            other => panic!("{}", other.escape_ascii()),
        }
    }
    assert_eq!(answers, [3, 5]);
}

/// A server whose shard panics when `PANIC` arrives without a mask, which only builds with debug assertions
/// do.
fn fragile(driver: &str, shards: &str) -> Server {
    let mut command = stentor();
    command.env("PANIC_ON", PANIC).args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--shards", shards, "--driver", driver]);
    Server::from(command)
}

const PANIC: &str = "and now a panic";

/// A text whose masking key is zero.
fn unmasked(payload: &str) -> Vec<u8> {
    let head = [0x81, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    [&head, payload.as_bytes()].concat()
}

/// A panic ends the connections of its shard and nothing else: WebSockets with a Close, the others with a
/// reset. The shard begins anew.
#[test]
#[cfg(debug_assertions)]
fn a_shard_that_panics_is_replaced() {
    const CLOSE: &[u8] = b"\x88\x02\x03\xf3"; // 1011
    for driver in drivers() {
        let mut server = fragile(driver, "1");
        let (mut idle, mut publisher, mut request) = (member(&server), member(&server), server.raw());
        request.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(server.metric("stentor_members"), 2, "{driver}");
        // Behind a frame that is still to be handed to the shard, in the same turn.
        server.signal(Signal::STOP);
        idle.write_all(&text("unheard")).unwrap();
        publisher.write_all(&unmasked(PANIC)).unwrap();
        server.signal(Signal::CONT);
        for client in [&mut idle, &mut publisher] {
            let mut last = Vec::new();
            client.read_to_end(&mut last).unwrap();
            assert!(last.ends_with(CLOSE), "{driver}: {}", last.escape_ascii());
        }
        let error = request.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{driver}");
        let line = server.log_line("what PANIC_ON names has arrived");
        assert!(line.contains("\"backtrace\"") && line.contains("event_loop"), "{line}");
        // Later connections find everything as it was, but for the others.
        let mut members: Vec<_> = (0..300).map(|_| member(&server)).collect();
        members[0].write_all(&text("anew")).unwrap();
        for member in &mut members {
            let mut received = [0; 9];
            member.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"\x81\x07a: anew", "{driver}");
        }
        let page = server.get("/metrics");
        let [panics, members, connections, closes, accepted] = [
            "shard_panics_total",
            "members",
            "connections",
            "connections_closed_total",
            "connections_accepted_total",
        ]
        .map(|name| support::metric(&page, &format!("stentor_{name}")));
        assert_eq!((panics, members), (1, 300), "{driver}");
        assert!(connections > members && accepted == closes + connections, "{driver}: {page}");
    }
}

/// Members on other shards of rooms whose home has panicked are notified, join anew, and go on in one order
/// with all others.
#[test]
#[cfg(debug_assertions)]
fn members_on_other_shards_outlive_a_panic() {
    const MEMBERS: usize = 24;
    for driver in drivers() {
        let server = fragile(driver, "3");
        let mut members: Vec<_> = (0..MEMBERS).map(|_| server.client("/ws/a?room=r")).collect();
        // Its shard panics; whether that is the room's home, and which members it takes along, is the
        // kernel's choice.
        let mut fuse = server.client("/ws/fuse?room=elsewhere");
        fuse.get_mut().write_all(&unmasked(PANIC)).unwrap();
        assert_eq!(support::close_code(&mut fuse), 1011, "{driver}");
        assert_eq!(server.metric("stentor_shard_panics_total"), 1, "{driver}");
        let mut joiner = server.client("/ws/new?room=r");
        joiner.send(tungstenite::Message::text("anew")).unwrap();
        let mut survivors = 0;
        for member in &mut members {
            loop {
                match member.read() {
                    Ok(tungstenite::Message::Text(text)) if text.as_str() == "new: anew" => {
                        survivors += 1;
                        break;
                    }
                    // Of a room that has begun anew: its position, and that something may be missing.
                    Ok(tungstenite::Message::Text(text)) => {
                        assert!(text.starts_with(": "), "{driver}: {text}")
                    }
                    Ok(tungstenite::Message::Close(close)) => {
                        assert_eq!(close.map(|close| u16::from(close.code)), Some(1011), "{driver}");
                        break;
                    }
                    other => panic!("{driver}: {other:?}"),
                }
            }
        }
        assert_eq!(server.metric("stentor_members"), survivors + 1, "{driver}");
        assert!(survivors < MEMBERS as u64 + 1);
    }
}

/// A second panic soon after the first one ends the process: it would go on like that.
#[test]
#[cfg(debug_assertions)]
fn a_second_panic_ends_the_process() {
    for driver in drivers() {
        let mut server = fragile(driver, "1");
        for _ in 0..2 {
            let mut member = member(&server);
            member.write_all(&unmasked(PANIC)).unwrap();
            let _ = member.read_to_end(&mut Vec::new());
        }
        assert_eq!(server.wait().code(), Some(70), "{driver}");
        server.log_until("a second panic within 10s");
    }
}

/// A client that never answers the server's Close is reset, which frees its socket at once.
#[test]
fn a_client_that_does_not_close_is_reset() {
    for driver in drivers() {
        let mut server = start(driver, &["--close-timeout", "100ms"]);
        let mut client = echo(&server);
        server.signal(Signal::TERM);
        let mut final_bytes = Vec::new();
        let error = client.read_to_end(&mut final_bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{driver}");
        assert_eq!(parse(&final_bytes).and_then(|frame| frame.close_code()), Some(1001), "{driver}");
        assert!(server.wait().success(), "{driver}");
    }
}
