//! swarm's numbers beside what is known from elsewhere: an independent listener, a proxy that delays, and a
//! server that is stopped.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::server::{Stentor, check_clean};
use support::{Live, Run, spawn};

#[expect(
    clippy::disallowed_types,
    reason = "a blocking client and a blocking proxy, threads for each connection"
)]
type Stream = std::net::TcpStream;

#[expect(clippy::disallowed_types, reason = "as above")]
type Listener = std::net::TcpListener;

/// How long the proxy holds bytes back, in each direction.
const DELAY: Duration = Duration::from_millis(50);

/// How long the server is stopped.
const STOP: Duration = Duration::from_millis(500);

#[test]
fn an_independent_listener_receives_what_swarm_has_published() {
    let server = Stentor::start(&["--shards", "2"]);
    let address = server.url.trim_start_matches("ws://").to_owned();
    let socket = Stream::connect(&address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let url = format!("{}/ws/listener?room=swarm", server.url);
    let (mut listener, _) = tungstenite::client(url, socket).unwrap();
    let load = ["--clients", "40", "--publishers", "4", "--rate", "300", "--duration", "1s"];
    let run = Run::new(&[&["chat", &server.url][..], &load].concat());
    check_clean(&run);
    assert_eq!(run.metrics(["published", "deliveries"]), [300.0, 12_000.0], "{}", run.table);
    // Each publisher's messages arrive here, too: once and in order. One more would be received before the
    // timeout.
    let mut next = [0; 4];
    while next != [75; 4] {
        let tungstenite::Message::Text(text) = listener.read().unwrap() else { continue };
        let Some((_, stamp)) = text.split_once("@swarm1:") else { continue };
        let group = |index: usize| u32::from_str_radix(&stamp[8 * index..8 * index + 8], 16).unwrap();
        let (publisher, sequence) = (group(1) as usize, group(2));
        assert_eq!(sequence, next[publisher], "of publisher {publisher}");
        next[publisher] += 1;
    }
}

/// Passes bytes on after the delay.
fn delayed(mut from: Stream, mut to: Stream) {
    let (sender, bytes): (Sender<(Instant, Vec<u8>)>, _) = channel();
    spawn(move || {
        for (due, bytes) in bytes {
            std::thread::sleep(due.saturating_duration_since(now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if sender.send((now() + DELAY, buffer[..len].to_vec())).is_err() {
                break;
            }
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "the clock of the proxy")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_proxy_that_delays_is_in_the_latency_exactly() {
    let server = Stentor::start(&[]);
    let upstream = server.url.trim_start_matches("ws://").to_owned();
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    spawn(move || {
        for client in listener.incoming().flatten() {
            let server = Stream::connect(&upstream).unwrap();
            for socket in [&client, &server] {
                socket.set_nodelay(true).unwrap();
            }
            delayed(client.try_clone().unwrap(), server.try_clone().unwrap());
            delayed(server, client);
        }
    });
    let load = ["--clients", "10", "--publishers", "2", "--rate", "100", "--duration", "1s"];
    let run = Run::new(&[&["chat", &url][..], &load].concat());
    check_clean(&run);
    // Both ways, and what the machine takes besides.
    for metric in ["p50", "handshake_p50"] {
        assert!((0.100..0.125).contains(&run.metric(metric)), "{metric}: {}", run.table);
    }
    assert_eq!(run.metric("deliveries"), 1000.0);
}

#[test]
fn a_server_that_is_stopped_for_half_a_second_is_in_the_latency_exactly() {
    let server = Stentor::start(&[]);
    let pid = Pid::from_raw(server.pid().parse().unwrap()).unwrap();
    let load = ["--clients", "20", "--publishers", "2", "--rate", "100", "--duration", "3s"];
    let mut live = Live::start(&[&["chat", &server.url][..], &load].concat());
    live.wait_for("running  20 connected");
    kill_process(pid, Signal::STOP).unwrap();
    let began = now();
    std::thread::sleep(STOP);
    kill_process(pid, Signal::CONT).unwrap();
    let stopped = began.elapsed().as_secs_f64();
    let run = live.finish();
    assert_eq!(run.code, Some(0), "{}", run.table);
    let metric = |name| run.metric(name);
    assert_eq!((metric("lost"), metric("deliveries")), (0.0, 6000.0));
    assert!((stopped - 0.02..stopped + 0.1).contains(&metric("max")), "{stopped}: {}", metric("max"));
    // A message every 10 ms: those of the first half of the stop are delayed by more than half of it.
    let pairs = run.json["latency"].as_array().unwrap();
    let slow = pairs.iter().filter(|pair| pair[0].as_f64().unwrap() / 1e6 > stopped / 2.0);
    let slow: f64 = slow.map(|pair| pair[1].as_f64().unwrap()).sum::<f64>() / 20.0;
    assert!((slow - stopped / 2.0 * 100.0).abs() <= 4.0, "{slow} messages of a stop of {stopped} s");
}
