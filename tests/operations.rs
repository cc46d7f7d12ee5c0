//! What an operator sees of a running server: its shutdown, its refusals, its reloads, its metrics.

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use rustix::process::Signal;
use support::{Server, close_code, metric, text};
use tungstenite::Message;

/// The sum of a metric whose values may be fractions.
fn fraction(page: &str, name: &str) -> f64 {
    let lines = page
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
    lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
}

/// Before the drain there is a phase in which load balancers learn of it, and every client is still served.
#[test]
fn sigterm_first_says_that_the_server_is_not_ready() {
    let mut server = Server::start(&["--shards", "2", "--shutdown-delay", "1h"]);
    let mut before = server.client("/ws/before");
    server.signal(Signal::TERM);
    server.log_line("not ready, still serving");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("not ready\n"), "{ready}");
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(server.metric("stentor_ready"), 0);
    let mut after = server.client("/ws/after");
    after.send(Message::text("hello")).unwrap();
    for client in [&mut before, &mut after] {
        assert_eq!(text(client), "after: hello");
    }
    // A second signal does not wait for the delay.
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_drain_follows_the_delay() {
    let mut server = Server::start(&["--shards", "2", "--shutdown-delay", "200ms", "--drain", "1h"]);
    let mut client = server.client("/ws/a");
    server.signal(Signal::TERM);
    let log = server.log_until("draining").concat();
    assert!(log.contains("not ready, still serving"), "{log}");
    assert_eq!(close_code(&mut client), 1001);
    while client.read().is_ok() {}
    assert_eq!(server.wait().code(), Some(0));
}

/// Ctrl-C is for the user at the terminal, who has no load balancer.
#[test]
fn sigint_does_not_wait() {
    let mut server = Server::start(&["--shards", "1", "--shutdown-delay", "1h"]);
    server.signal(Signal::INT);
    let log = server.log_until("shutdown complete").concat();
    assert!(!log.contains("still serving"), "{log}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn health_and_metrics_answer_until_the_end() {
    let mut server = Server::start(&["--shards", "2", "--drain", "1h", "--close-timeout", "1h"]);
    let mut client = server.client("/ws/does-not-answer");
    server.signal(Signal::TERM);
    assert_eq!(close_code(&mut client), 1001);
    // Nor does it hold up anything that its answer to the Close is not sent. On every shard:
    for _ in 0..8 {
        assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
        assert!(server.get("/readyz").starts_with("HTTP/1.1 503 "));
        let page = server.get("/metrics");
        assert_eq!((metric(&page, "stentor_ready"), metric(&page, "stentor_connections")), (0, 1));
    }
    let error = server.try_client("/ws/late", &[]).err().unwrap_or_default();
    assert!(error.contains("503"), "{error}");
    assert!(server.get("/ws/late").contains("\r\nRetry-After: "));
    while client.read().is_ok() {}
    assert_eq!(server.wait().code(), Some(0));
}

/// Many more than may be open, all at once, none of which closes its side: each gets its answer.
#[test]
fn every_surplus_client_gets_its_503_at_once() {
    let mut server = Server::start(&["--shards", "2", "--max-connections", "3"]);
    let mut inside: Vec<_> = (0..3).map(|index| server.client(&format!("/ws/m{index}"))).collect();
    let request = format!(
        "GET /ws/late HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
         13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        server.address
    );
    let surplus: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = server.raw();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    for mut stream in &surplus {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    }
    let line = server.log_line("max_connections reached");
    assert!(line.contains("raise max_connections") && !line.contains("lower"), "{line}");
    // That is when metrics are needed.
    let page = server.get("/metrics");
    assert_eq!((metric(&page, "stentor_connections"), metric(&page, "stentor_connections_limit")), (3, 3));
    assert_eq!(metric(&page, "stentor_accept_pauses_total"), 0);
    let refused = "stentor_http_refusals_total{status=\"503\",cause=\"connection_limit\"} 400";
    assert!(page.lines().any(|line| line == refused), "{page}");
    drop(surplus);
    inside[0].close(None).unwrap();
    while inside[0].read().is_ok() {}
    server.client("/ws/next");
}

#[test]
fn each_refusal_is_logged_with_its_cause() {
    let mut server = Server::start(&["--shards", "1", "--log", "debug"]);
    let origin = [("Origin", "https://chat.example")];
    assert!(server.try_client("/ws/ann?room=r&token=hidden", &origin).is_err());
    let line = server.log_line("request refused");
    for part in [
        "\"address\":\"127.0.0.1\"",
        "\"status\":403",
        "\"cause\":\"origin\"",
        "\"method\":\"GET\"",
        "\"path\":\"\\\"/ws/ann\\\"\"",
        "\"origin\":\"\\\"https://chat.example\\\"\"",
        &format!("\"host\":\"\\\"{}\\\"\"", server.address),
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!line.contains("hidden"), "{line}");
    server.get("/%0a%1b[2J");
    let line = server.log_line("request refused");
    assert!(line.contains("not_found") && !line.contains('\u{1b}'), "{line}");
    // Where a closed connection came from is logged, too.
    drop(server.client("/ws/a"));
    let line = server.log_line("\"reason\":\"disconnected\"");
    assert!(line.contains("\"address\":\"127.0.0.1\""), "{line}");
}

#[test]
fn refusals_are_summed_up() {
    let mut server = Server::start(&["--shards", "1"]);
    for _ in 0..3 {
        assert!(server.try_client("/ws/ann", &[("Origin", "https://chat.example")]).is_err());
    }
    let line = server.log_line("requests refused");
    assert!(line.contains("403 origin: ") && line.contains("pass Host"), "{line}");
    assert!(!line.contains("chat.example"), "{line}");
    let page = server.get("/metrics");
    let refused = "stentor_http_refusals_total{status=\"403\",cause=\"origin\"} 3";
    assert!(page.lines().any(|line| line == refused), "{page}");
}

#[test]
fn a_reload_says_what_has_changed() {
    let (file, path) = support::file("max_name = 7\nshards = 1\n");
    let mut server = Server::start(&["--config", &path]);
    let reload = |server: &mut Server, settings: &str, until: &str| {
        std::fs::write(file.path(), settings).unwrap();
        server.signal(Signal::HUP);
        server.log_until(until).concat()
    };
    let log = reload(
        &mut server,
        "max_name = 9\nshards = 2\nlog = \"warn,stentor=info\"\n",
        "configuration reloaded",
    );
    assert!(
        log.contains("\"changed\":\"max_name: 7 → 9; log: \\\"info\\\" → \\\"warn,stentor=info\\\"\""),
        "{log}"
    );
    assert!(log.contains("\"setting\":\"shards\",\"running\":\"1\",\"configured\":\"2\""), "{log}");
    let log = reload(
        &mut server,
        "max_name = 9\nshards = 1\nlog = \"warn,stentor=info\"\n",
        "configuration reloaded",
    );
    assert!(log.contains("\"changed\":\"nothing\""), "{log}");
    let page = server.get("/metrics");
    assert_eq!(metric(&page, "stentor_config_last_reload_successful"), 1);
    let applied = metric(&page, "stentor_config_last_reload_success_timestamp_seconds");
    reload(&mut server, "max_name = 0\n", "reload failed");
    let page = server.get("/metrics");
    for line in [
        "stentor_config_reloads_total{result=\"success\"} 2",
        "stentor_config_reloads_total{result=\"failure\"} 1",
        "stentor_config_last_reload_successful 0",
        &format!("stentor_config_last_reload_success_timestamp_seconds {applied}"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
}

/// In a small room a publication is ordered and written within one turn: that takes time all the same.
#[test]
fn the_fanout_of_a_small_room_takes_time() {
    let server = Server::start(&["--shards", "1"]);
    let mut clients: Vec<_> =
        (0..3).map(|index| server.client(&format!("/ws/m{index}?room=small"))).collect();
    for round in 0..20 {
        clients[0].send(Message::text(round.to_string())).unwrap();
        for client in &mut clients {
            assert_eq!(text(client), format!("m0: {round}"));
        }
    }
    let page = server.get("/metrics");
    let (sum, count) = (
        fraction(&page, "stentor_fanout_duration_seconds_sum"),
        metric(&page, "stentor_fanout_duration_seconds_count"),
    );
    assert!(count >= 19, "{count}");
    // Two system calls at least, for each.
    let mean = sum / f64::from(u32::try_from(count).unwrap());
    assert!(mean > 1e-6 && mean < 1.0, "{mean} s");
}

#[test]
fn the_process_is_measured() {
    let server = Server::start(&["--shards", "1"]);
    let page = server.get("/metrics");
    let resident = metric(&page, "process_resident_memory_bytes");
    let seen_outside = server.memory();
    assert!(resident.abs_diff(seen_outside) < seen_outside / 2, "{resident} and {seen_outside}");
    assert!(fraction(&page, "process_cpu_seconds_total") > 0.0);
    assert!(metric(&page, "process_open_fds") > 5);
    assert!(metric(&page, "process_max_fds") >= metric(&page, "process_open_fds"));
    let uptime = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
        - fraction(&page, "process_start_time_seconds");
    assert!((0.0..60.0).contains(&uptime), "{uptime}");
}

/// The name in the path is only a request: it must not contradict the token.
#[test]
fn the_name_in_the_path_is_the_tokens() {
    let settings = ["--shards", "1", "--auth", "token", "--token-hmac-secret-files", support::SECRET];
    let server = Server::start(&settings);
    let token = support::token(&["--user", "7", "--name", "Ann"]);
    let ask = |path: &str| {
        let host = server.address;
        server.ask(&format!(
            "GET {path}?token={token} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ))
    };
    let answer = ask("/ws/Bob");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.ends_with("The name in the path must be the token's display name.\n"), "{answer}");
    assert!(server.try_client(&format!("/ws/Ann?token={token}"), &[]).is_ok());
    let refused = "stentor_http_refusals_total{status=\"403\",cause=\"other_user\"} 1";
    assert!(server.get("/metrics").lines().any(|line| line == refused));
}

/// A reader that is slow, or sends nothing, holds up no shutdown longer than it may.
#[test]
fn a_probe_that_sends_nothing_does_not_hold_up_the_end() {
    let mut server = Server::start(&["--shards", "1", "--drain", "1h", "--close-timeout", "1h"]);
    let mut client = server.client("/ws/a");
    server.signal(Signal::TERM);
    assert_eq!(close_code(&mut client), 1001);
    let silent = server.raw();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    while client.read().is_ok() {}
    assert_eq!(server.wait().code(), Some(0));
    drop(silent);
}
