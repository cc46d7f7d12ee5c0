//! The server over real sockets, with tungstenite's client.

mod support;

use std::io::{Read, Write};

use rustix::process::Signal;
use support::{Server, close_code, text};
use tungstenite::Message;

#[test]
fn publications_reach_every_shard() {
    let server = Server::start(&["--shards", "3"]);
    let mut members: Vec<_> = (0..12).map(|index| server.client(&format!("/ws/m{index}?room=r"))).collect();
    let mut unsubscribed = server.client("/ws/stranger");
    for (index, member) in members.iter_mut().enumerate() {
        member.send(Message::text(format!("I am {index}"))).unwrap();
    }
    let received: Vec<Vec<_>> =
        members.iter_mut().map(|member| (0..12).map(|_| text(member)).collect()).collect();
    let mut sorted = received[0].clone();
    sorted.sort();
    let mut expected: Vec<_> = (0..12).map(|index| format!("m{index}: I am {index}")).collect();
    expected.sort();
    assert_eq!(sorted, expected);
    assert!(received.iter().all(|lines| *lines == received[0]), "one order for all");
    unsubscribed.send(Message::text("alone")).unwrap();
    assert_eq!(text(&mut unsubscribed), "stranger: alone");
    assert_eq!(server.metric("stentor_deliveries_total"), 12 * 12 + 1);
    assert_eq!(server.metric("stentor_members"), 13);
}

#[test]
fn the_subprotocol_and_names_in_any_script() {
    let server = Server::start(&["--shards", "1"]);
    let (mut client, response) = server
        .try_client("/ws/Gr%C3%BC%C3%9Fe%20%F0%9F%99%82", &[("Sec-WebSocket-Protocol", "chat")])
        .unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    client.send(Message::text("hi")).unwrap();
    assert_eq!(text(&mut client), "Grüße 🙂: hi");
}

#[test]
fn refusals_have_a_status_and_a_sentence() {
    let server = Server::start(&["--shards", "1", "--origins", "https://chat.example"]);
    for (path, headers, expected) in [
        ("/ws/%0A", &[][..], "400"),
        ("/ws/a", &[("Origin", "https://evil.example")], "403"),
        ("/echo", &[], "404"),
        ("/ws/a", &[("Sec-WebSocket-Version", "8")], "426"),
    ] {
        let error = server.try_client(path, headers).err().unwrap_or_default();
        assert!(error.contains(expected), "{path}: {error}");
    }
    assert!(server.try_client("/ws/a", &[("Origin", "https://chat.example")]).is_ok());
    let answer = server.get("/ws/a");
    assert!(
        answer.starts_with("HTTP/1.1 426 ") && answer.contains("\r\nSec-WebSocket-Version: 13\r\n"),
        "{answer}"
    );
}

#[test]
fn refusals_are_complete_even_if_their_slots_are_reused_at_once() {
    let server = Server::start(&["--shards", "1"]);
    for attempt in 0..200 {
        let error = server.try_client("/ws/%0A", &[]).err().unwrap_or_default();
        assert!(error.contains("400"), "attempt {attempt}: {error}");
    }
}

#[test]
fn close_codes() {
    let server = Server::start(&["--shards", "1", "--max-message", "1000", "--echo"]);
    let mut client = server.client("/ws/a");
    client.send(Message::text("x".repeat(1001))).unwrap();
    assert_eq!(close_code(&mut client), 1009);
    let mut client = server.client("/ws/a");
    client.send(Message::binary(vec![0])).unwrap();
    assert_eq!(close_code(&mut client), 1003);
    let mut client = server.client("/echo");
    client.send(Message::binary(vec![7; 1000])).unwrap();
    assert_eq!(client.read().unwrap(), Message::binary(vec![7; 1000]));
    client.close(None).unwrap();
    assert_eq!(close_code(&mut client), 1005, "a Close without a code is answered by one");
}

#[test]
fn a_lost_member_is_gone_from_the_room() {
    let server = Server::start(&["--shards", "2"]);
    let mut stays = server.client("/ws/stays");
    let leaves = server.client("/ws/leaves");
    assert_eq!(server.metric("stentor_members"), 2);
    drop(leaves);
    while server.metric("stentor_members") != 1 {
        stays.send(Message::text("anyone?")).unwrap();
        assert_eq!(text(&mut stays), "stays: anyone?");
    }
}

#[test]
fn pages_and_their_rules() {
    let server = Server::start(&["--shards", "1"]);
    let page = server.get("/");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>Stentor</title>"));
    assert!(page.contains("Content-Security-Policy: default-src 'none'"));
    let etag = page.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    let again = server
        .ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nIf-None-Match: {etag}\r\nConnection: close\r\n\r\n"));
    assert!(again.starts_with("HTTP/1.1 304 "), "{again}");
    for (path, expected) in
        [("/healthz", "ok"), ("/readyz", "ready"), ("/chat.js", "use strict"), ("/style.css", "--ink")]
    {
        let answer = server.get(path);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(expected), "{path}: {answer}");
    }
    let two = server.ask("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(two.matches("HTTP/1.1 200 OK").count(), 2, "pipelined: {two}");
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let mut server = Server::start(&["--shards", "2", "--drain", "20s"]);
    let mut clients: Vec<_> = (0..20).map(|index| server.client(&format!("/ws/m{index}"))).collect();
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(close_code(client), 1001);
        // Reading on sends our answer, then finds the end.
        while client.read().is_ok() {}
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--shards", "2", "--drain", "1h", "--close-timeout", "1h"]);
    let client = server.client("/ws/never-answers");
    server.signal(Signal::INT);
    server.log_line("draining");
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    drop(client);
}

#[test]
fn the_drain_is_bounded() {
    let mut server = Server::start(&["--shards", "1", "--drain", "300ms", "--close-timeout", "1h"]);
    let client = server.client("/ws/never-answers");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    drop(client);
}

#[test]
fn sighup_reloads_the_configuration() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max_message = 100\nshards = 1\n").unwrap();
    let mut command = support::stentor();
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json", "--config"]).arg(file.path());
    let mut server = Server::from(command);
    let mut client = server.client("/ws/a");
    std::fs::write(file.path(), "max_message = 10\nshards = 2\n").unwrap();
    server.signal(Signal::HUP);
    assert!(server.log_line("restart required").contains("\"setting\":\"shards\""));
    server.log_line("configuration reloaded");
    client.send(Message::text("more than ten bytes")).unwrap();
    assert_eq!(close_code(&mut client), 1009);
    std::fs::write(file.path(), "max_mesage = 10\n").unwrap();
    server.signal(Signal::HUP);
    assert!(server.log_line("reload failed").contains("did you mean max_message?"));
    server.client("/ws/b");
}

/// A server with a file of settings, which can be written anew.
fn with_file(settings: &str) -> (Server, impl Fn(&str)) {
    let (file, path) = support::file(settings);
    let server = Server::start(&["--config", &path]);
    (server, move |settings: &str| std::fs::write(file.path(), settings).expect("a temporary file"))
}

#[test]
fn settings_that_need_a_restart_are_logged_on_every_reload() {
    let (mut server, write) = with_file("shards = 1\n");
    for settings in ["shards = 2\n", "shards = 2\nmax_name = 9\n"] {
        write(settings);
        server.signal(Signal::HUP);
        assert!(server.log_line("restart required").contains("\"setting\":\"shards\""));
        server.log_line("configuration reloaded");
    }
    write("shards = 1\n");
    server.signal(Signal::HUP);
    // The reload is of the running configuration: nothing stands between the two lines.
    assert!(!server.log_until("configuration reloaded").iter().any(|line| line.contains("restart required")));
}

#[test]
fn a_reload_with_too_many_connections_changes_nothing() {
    let (mut server, write) = with_file("shards = 1\nmax_message = 100\n");
    write("shards = 1\nmax_message = 10\nmax_connections = 999999999\n");
    server.signal(Signal::HUP);
    assert!(server.log_line("reload failed").contains("max_connections = 999999999"));
    let mut client = server.client("/ws/a");
    client.send(Message::text("more than ten bytes")).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("a: more than ten bytes"));
}

#[test]
fn a_new_ping_interval_applies_to_open_connections() {
    let (mut server, write) = with_file("shards = 1\nping_interval = \"0s\"\n");
    let mut client = server.client("/ws/a");
    write("shards = 1\nping_interval = \"200ms\"\npong_timeout = \"10s\"\n");
    server.signal(Signal::HUP);
    server.log_until("configuration reloaded");
    assert!(matches!(client.read().unwrap(), Message::Ping(_)));
    client.flush().unwrap();
    write("shards = 1\nping_interval = \"0s\"\n");
    server.signal(Signal::HUP);
    server.log_until("configuration reloaded");
    // No client is waited for any more, not even for the answer to a ping that is in flight.
    client.send(Message::text("still here")).unwrap();
    while !matches!(client.read().unwrap(), Message::Text(_)) {}
}

#[test]
fn without_descriptors_accepting_pauses_and_recovers() {
    let mut command = std::process::Command::new("sh");
    // Below what the reserve alone needs nothing starts; this leaves room for some clients.
    let run = "ulimit -n 110; exec \"$0\" serve --listen 127.0.0.1:0 --shards 1 --log-format json";
    command.args(["-c", run, env!("CARGO_BIN_EXE_stentor")]);
    let server = Server::from(command);
    let mut inside = Vec::new();
    let refused = loop {
        match server.try_client(&format!("/ws/m{}", inside.len()), &[]) {
            Ok((client, _)) => inside.push(client),
            Err(error) => break error,
        }
        assert!(inside.len() < 110);
    };
    assert!(refused.contains("503"), "{refused}");
    assert!(inside.len() > 10);
    // Far more than there is room for, all waiting.
    let waiting: Vec<_> = (0..100).map(|_| server.raw()).collect();
    inside[0].send(Message::text("still here")).unwrap();
    assert_eq!(text(&mut inside[0]), "m0: still here");
    drop(waiting);
    drop(inside.split_off(1));
    loop {
        // Those that left are noticed one by one.
        if let Ok((mut late, _)) = server.try_client("/ws/late", &[]) {
            late.send(Message::text("made it")).unwrap();
            assert_eq!(text(&mut late), "late: made it");
            break;
        }
    }
}

#[test]
fn an_incomplete_handshake_delays_no_other_client() {
    let server = Server::start(&["--shards", "1", "--handshake-timeout", "300ms"]);
    let mut slow = server.raw();
    slow.write_all(b"GET /ws/a HTTP/1.1\r\nHo").unwrap();
    let mut client = server.client("/ws/b");
    client.send(Message::text("quick")).unwrap();
    assert_eq!(text(&mut client), "b: quick");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_socket_from_the_service_manager_is_served() {
    if std::process::Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return; // the step `systemd` of test.sh has it
    }
    // Below the ports that connections get: one that requests a port where nothing listens yet can be given
    // that very port, and is then connected with itself.
    let is_free = |port: &u16| std::net::UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let port = (first..32_768).find(is_free).unwrap();
    let mut command = std::process::Command::new("systemd-socket-activate");
    command.args([
        "-l",
        &format!("127.0.0.1:{port}"),
        &format!("--setenv=STENTOR_DRIVER={}", support::driver()),
        env!("CARGO_BIN_EXE_stentor"),
        "--shards",
        "2",
        "--log-format",
        "json",
    ]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut answer = String::new();
    let mut stream = loop {
        match support::Tcp::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[test]
fn names_in_the_log_cannot_forge_a_line() {
    let mut server = Server::start(&["--shards", "1", "--log", "debug"]);
    // The one invisible character that a name may have, between letters that would join, and a quotation
    // mark.
    drop(server.client("/ws/%22%D8%B9%D9%84%DB%8C%E2%80%8C%D8%B1%D8%B6%D8%A7"));
    let line = server.log_line("connection closed");
    assert!(line.contains(r#"\\\"علی\\u{200c}رضا"#), "{line}");
}

#[test]
fn a_killed_servers_port_is_free_for_its_successor() {
    let start = |address: &str| {
        let mut command = support::stentor();
        command.args(["serve", "--listen", address, "--log-format", "json", "--shards", "1"]);
        Server::from(command)
    };
    // An address from which no client of another test comes: none can take the port in between.
    let mut first = start("127.0.99.1:0");
    let address = first.address;
    let _members: Vec<_> = (0..10).map(|_| first.client("/ws/a")).collect();
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(start(&address.to_string()).get("/healthz").lines().next(), Some("HTTP/1.1 200 OK"));
}

/// In the program that is named after io_uring, nothing runs on epoll. See `support::driver`.
#[test]
fn without_io_uring_no_test_that_needs_it_passes() {
    if support::driver() != "uring" {
        return;
    }
    let test = "e2e::an_incomplete_handshake_delays_no_other_client";
    let (passes, printed) = support::run_without_uring(test, false);
    assert!(!passes && printed.contains("io_uring cannot be used here"), "{printed}");
    let (passes, printed) = support::run_without_uring(test, true);
    assert!(passes && !printed.contains("passed"), "the program ends before the test does: {printed}");
    assert_eq!(printed.matches("SKIPPED: e2e_uring: io_uring cannot be used here").count(), 1, "{printed}");
}
