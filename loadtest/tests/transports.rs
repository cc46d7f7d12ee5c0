//! Transports other than WebSocket: every scenario that makes sense, exact counts, and recovery.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use support::proxy::{ChunkFault, proxy};
use support::server::{ERROR_METRICS, Stentor, check_clean};
use support::sockjs::SockJsServer;
use support::{Live, Run};

const TRANSPORTS: [&str; 3] = ["sse", "stream", "poll"];

fn run(scenario: &str, server: &Stentor, transport: &str, arguments: &[&str]) -> Run {
    Run::new(&[&[scenario, &server.url, "--transport", transport][..], arguments].concat())
}

#[test]
fn chat_is_exact_on_several_shards_and_names_its_transport() {
    let server = Stentor::start(&["--shards", "2"]);
    for transport in TRANSPORTS {
        let load = ["--rooms", "4", "--publishers", "20", "--rate", "400", "--size", "64*9,3000*1"];
        let more = ["--clients", "200", "--duration", "1s", "--workers", "2"];
        let run = run("chat", &server, transport, &[&load[..], &more].concat());
        check_clean(&run);
        assert_eq!(run.metrics(["connected", "published", "deliveries"]), [200.0, 400.0, 20_000.0]);
        assert_eq!(run.json["transport"], transport);
        assert_eq!(run.json["asked"]["transport"], transport);
        assert!(run.table.starts_with(&format!("swarm chat over {transport}: http://")), "{}", run.table);
    }
}

#[test]
fn publishers_may_have_another_transport_in_the_same_room() {
    let server = Stentor::start(&["--shards", "2"]);
    for (transport, publishers) in [("sse", "ws"), ("poll", "stream"), ("ws", "poll")] {
        let load = ["--publishers-transport", publishers, "--publishers", "5", "--rate", "200"];
        let more = ["--clients", "50", "--duration", "1s"];
        let run = run("chat", &server, transport, &[&load[..], &more].concat());
        check_clean(&run);
        assert_eq!(run.metric("deliveries"), 10_000.0, "{}", run.table);
        assert_eq!(run.json["asked"]["publishers-transport"], publishers);
    }
}

#[test]
fn a_closed_loop_publishes_by_pipelined_requests() {
    // A client that polls takes from the history what was published since its last poll.
    let server = Stentor::start(&["--history", "10000", "--history-bytes", "8MiB"]);
    for transport in TRANSPORTS {
        let load = ["--in-flight", "8", "--publishers", "4", "--clients", "40", "--duration", "500ms"];
        let run = run("chat", &server, transport, &load);
        check_clean(&run);
        assert!(run.metric("published") > 100.0, "{}", run.table);
        assert_eq!(run.metric("deliveries"), run.metric("published") * 40.0, "{}", run.table);
    }
}

#[test]
fn an_idle_connection_for_requests_is_replaced() {
    // The server closes it after two seconds without a request.
    let server = Stentor::start(&["--handshake-timeout", "2s"]);
    let load = ["--publishers", "1", "--rate", "0.3/s", "--clients", "5", "--duration", "4s"];
    let run = run("chat", &server, "stream", &load);
    check_clean(&run);
    assert_eq!(run.metrics(["published", "deliveries"]), [2.0, 10.0], "{}", run.table);
}

#[test]
fn echo_connect_and_idle() {
    let server = Stentor::start(&[]);
    for transport in TRANSPORTS {
        let echo = run("echo", &server, transport, &["--clients", "20", "--duration", "500ms"]);
        check_clean(&echo);
        assert!(echo.metric("published") > 100.0, "{}", echo.table);
        let connect =
            run("connect", &server, transport, &["--close", "--clients", "50", "--duration", "500ms"]);
        assert_eq!((connect.metric("errors"), connect.code), (0.0, Some(0)), "{}", connect.table);
        assert!(connect.metric("handshakes") > 100.0, "{}", connect.table);
        // One without memory of earlier clients.
        let server = Stentor::start(&[]);
        let pid = server.pid();
        let idle = run(
            "idle",
            &server,
            transport,
            &["--clients", "500", "--duration", "200ms", "--server-pid", &pid],
        );
        assert_eq!(
            (idle.metrics(["connected", "errors"]), idle.code),
            ([500.0, 0.0], Some(0)),
            "{}",
            idle.table
        );
        assert!(idle.metric("server_memory_per_client") < 8192.0, "{}", idle.table);
    }
}

/// Ten publishers stay connected; the others are dropped in the middle, and miss a hundred messages.
const STORM: [&str; 9] =
    ["--resume", "--clients", "300", "--rate", "100", "--duration", "3s", "--downtime", "100"];

#[test]
fn a_storm_is_recovered_from_exactly() {
    for shards in ["1", "3"] {
        let server = Stentor::start(&["--shards", shards, "--history", "1000", "--history-bytes", "4MiB"]);
        for transport in TRANSPORTS {
            let run = run("storm", &server, transport, &STORM);
            check_clean(&run);
            let names = ["connected", "published", "recovered", "not_recovered", "storms_incomplete"];
            assert_eq!(run.metrics(names), [300.0, 300.0, 290.0, 0.0, 0.0], "{}", run.table);
            assert_eq!(run.metric("deliveries"), 90_000.0, "{}", run.table);
            assert!(run.metric("recovered_messages") >= 29_000.0, "{}", run.table);
        }
    }
}

/// Lost and duplicated messages of a run through a proxy, whose exit code is 1.
fn run_with_fault(server: &Stentor, fault: ChunkFault, arguments: &[&str]) -> [f64; 2] {
    let url = proxy(&server.url, fault);
    let transports = ["--transport", "sse", "--publishers-transport", "ws"];
    let run = Run::new(&[&arguments[..1], &[&url], &transports, &arguments[1..]].concat());
    assert_eq!(run.code, Some(1), "{}", run.table);
    assert_eq!(run.metrics(["reordered", "misdelivered", "errors"]), [0.0; 3], "{}", run.table);
    run.metrics(["lost", "duplicated"])
}

#[test]
fn one_lost_and_one_duplicated_event_are_found() {
    let server = Stentor::start(&[]);
    let chat = ["chat", "--clients", "10", "--publishers", "2", "--rate", "100", "--duration", "500ms"];
    for (copies, expected) in [(0, [1.0, 0.0]), (2, [0.0, 1.0])] {
        // Behind the time until the next connection, and the room's position.
        let fault = ChunkFault { stream: 3, chunk: 12, copies };
        assert_eq!(run_with_fault(&server, fault, &chat), expected);
    }
}

#[test]
fn one_lost_and_one_duplicated_event_of_a_recovery_are_found() {
    let server = Stentor::start(&["--history", "1000", "--history-bytes", "4MiB"]);
    let clients = ["storm", "--resume", "--clients", "30", "--publishers", "10"];
    let storm = [&clients[..], &["--rate", "100", "--duration", "3s", "--downtime", "100"]].concat();
    for (copies, expected) in [(0, [1.0, 0.0]), (2, [0.0, 1.0])] {
        // The streams from 20 on are those after the storm, and begin with what was missed.
        let fault = ChunkFault { stream: 25, chunk: 40, copies };
        assert_eq!(run_with_fault(&server, fault, &storm), expected);
    }
}

#[test]
fn a_session_of_sockjs_goes_on_from_one_response_to_the_next() {
    for closes in [false, true] {
        let server = SockJsServer::start(closes);
        let load = ["--publishers", "4", "--rate", "400", "--clients", "20", "--duration", "1s"];
        let run = Run::new(&[&["chat", &server.url, "--transport", "sockjs"][..], &load].concat());
        check_clean(&run);
        assert_eq!(run.metric("deliveries"), 8000.0, "{}", run.table);
        assert!(server.ended() > 100, "{}", server.ended());
        assert_eq!(run.metrics(["handshakes", "connected"]), [20.0, 20.0], "{}", run.table);
    }
}

#[test]
fn clients_of_sockjs_recover_exactly() {
    let server = SockJsServer::start(true);
    let clients = ["--resume", "--clients", "40", "--publishers", "10", "--rate", "100"];
    let storm = ["--duration", "3s", "--downtime", "100"];
    let run = Run::new(&[&["storm", &server.url, "--transport", "sockjs"][..], &clients, &storm].concat());
    check_clean(&run);
    assert_eq!(run.metrics(["connected", "recovered", "not_recovered"]), [40.0, 30.0, 0.0], "{}", run.table);
    assert_eq!(run.metric("deliveries"), 12_000.0, "{}", run.table);
    assert!(run.metric("recovered_messages") >= 3000.0, "{}", run.table);
}

#[test]
fn a_history_that_is_too_short_is_detected() {
    let server = Stentor::start(&["--history", "99"]);
    for transport in TRANSPORTS {
        let run = run("storm", &server, transport, &STORM);
        let names = ["recovered", "not_recovered", "recovered_messages"];
        assert_eq!(run.metrics(names), [0.0, 290.0, 0.0], "{}", run.table);
        assert_eq!((run.metrics(ERROR_METRICS), run.code), ([0.0; 6], Some(1)), "{}", run.table);
    }
}

#[test]
fn churned_clients_recover() {
    let server = Stentor::start(&["--shards", "3", "--history", "1000", "--history-bytes", "4MiB"]);
    for transport in TRANSPORTS {
        let clients = ["--resume", "--clients", "100", "--publishers", "5", "--rooms", "5", "--workers", "2"];
        let load = ["--rate", "500", "--churn", "200/s", "--duration", "2s"];
        let run = run("churn", &server, transport, &[&clients[..], &load].concat());
        check_clean(&run);
        assert!(run.metric("recovered") > 150.0, "{}", run.table);
        assert_eq!(run.metrics(["not_recovered", "connected"]), [0.0, 100.0], "{}", run.table);
        assert_eq!(run.metric("deliveries"), 20_000.0, "{}", run.table);
    }
}

#[test]
fn a_server_that_is_lost_is_an_error_of_each_client() {
    for transport in TRANSPORTS {
        let server = Stentor::start(&[]);
        let load = ["--clients", "20", "--publishers", "2", "--rate", "50", "--duration", "3s"];
        let mut live = Live::start(&[&["chat", &server.url, "--transport", transport][..], &load].concat());
        live.wait_for("running  20 connected");
        drop(server);
        let run = live.finish();
        assert_eq!((run.code, run.metric("connected")), (Some(1), 0.0), "{}", run.table);
        assert!(run.metric("errors") >= 20.0, "{}", run.table);
    }
}

#[test]
fn slow_readers_of_streams_are_counted() {
    let policy = ["--slow-member", "disconnect", "--room-log", "2MiB", "--close-timeout", "300ms"];
    for transport in ["sse", "stream"] {
        let server = Stentor::start(&policy);
        let slow = ["--clients", "20", "--never-read", "3", "--publishers", "4", "--rate", "200"];
        let run =
            run("slow", &server, transport, &[&slow[..], &["--size", "30000", "--duration", "4s"]].concat());
        assert_eq!(run.metrics(ERROR_METRICS), [0.0; 6], "{}", run.table);
        assert_eq!(run.metrics(["slow_clients", "slow_closed"]), [3.0, 3.0], "{}", run.table);
    }
}

#[test]
fn a_refusal_names_its_reason() {
    let server = Stentor::start(&[]);
    let url = server.url.replace("ws://", "http://");
    for transport in TRANSPORTS {
        let path = format!("{url}/{transport}/%FF?room={{room}}");
        let (code, sentence) =
            support::rejected(&["chat", &path, "--transport", transport, "--clients", "5"]);
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains("the request was refused with 400 Bad Request: The path"), "{sentence}");
    }
}

#[test]
fn what_makes_no_sense_is_rejected() {
    for (arguments, part) in [
        (&["chat", "--transport", "sse", "--deflate"][..], "--deflate is for WebSocket"),
        (
            &["chat", "--transport", "stream", "--preset", "nats"],
            "--transport stream is for --preset stentor",
        ),
        (&["slow", "--transport", "poll"], "--transport poll has no slow readers"),
        (&["chat", "ws://127.0.0.1:1/x", "--transport", "poll"], "the path must have /poll/"),
    ] {
        let (code, sentence) = support::rejected(arguments);
        assert_eq!(code, Some(2), "{sentence}");
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}
