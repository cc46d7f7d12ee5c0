//! How a run ends: exit codes, reasons, clients that are missing, and files that cannot be written.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::time::{Duration, Instant};

use support::{Fault, Run, certificate, certificate_of, rejected, serve, serve_responses, serve_some, swarm};

/// A run of five clients without messages, against a server that accepts three.
fn three_of_five(thresholds: &[&str]) -> Run {
    let (address, _ends) = serve_some(3);
    let url = format!("ws://{address}/");
    let all = ["idle", &url, "--clients", "5", "--duration", "100ms", "--connect-timeout", "300ms"];
    Run::new(&[&all[..], thresholds].concat())
}

#[test]
fn a_run_without_all_its_clients_fails_and_says_why() {
    for thresholds in [&[][..], &["--threshold", "handshake_max < 1h"]] {
        let run = three_of_five(thresholds);
        assert_eq!(run.metrics(["connected", "not_connected"]), [3.0, 2.0], "{}", run.table);
        assert_eq!((run.code, &run.json["passed"]), (Some(1), &false.into()), "{}", run.table);
        assert!(run.table.contains("FAILED"), "{}", run.table);
        let reason = "2 of 5 clients were not connected when they should be: 2 × no answer to the handshake";
        assert!(run.table.contains(reason), "{}", run.table);
    }
}

#[test]
fn a_threshold_may_allow_that_clients_are_missing() {
    let run = three_of_five(&["--threshold", "connected >= 3"]);
    assert_eq!((run.code, &run.json["passed"]), (Some(0), &true.into()), "{}", run.table);
}

#[test]
fn connecting_shows_its_progress_and_its_deadline() {
    let (address, _ends) = serve_some(3);
    let url = format!("ws://{address}/");
    let output = swarm(&["idle", &url, "--clients", "5", "--duration", "0s", "--connect-timeout", "5500ms"]);
    let lines = String::from_utf8(output.stderr).unwrap();
    assert!(lines.contains("connecting  3 / 5 connected  2 in handshake"), "{lines}");
    assert!(lines.contains("no new one for ") && lines.contains(" s of 5 s"), "{lines}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn clients_leave_with_a_close_frame() {
    let (address, ends) = serve_some(5);
    let url = format!("ws://{address}/");
    let run = Run::new(&["idle", &url, "--clients", "5", "--duration", "100ms"]);
    assert_eq!((run.metric("errors"), run.code), (0.0, Some(0)), "{}", run.table);
    let ends: Vec<_> = (0..5).map(|_| ends.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
    assert_eq!(ends, [Some(1000); 5]);
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_the_run() {
    #[expect(clippy::disallowed_methods, reason = "a test of how soon it is found")]
    let began = Instant::now();
    for option in ["--json", "--hdr", "--html", "--junit", "--prometheus"] {
        // The server does not exist: a run would end with another message.
        let (code, sentence) = rejected(&["chat", "ws://127.0.0.1:1/", option, "/nowhere/result"]);
        assert!(sentence.contains("/nowhere/result cannot be written"), "{sentence}");
        assert_eq!(code, Some(2));
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_result_on_the_standard_output_is_alone_there() {
    let url = format!("ws://{}/", serve(Fault::None, None));
    let output =
        swarm(&["chat", &url, "--clients", "5", "--publishers", "1", "--duration", "200ms", "--json", "-"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["passed"], json["metrics"]["deliveries"].as_f64()), (&true.into(), Some(100.0)));
    assert!(String::from_utf8(output.stderr).unwrap().contains("delivery errors"), "the table is beside it");
}

#[test]
fn a_warm_up_is_checked_but_not_measured() {
    let url = format!("ws://{}/", serve(Fault::None, None));
    let load =
        ["--clients", "5", "--publishers", "1", "--rate", "100", "--duration", "1s", "--warmup", "500ms"];
    let run = Run::new(&[&["chat", &url][..], &load].concat());
    assert_eq!(run.metrics(["published", "deliveries", "lost"]), [100.0, 500.0, 0.0], "{}", run.table);
    let count = |name: &str| -> u64 {
        run.json[name].as_array().unwrap().iter().map(|pair| pair[1].as_u64().unwrap()).sum()
    };
    assert_eq!(count("latency"), 250, "{}", run.table);
    let rate = run.metric("deliveries_per_s");
    assert!((350.0..=550.0).contains(&rate), "the rate of the measured half: {rate}");
}

#[test]
fn the_lines_of_the_seconds_agree_with_the_result() {
    let url = format!("ws://{}/", serve(Fault::None, None));
    let load =
        ["--clients", "5", "--publishers", "1", "--rate", "400", "--duration", "3500ms", "--json", "-"];
    let output = swarm(&[&["chat", &url][..], &load].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    let of_second = |line: &str| {
        let (second, _) = line.trim_start().split_once(" s  ")?;
        second.parse::<u32>().ok()?;
        let rate = line.split("  ").find_map(|word| word.strip_suffix("/s"))?;
        Some(rate.replace(',', "").parse::<f64>().unwrap())
    };
    let rates: Vec<_> = lines.lines().filter_map(of_second).collect();
    assert!((4..=5).contains(&rates.len()), "{lines}");
    assert_eq!(Some(rates.iter().sum()), json["metrics"]["deliveries"].as_f64(), "{lines}");
    let last = json["timeline"].as_array().unwrap().last().unwrap();
    assert!(last["covered"].as_f64().unwrap() < 1.0, "{last}");
}

/// The message of a run that no client connects in.
fn why(url: &str, options: &[&str]) -> String {
    let (code, sentence) =
        rejected(&[&["chat", url, "--clients", "1", "--publishers", "1"], options].concat());
    assert_eq!(code, Some(2), "{sentence}");
    assert!(sentence.contains("no client connected to 127.0.0.1:"), "{sentence}");
    sentence
}

#[test]
fn errors_name_their_cause_and_what_to_try() {
    let check = |url: &str, options: &[&str], parts: &[&str]| {
        let sentence = why(url, options);
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    };
    let missing = serve_responses(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    check(&format!("ws://{missing}/"), &[], &["404 Not Found", "another path"]);
    let bad = serve_responses(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    check(&format!("wss://{bad}/"), &["--insecure"], &["does not use TLS", "use ws://"]);
    let full = serve_responses(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    check(&format!("ws://{full}/"), &[], &["503", "limit of connections"]);
    let (config, _) = certificate();
    let tls = |config| serve(Fault::None, Some(config));
    check(&format!("wss://{}/", tls(config.clone())), &[], &["is not trusted", "--ca FILE", "--insecure"]);
    let (_, other) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.pem");
    std::fs::write(&path, other).unwrap();
    check(&format!("wss://{}/", tls(config)), &["--ca", path.to_str().unwrap()], &["is not trusted"]);
}

#[test]
fn a_plain_client_of_a_tls_port_is_sent_to_wss() {
    // The first bytes of a TLS alert, as every TLS server answers a plain request.
    let tls = serve_responses(b"\x15\x03\x03\x00\x02\x02\x0a");
    let sentence = why(&format!("ws://{tls}/"), &[]);
    assert!(sentence.contains("use wss://"), "{sentence}");
}

#[test]
fn the_certificate_of_an_authority_is_no_server_certificate() {
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (config, authority) = certificate_of(&parameters);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority).unwrap();
    let sentence =
        why(&format!("wss://{}/", serve(Fault::None, Some(config))), &["--ca", path.to_str().unwrap()]);
    assert!(
        sentence.contains("certificate of an authority as its own") && sentence.contains("--insecure"),
        "{sentence}"
    );
}
