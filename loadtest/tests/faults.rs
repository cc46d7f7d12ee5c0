//! swarm against a server with fault injection: each delivery error is found and counted exactly.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use support::{CLIENTS, Fault, Run, STALL, certificate, rejected, serve};

fn chat(fault: Fault) -> Run {
    let url = format!("ws://{}/ws/{{name}}", serve(fault, None));
    let clients = CLIENTS.to_string();
    let run = Run::new(&[
        "chat",
        &url,
        "--clients",
        &clients,
        "--publishers",
        "1",
        "--rate",
        "100",
        "--duration",
        "500ms",
    ]);
    assert_eq!(run.metric("published"), 50.0);
    run
}

/// Lost, duplicated, reordered, order mismatches, undelivered, connected clients; and the exit code.
fn check(fault: Fault, expected: [f64; 6], code: i32) {
    let run = chat(fault);
    let found =
        run.metrics(["lost", "duplicated", "reordered", "order_mismatch", "undelivered", "connected"]);
    assert_eq!((found, run.code), (expected, Some(code)), "{}", run.table);
}

#[test]
fn no_fault() {
    check(Fault::None, [0.0, 0.0, 0.0, 0.0, 0.0, 5.0], 0);
}

#[test]
fn one_lost_message() {
    check(Fault::Drop, [1.0, 0.0, 0.0, 0.0, 0.0, 5.0], 1);
}

#[test]
fn one_duplicated_message() {
    check(Fault::Duplicate, [0.0, 1.0, 0.0, 0.0, 0.0, 5.0], 1);
}

#[test]
fn one_reordered_message() {
    check(Fault::Reorder, [0.0, 0.0, 1.0, 0.0, 0.0, 5.0], 1);
}

#[test]
fn one_undelivered_message() {
    check(Fault::Swallow, [5.0, 0.0, 0.0, 0.0, 1.0, 5.0], 1);
}

#[test]
fn one_lost_client() {
    check(Fault::Close, [0.0, 0.0, 0.0, 0.0, 0.0, 4.0], 1);
}

#[test]
fn an_open_loop_counts_a_stall_for_every_delayed_message() {
    let run = chat(Fault::Stall);
    assert!(run.metric("max") >= STALL.as_secs_f64(), "{}", run.table);
    // Forty messages are due after the tenth, most of them during the stall: an open loop does not wait for
    // it.
    let pairs = run.json["latency"].as_array().unwrap();
    let slow = pairs.iter().filter(|pair| pair[0].as_u64().unwrap() > 150_000);
    let slow: u64 = slow.map(|pair| pair[1].as_u64().unwrap()).sum();
    assert!(slow >= 25 * CLIENTS as u64, "{slow} of them: {}", run.table);
    assert_eq!(run.metrics(["lost", "deliveries"]), [0.0, 50.0 * CLIENTS as f64]);
}

#[test]
fn a_closed_loop_waits_for_its_own_messages() {
    let url = format!("ws://{}/", serve(Fault::Stall, None));
    let clients = CLIENTS.to_string();
    let run = Run::new(&[
        "chat",
        &url,
        "--clients",
        &clients,
        "--publishers",
        "1",
        "--in-flight",
        "1",
        "--duration",
        "1s",
    ]);
    assert!(run.metric("published") > 20.0, "{}", run.table);
    // With one message in flight, each receiver has one delivery that the stall delays.
    let pairs = run.json["latency"].as_array().unwrap();
    let slow = pairs.iter().filter(|pair| pair[0].as_u64().unwrap() > 450_000);
    assert_eq!(slow.map(|pair| pair[1].as_u64().unwrap()).sum::<u64>(), CLIENTS as u64, "{}", run.table);
}

#[test]
fn through_tls() {
    let (config, authority) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority).unwrap();
    let clients = CLIENTS.to_string();
    let arguments =
        ["--clients", &clients, "--publishers", "1", "--duration", "300ms", "--size", "48..20000"];
    for trust in [&["--ca", path.to_str().unwrap()][..], &["--insecure"]] {
        let url = format!("wss://{}/", serve(Fault::None, Some(config.clone())));
        let run = Run::new(&[&["chat", &url][..], &arguments, trust].concat());
        assert_eq!(
            (run.metric("lost"), run.metric("deliveries"), run.code),
            (0.0, 150.0, Some(0)),
            "{}",
            run.table
        );
    }
}

#[test]
fn invalid_arguments_are_rejected() {
    let check = |arguments: &[&str], part: &str| {
        let (code, sentence) = rejected(arguments);
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    };
    check(&["chat", "nonsense"], "swarm: nonsense is not a ws:// or wss:// URL");
    check(&["chat", "ws://"], "names no host");
    check(&["chat", "ws://a b/"], "not found");
    check(&["chat", "ws://127.0.0.1:1/"], "no client connected to 127.0.0.1:1: the connection was refused");
    check(&["chat", "--size", "5"], "at least 48 bytes");
    check(&["chat", "--clients", "0"], "at least 1");
    check(&["chat", "--publishers", "20", "--clients", "10"], "more than 10 clients");
    check(&["chat", "--source", "::1"], "IPv4");
    check(&["chat", "--publish", "hello"], "{text}");
    check(&["chat", "--clients", "200000", "--workers", "1"], "--workers");
    check(&["chat", "--threshold", "p101.5 < 1ms"], "there is no metric");
    check(&["run", "/nowhere.toml"], "/nowhere.toml cannot be read");
    check(&["compare", "/nowhere", "/nowhere"], "/nowhere cannot be read");
    let forbidden = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\nno room for you";
    let rejecting = support::serve_responses(forbidden);
    check(&["chat", &format!("ws://{rejecting}/")], "refused with 403 Forbidden: no room for you");
}
