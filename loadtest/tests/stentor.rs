//! swarm against Stentor: every scenario, scenario files with stages and thresholds, and result files.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use support::server::{Stentor, check_clean};
use support::{Live, Run, swarm};

#[test]
fn chat_on_several_shards_from_several_workers_in_several_rooms() {
    let server = Stentor::start(&["--shards", "2"]);
    let run = Run::new(&[
        "chat",
        &server.url,
        "--clients",
        "200",
        "--rooms",
        "4",
        "--publishers",
        "20",
        "--rate",
        "400",
        "--workers",
        "2",
        "--duration",
        "1s",
        "--size",
        "64*9,3000*1",
        "--server-pid",
        &server.pid(),
    ]);
    check_clean(&run);
    assert_eq!(run.metrics(["connected", "published", "deliveries"]), [200.0, 400.0, 20_000.0]);
    assert!(
        run.metric("server_cpu_per_delivery") > 0.0 && run.metric("server_memory") > 1e6,
        "{}",
        run.table
    );
}

#[test]
fn compressed() {
    let server = Stentor::start(&[]);
    let arguments =
        ["--clients", "50", "--publishers", "5", "--rate", "200", "--duration", "1s", "--size", "600"];
    let run = Run::new(&[&["chat", &server.url][..], &arguments, &["--deflate"]].concat());
    check_clean(&run);
    assert_eq!(run.metric("deliveries"), 10_000.0);
}

#[test]
fn echo() {
    let server = Stentor::start(&[]);
    let run = Run::new(&["echo", &server.url, "--clients", "20", "--duration", "500ms"]);
    check_clean(&run);
    assert!(
        run.metric("deliveries") == run.metric("published") && run.metric("published") > 100.0,
        "{}",
        run.table
    );
}

#[test]
fn connect_repeatedly() {
    let server = Stentor::start(&[]);
    let run = Run::new(&["connect", &server.url, "--close", "--clients", "50", "--duration", "1s"]);
    assert_eq!((run.metric("errors"), run.code), (0.0, Some(0)), "{}", run.table);
    assert!(run.metric("handshakes") > 100.0 && run.metric("handshakes_per_s") > 50.0, "{}", run.table);
}

#[test]
fn the_connect_rate_limits_handshakes() {
    let server = Stentor::start(&[]);
    let run = Run::new(&["connect", &server.url, "--clients", "100", "--connect-rate", "200/s"]);
    let rate = run.metric("handshakes_per_s");
    assert!((100.0..=225.0).contains(&rate), "{}", run.table);
}

#[test]
fn idle_clients_have_a_memory_cost() {
    let server = Stentor::start(&[]);
    let run = Run::new(&[
        "idle",
        &server.url,
        "--clients",
        "1000",
        "--duration",
        "200ms",
        "--server-pid",
        &server.pid(),
    ]);
    check_clean_idle(&run);
    assert!((0.0..4096.0).contains(&run.metric("server_memory_per_client")), "{}", run.table);
}

fn check_clean_idle(run: &Run) {
    assert_eq!((run.metrics(["connected", "errors"]), run.code), ([1000.0, 0.0], Some(0)), "{}", run.table);
}

#[test]
fn churn_without_delivery_errors() {
    let server = Stentor::start(&["--shards", "2"]);
    let run = Run::new(&[
        "churn",
        &server.url,
        "--clients",
        "100",
        "--publishers",
        "5",
        "--rate",
        "500",
        "--churn",
        "200/s",
        "--duration",
        "2s",
    ]);
    check_clean(&run);
    assert!(run.metric("handshakes") > 250.0, "{}", run.table);
    assert_eq!(run.metric("connected"), 100.0, "those that are away at the end are awaited");
    // Of the run, not of the few milliseconds in which the first hundred connect.
    assert!((75.0..=210.0).contains(&run.metric("handshakes_per_s")), "{}", run.table);
}

#[test]
fn storms_recover() {
    let server = Stentor::start(&[]);
    let run = Run::new(&["storm", &server.url, "--clients", "200", "--storms", "2", "--duration", "2s"]);
    check_clean(&run);
    assert_eq!(run.metrics(["handshakes", "storms_incomplete"]), [600.0, 0.0], "{}", run.table);
    assert!((0.0..2.0).contains(&run.metric("recovery_time")), "{}", run.table);
}

#[test]
fn slow_readers_are_counted() {
    let server =
        Stentor::start(&["--slow-member", "disconnect", "--room-log", "64KiB", "--close-timeout", "300ms"]);
    let run = Run::new(&[
        "slow",
        &server.url,
        "--clients",
        "20",
        "--never-read",
        "3",
        "--slow-read",
        "2",
        "--publishers",
        "4",
        "--rate",
        "800",
        "--size",
        "30000",
        "--duration",
        "3s",
    ]);
    check_clean(&run);
    assert_eq!(run.metrics(["slow_clients", "slow_closed"]), [5.0, 5.0], "{}", run.table);
    assert_eq!(run.metric("deliveries"), 15.0 * run.metric("published"));
}

const STAGES: &str = r#"
scenario = "chat"
publishers = 4
threshold = ["lost == 0", "connected == 0", "p99 < 10s", "handshakes == 60"]

[[stage]]
duration = "1s"
clients = 60
rate = 100

[[stage]]
duration = "500ms"

[[stage]]
duration = "500ms"
clients = 0
rate = 0
"#;

#[test]
fn a_scenario_file_with_stages_and_thresholds() {
    let server = Stentor::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, STAGES).unwrap();
    let path = path.to_str().unwrap();
    let run = Run::new(&["run", path, &server.url]);
    assert_eq!(run.code, Some(0), "{}", run.table);
    assert_eq!(run.json["thresholds"].as_array().unwrap().len(), 4);
    // 100/s, increasing for one second, constant for half a second, decreasing for half a second.
    assert!((115.0..=130.0).contains(&(run.metric("published") + run.metric("skipped"))), "{}", run.table);
    let stricter = Run::new(&["run", path, &server.url, "--threshold", "p99 < 1us"]);
    assert_eq!(stricter.code, Some(1), "{}", stricter.table);
    assert!(stricter.table.contains("p99 < 1us: FAILED"), "{}", stricter.table);
}

#[test]
fn errors_in_a_scenario_file_have_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let path = path.to_str().unwrap();
    for (text, part) in [
        ("scenario = \"chat\"\nclient = 5\n", "run.toml:2: unknown field `client`"),
        ("clients = 5\n", "names no scenario"),
        ("scenario = \"chat\"\n\nrate = \"often\"\n", "run.toml:3: write it as 100 or 100/s"),
        ("scenario = \"chat\"\nthreshold = [\"p99\"]\n", "run.toml:2: \"p99\" is not a condition"),
    ] {
        std::fs::write(path, text).unwrap();
        let (code, sentence) = support::rejected(&["run", path]);
        assert_eq!(code, Some(2));
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

#[test]
fn results_are_written_and_compared() {
    let server = Stentor::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["one", "two"] {
        let output = swarm(&[
            "chat",
            &server.url,
            "--clients",
            "20",
            "--duration",
            "300ms",
            "--json",
            &path(&format!("{name}.json")),
            "--hdr",
            &path("latency.hgrm"),
            "--html",
            &path("report.html"),
            "--junit",
            &path("junit.xml"),
            "--prometheus",
            &path("swarm.prom"),
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let compare = |options: &[&str]| {
        let output = swarm(&[&["compare", &path("one.json"), &path("two.json")], options].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, table) = compare(&[]);
    assert_eq!(code, Some(0));
    let (code, strict) = compare(&["--tolerance", "published=1%"]);
    assert_eq!((code, strict.as_str()), (Some(2), ""), "it has no better direction");
    assert_eq!(compare(&["--tolerance", "lost=0%"]).0, Some(0));
    let mut worse: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path("two.json")).unwrap()).unwrap();
    worse["metrics"]["p99"] = 1000.0.into();
    worse["asked"]["rate"] = "7/s".into();
    std::fs::write(path("two.json"), worse.to_string()).unwrap();
    let (code, worse) = compare(&["--tolerance", "p99=50%"]);
    assert!(worse.contains("FAILED: two: p99 is 1000.00 s") && worse.contains("rate 100/s → 7/s"), "{worse}");
    assert_eq!(code, Some(1));
    let junit = std::fs::read_to_string(path("junit.xml")).unwrap();
    assert!(junit.contains("name=\"lost == 0\"/>") && junit.contains(" failures=\"0\""), "{junit}");
    let prometheus = std::fs::read_to_string(path("swarm.prom")).unwrap();
    assert!(
        prometheus.contains("# TYPE swarm_p99_seconds gauge\nswarm_p99_seconds{scenario=\"chat\""),
        "{prometheus}"
    );
    assert!(table.contains("latency p99 (p99)") && table.contains('×'), "{table}");
    let hgrm = std::fs::read_to_string(path("latency.hgrm")).unwrap();
    assert!(hgrm.contains("Total count    =          600]"), "{hgrm}");
    let page = std::fs::read_to_string(path("report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script") && !page.contains("http://"), "{page}");
}

#[test]
fn an_interrupted_run_has_results() {
    let server = Stentor::start(&[]);
    let mut live = Live::start(&["chat", &server.url, "--clients", "50", "--duration", "10m"]);
    live.wait_for("running  50 connected");
    live.interrupt();
    let run = live.finish();
    assert!(run.table.contains("it was interrupted") && run.table.contains("lost 0"), "{}", run.table);
    assert_eq!(run.code, Some(130), "{}", run.table);
}

#[test]
fn the_json_protocol() {
    let server = Stentor::start(&["--shards", "2"]);
    let json = [
        "--preset",
        "stentor-json",
        "--clients",
        "120",
        "--rooms",
        "3",
        "--publishers",
        "6",
        "--workers",
        "2",
    ];
    let load = ["--rate", "300", "--duration", "1s"];
    let chat = Run::new(&[&["chat", &server.url][..], &json, &load].concat());
    check_clean(&chat);
    assert_eq!(chat.metrics(["connected", "published", "deliveries"]), [120.0, 300.0, 12_000.0]);
    let compressed = Run::new(&[&["chat", &server.url, "--deflate"][..], &json, &load].concat());
    check_clean(&compressed);
    assert_eq!(compressed.metric("deliveries"), 12_000.0);
    let churn = Run::new(&[&["churn", &server.url, "--churn", "200/s"][..], &json, &load].concat());
    check_clean(&churn);
    assert!(churn.metric("handshakes") > 250.0, "{}", churn.table);
    let storm = Run::new(&[&["storm", &server.url][..], &json, &load].concat());
    check_clean(&storm);
    assert_eq!(storm.metrics(["handshakes", "storms_incomplete"]), [240.0, 0.0], "{}", storm.table);
    let echo = Run::new(&[
        "echo",
        &server.url,
        "--preset",
        "stentor-json",
        "--clients",
        "20",
        "--duration",
        "500ms",
    ]);
    check_clean(&echo);
    assert!(echo.metric("published") > 100.0, "{}", echo.table);
}

/// A server that takes signed tokens only, and the path of its secret.
fn server_with_tokens(folder: &std::path::Path) -> (Stentor, String) {
    let secret = folder.join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let secret = secret.to_str().unwrap().to_owned();
    (Stentor::start(&["--auth", "token", "--token-hmac-secret-files", &secret]), secret)
}

#[test]
fn clients_have_tokens_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (server, secret) = server_with_tokens(folder.path());
    let load = ["--clients", "20", "--publishers", "2", "--duration", "300ms"];
    for preset in ["stentor", "stentor-json"] {
        let with = |options: &[&str]| {
            Run::new(&[&["chat", &server.url, "--preset", preset], &load[..], options].concat())
        };
        let signed = with(&["--token-key", &secret]);
        check_clean(&signed);
        assert_eq!(signed.metric("connected"), 20.0);
    }
    let (_, sentence) = support::rejected(&[&["chat", &server.url], &load[..]].concat());
    assert!(sentence.contains("--token-key"), "{sentence}");
}

/// A key of the server's tests.
fn key(name: &str) -> String {
    format!("{}/../tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn private_keys_sign_tokens_for_a_server_with_the_public_ones() {
    let public = [key("p256.pub.pem"), format!("2026={}", key("p384.pub.pem")), key("rsa.pub.pem")].join(",");
    let server = Stentor::start(&["--auth", "token", "--token-public-keys", &public]);
    let load = ["--clients", "10", "--publishers", "2", "--duration", "200ms"];
    for preset in ["stentor", "stentor-json"] {
        let chat = [&["chat", &server.url, "--preset", preset], &load[..]].concat();
        for private in ["p256.pem", "p384.pem", "rsa.pem"].map(key) {
            let run = Run::new(&[&chat[..], &["--token-key", &private]].concat());
            check_clean(&run);
            assert_eq!(run.metric("connected"), 10.0, "{private}");
        }
        // On P-256, but not a key of the server.
        let (code, sentence) =
            support::rejected(&[&chat[..], &["--token-key", &key("hook.key.pem")]].concat());
        assert_eq!(code, Some(2), "{sentence}");
        assert!(
            sentence.contains("401 Unauthorized") || sentence.contains("3500 invalid token"),
            "{sentence}"
        );
        let (code, sentence) =
            support::rejected(&[&chat[..], &["--token-key", &key("p256.pub.pem")]].concat());
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains("p256.pub.pem: neither an RSA nor an ECDSA"), "{sentence}");
    }
}

#[test]
fn find_returns_the_highest_rate_that_holds() {
    let server = Stentor::start(&[]);
    let load = ["--clients", "10", "--publishers", "2", "--duration", "1s", "--precision", "12"];
    // The number of published messages is the rate: the limit is exact.
    let threshold = ["--threshold", "published <= 130", "--from", "100", "--to", "1000"];
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("found.json");
    let output =
        swarm(&[&["find", &server.url], &load[..], &threshold, &["--json", json.to_str().unwrap()]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("highest rate that holds: 125/s (138/s does not: published <= 130"), "{text}");
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let tried: Vec<_> =
        json["curve"].as_array().unwrap().iter().map(|probe| probe["value"].as_f64().unwrap()).collect();
    assert_eq!((tried, &json["asked"]["rate"]), (vec![100.0, 125.0, 138.0, 150.0, 200.0], &"125/s".into()));
    let none = swarm(&[&["find", &server.url], &load[..], &["--threshold", "published < 5"]].concat());
    assert!(String::from_utf8(none.stdout).unwrap().contains("not even a rate of 100/s holds"));
    assert_eq!(none.status.code(), Some(1));
    let clients = ["--vary", "clients", "--from", "5", "--to", "8", "--threshold", "connected <= 8"];
    let found =
        swarm(&[&["find", &server.url, "--publishers", "1", "--duration", "200ms"], &clients[..]].concat());
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains("highest number of clients that holds: 8 (no higher one was tried"), "{text}");
}
