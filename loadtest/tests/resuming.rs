//! swarm's clients resume at Stentor: what they miss while they are away they get when they come back, or it is said that not.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::Run;
use support::server::{FAULTS, Stentor, check_clean};

/// Ten speakers stay, the others are cut in the middle of three seconds, and miss a hundred messages.
const STORM: [&str; 11] =
    ["--resume", "--clients", "300", "--rate", "100", "--duration", "3s", "--away", "100", "--rooms", "1"];

fn check_storm(preset: &str, shards: &str) {
    let server = Stentor::start(&["--shards", shards, "--history", "1000", "--history-bytes", "4MiB"]);
    let run = Run::new(&[&["storm", &server.url, "--preset", preset][..], &STORM].concat());
    check_clean(&run);
    let counts = run.metrics(["connected", "said", "recovered", "not_recovered", "storms_unfinished"]);
    assert_eq!(counts, [300.0, 300.0, 290.0, 0.0, 0.0], "{}", run.table);
    assert_eq!(run.metric("deliveries"), 90_000.0, "{}", run.table);
    assert!(run.metric("caught_up") >= 29_000.0, "{}", run.table);
    assert!((0.0..1.0).contains(&run.metric("storm_back")), "{}", run.table);
}

#[test]
fn plain_clients_miss_nothing() {
    check_storm("stentor", "1");
    check_storm("stentor", "3");
}

#[test]
fn json_clients_miss_nothing() {
    check_storm("stentor-json", "1");
    check_storm("stentor-json", "3");
}

#[test]
fn leaving_and_coming_back_without_an_end() {
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
            "--speakers",
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
        // Of those who are in at the end nobody has missed anything (`check_clean`); who is out then is not waited for.
        assert_eq!(run.metrics(["not_recovered"]), [0.0], "{}", run.table);
        assert!((19_800.0..=20_000.0).contains(&run.metric("deliveries")), "{}", run.table);
    }
}

#[test]
fn a_history_that_is_too_short_is_found_out() {
    for preset in ["stentor", "stentor-json"] {
        let server = Stentor::start(&["--history", "99"]);
        let run = Run::new(&[&["storm", &server.url, "--preset", preset][..], &STORM].concat());
        assert_eq!(
            run.metrics(["recovered", "not_recovered", "caught_up"]),
            [0.0, 290.0, 0.0],
            "{}",
            run.table
        );
        assert_eq!((run.metrics(FAULTS), run.code), ([0.0; 6], Some(1)), "{}", run.table);
    }
}

#[test]
fn a_server_that_was_restarted_is_found_out() {
    for preset in ["stentor", "stentor-json"] {
        // An address from which no client comes: none can take the port in between.
        let server = Stentor::start_at("127.77.0.1:0", &[]);
        let address = server.url.trim_start_matches("ws://").to_owned();
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("result.json");
        let mut run = Command::new(env!("CARGO_BIN_EXE_swarm"))
            .args(["storm", &server.url, "--preset", preset, "--resume", "--clients", "50", "--away", "2s"])
            .args(["--rate", "20", "--duration", "6s", "--json", json.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut live = BufReader::new(run.stderr.take().unwrap()).lines();
        assert!(live.any(|line| line.unwrap().contains("talking  10 in")));
        drop(server);
        let _server = Stentor::start_at(&address, &[]);
        live.for_each(drop);
        assert_eq!(run.wait().unwrap().code(), Some(1));
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        let metric = |name: &str| json["metrics"][name].as_f64().unwrap();
        assert_eq!(
            ["connected", "recovered", "not_recovered", "lost"].map(metric),
            [50.0, 0.0, 50.0, 0.0],
            "{json}"
        );
    }
}

#[test]
fn what_cannot_be_resumed_is_said() {
    for (arguments, part) in [
        (&["storm", "--preset", "nats", "--resume"][..], "how one resumes at such a server is not known"),
        (&["storm", "--rejoin", "x"], "mean nothing without --resume"),
        (&["storm", "--resume", "--position", "{offset}"], "--position must begin with a text"),
        (&["storm", "--away", "often"], "write it as 5s, or as 100"),
        (&["storm", "--away", "1h"], "give it a longer --duration"),
        (&["storm", "--away", "50", "--window", "1"], "give a time"),
    ] {
        let (code, sentence) = support::mistake(arguments);
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
    }
}
