//! swarm's clients recover missed messages from Stentor, and detect incomplete recovery.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use support::server::{ERROR_METRICS, Stentor, check_clean};
use support::{Live, Run};

/// Ten publishers stay connected; the others are dropped in the middle of three seconds, and miss a hundred
/// messages.
const STORM: [&str; 11] = [
    "--resume",
    "--clients",
    "300",
    "--rate",
    "100",
    "--duration",
    "3s",
    "--downtime",
    "100",
    "--rooms",
    "1",
];

fn check_storm(preset: &str, shards: &str) {
    let server = Stentor::start(&["--shards", shards, "--history", "1000", "--history-bytes", "4MiB"]);
    let run = Run::new(&[&["storm", &server.url, "--preset", preset][..], &STORM].concat());
    check_clean(&run);
    let counts = run.metrics(["connected", "published", "recovered", "not_recovered", "storms_incomplete"]);
    assert_eq!(counts, [300.0, 300.0, 290.0, 0.0, 0.0], "{}", run.table);
    assert_eq!(run.metric("deliveries"), 90_000.0, "{}", run.table);
    assert!(run.metric("recovered_messages") >= 29_000.0, "{}", run.table);
    assert!((0.0..1.0).contains(&run.metric("recovery_time")), "{}", run.table);
}

#[test]
fn plain_text_clients_recover() {
    check_storm("stentor", "1");
    check_storm("stentor", "3");
}

#[test]
fn json_clients_recover() {
    check_storm("stentor-json", "1");
    check_storm("stentor-json", "3");
}

#[test]
fn churned_clients_recover() {
    for preset in ["stentor", "stentor-json"] {
        let server = Stentor::start(&["--shards", "3", "--history", "1000", "--history-bytes", "4MiB"]);
        let run = Run::new(&[
            "churn",
            &server.url,
            "--preset",
            preset,
            "--resume",
            "--clients",
            "100",
            "--publishers",
            "5",
            "--rooms",
            "5",
            "--rate",
            "500",
            "--churn",
            "200/s",
            "--duration",
            "2s",
            "--workers",
            "2",
        ]);
        check_clean(&run);
        assert!(run.metric("recovered") > 150.0, "{}", run.table);
        // Clients that are disconnected at the end are awaited: every client receives every message of its
        // room.
        assert_eq!(run.metrics(["not_recovered", "connected"]), [0.0, 100.0], "{}", run.table);
        assert_eq!(run.metric("deliveries"), 20_000.0, "{}", run.table);
    }
}

#[test]
fn a_history_that_is_too_short_is_detected() {
    for preset in ["stentor", "stentor-json"] {
        let server = Stentor::start(&["--history", "99"]);
        let run = Run::new(&[&["storm", &server.url, "--preset", preset][..], &STORM].concat());
        assert_eq!(
            run.metrics(["recovered", "not_recovered", "recovered_messages"]),
            [0.0, 290.0, 0.0],
            "{}",
            run.table
        );
        assert_eq!((run.metrics(ERROR_METRICS), run.code), ([0.0; 6], Some(1)), "{}", run.table);
        let reason = "290 clients did not recover the messages that they had missed (about 100 for each)";
        assert!(run.table.contains(reason), "{}", run.table);
    }
}

#[test]
fn a_restarted_server_is_detected() {
    for preset in ["stentor", "stentor-json"] {
        // No client uses this source address, so none can take the port in between.
        let server = Stentor::start_at("127.77.0.1:0", &[]);
        let address = server.url.trim_start_matches("ws://").to_owned();
        let clients = ["--preset", preset, "--resume", "--clients", "50", "--downtime", "2s"];
        let load = ["--rate", "20", "--duration", "6s"];
        let mut live = Live::start(&[&["storm", &server.url][..], &clients, &load].concat());
        live.wait_for("downtime  10 connected");
        drop(server);
        let _server = Stentor::start_at(&address, &[]);
        let run = live.finish();
        assert_eq!(run.code, Some(1), "{}", run.table);
        assert_eq!(
            run.metrics(["connected", "recovered", "not_recovered", "lost"]),
            [50.0, 0.0, 50.0, 0.0],
            "{}",
            run.table
        );
    }
}

#[test]
fn invalid_recovery_options_are_rejected() {
    for (arguments, part) in [
        (&["storm", "--preset", "nats", "--resume"][..], "this preset has no recovery"),
        (&["storm", "--rejoin", "x"], "require --resume"),
        (
            &["storm", "--resume", "--position-pattern", "{offset}"],
            "--position-pattern must begin with literal text",
        ),
        (&["storm", "--downtime", "often"], "write it as 5s, or as 100"),
        (&["storm", "--downtime", "1h"], "use a longer --duration"),
        (&["storm", "--downtime", "50", "--in-flight", "1"], "give a time"),
    ] {
        let (code, sentence) = support::rejected(arguments);
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}
