//! The hook against a backend that answers, or does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::chat::{Grant, ServerRoom};
use crate::edge::Edge;
use crate::identity::Bounds;

#[expect(clippy::disallowed_types, reason = "a back end for tests")]
type Listener = std::net::TcpListener;
#[expect(clippy::disallowed_types, reason = "a back end for tests")]
type Stream = std::net::TcpStream;

fn policy() -> Policy {
    let bounds = Bounds { name_bytes_max: 64, room_bytes_max: 255, rooms_per_client_max: 3 };
    Policy { bounds, rooms: Arc::default() }
}

/// For what has to happen at once; a test that waits this long has failed.
const SOON: Duration = Duration::from_secs(20);

fn options(url: String) -> HookOptions {
    HookOptions {
        url,
        timeout: Duration::from_secs(10),
        concurrency: 2,
        waiting_max: 3,
        headers: vec![("x-key".to_owned(), "s3cret".to_owned())],
        authorities: Vec::new(),
    }
}

fn auth_request(number: u64) -> AuthRequest {
    AuthRequest {
        session: session(number),
        client: "c9".into(),
        protocol: "json",
        name: Some("Ann".into()),
        token: None,
        data: Some("{\"a\": 1}".into()),
        address: Some([127, 0, 0, 1].into()),
    }
}

/// A session.
fn session(number: u64) -> SessionKey {
    SessionKey::from_bits(number).expect("a key")
}

type Decided = (usize, SessionKey, AuthDecision);

/// The hook, its decisions, and its runtime.
fn start(options: &HookOptions) -> (Hook, Receiver<Decided>, Edge) {
    let (sender, decisions) = channel();
    let decided = move |shard, conn, decision| drop(sender.send((shard, conn, decision)));
    let edge = Edge::start().unwrap();
    (Hook::start(edge.handle(), options, policy(), Arc::new(decided)).unwrap(), decisions, edge)
}

/// A backend that runs `serve` with each connection, and its address.
fn backend(serve: impl Fn(Stream) + Send + Sync + 'static) -> String {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/connect", listener.local_addr().unwrap());
    let serve = Arc::new(serve);
    let started = std::thread::Builder::new().spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            let _ = std::thread::Builder::new().spawn(move || serve(stream));
        }
    });
    started.unwrap();
    url
}

/// One request: its head and its body; `None` at the end.
fn request(reader: &mut BufReader<Stream>) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

fn respond(stream: &mut Stream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A client that refuses a huge body closes the connection while it is sent.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// The decision about a client if the backend answers each request with this.
fn decision(status: &'static str, body: impl Into<String>) -> AuthDecision {
    let body = body.into();
    let url = backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            respond(&mut stream, status, &body);
        }
    });
    let (hook, decisions, _edge) = start(&options(url));
    hook.submit(5, auth_request(7)).unwrap();
    let (shard, conn, decision) = decisions.recv_timeout(SOON).unwrap();
    assert_eq!((shard, conn), (5, session(7)));
    decision
}

#[test]
fn requests_have_the_format_of_the_connect_proxy() {
    let (sender, requests) = channel();
    let connections = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&connections);
    let url = backend(move |mut stream| {
        *counted.lock().unwrap() += 1;
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = request(&mut reader) {
            sender.send(request).unwrap();
            respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        }
    });
    let (hook, decisions, _edge) = start(&HookOptions { concurrency: 1, ..options(url) });
    for number in 0..3 {
        hook.submit(0, auth_request(number)).unwrap();
        decisions.recv_timeout(SOON).unwrap();
        let (head, body) = requests.recv_timeout(SOON).unwrap();
        assert!(head.starts_with("post /connect http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nx-key: s3cret\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
        let expected = r#"{"client":"c9","transport":"websocket","protocol":"json","encoding":"json","name":"Ann","address":"127.0.0.1","data":{"a": 1}}"#;
        assert_eq!(body, expected);
    }
    assert_eq!(*connections.lock().unwrap(), 1, "the connection is kept");
}

#[test]
fn answers() {
    let body = r#"{"result":{"user":"7","info":{"name": "Ann"},"data":{"n": 1},"channels":["a"],"expire_at":0,"else":1}}"#;
    let AuthDecision::Accept { identity: ann, data } = decision("200 OK", body) else {
        panic!("not welcome")
    };
    assert_eq!((&*ann.user, &*ann.name, ann.info.as_deref()), ("7", "Ann", Some(r#"{"name":"Ann"}"#)));
    assert_eq!(data.as_deref(), Some(&br#"{"n":1}"#[..]));
    let joined = ServerRoom { name: "a".into(), grant: Grant::default() };
    assert_eq!((ann.rooms.as_slice(), ann.expires_in), (&[joined][..], None));

    let refused =
        |code, message: &str, temporary| AuthDecision::Reject { code, message: message.into(), temporary };
    assert_eq!(
        decision("200 OK", r#"{"error":{"code":1000,"message":"no","temporary":true}}"#),
        refused(1000, "no", true)
    );
    assert_eq!(decision("200 OK", r#"{"result":{"expire_at":1}}"#), refused(109, "token expired", false));
    let disconnect = |code, reason: &str| AuthDecision::Disconnect { code, reason: reason.into() };
    assert_eq!(
        decision("200 OK", r#"{"disconnect":{"code":4501,"reason":"banned"}}"#),
        disconnect(4501, "banned")
    );
    assert_eq!(
        decision("200 OK", r#"{"disconnect":{"code":4501,"reason":"null"}}"#),
        disconnect(4501, "null.")
    );
    let long = format!(r#"{{"disconnect":{{"code":4501,"reason":"{}"}}}}"#, "ü".repeat(100));
    assert_eq!(decision("200 OK", long), disconnect(4501, &"ü".repeat(61)));
}

#[test]
fn any_other_answer_is_a_temporary_error() {
    for (status, body) in [
        ("500 Internal Server Error", r#"{"result":{"user":"7"}}"#),
        ("204 No Content", ""),
        ("307 Temporary Redirect", r#"{"result":{"user":"7"}}"#),
        ("200 OK", ""),
        ("200 OK", "null"),
        ("200 OK", "{}"),
        ("200 OK", "<html>"),
        ("200 OK", r#"{"result":{"user":7}}"#),
        ("200 OK", r#"{"result":{"user":"7"},"error":{"code":1000}}"#),
        ("200 OK", r#"{"result":{"user":"7"},"disconnect":{"code":4501}}"#),
        ("200 OK", r#"{"result":{"user":"7"},"result":{"user":"8"}}"#),
        ("200 OK", r#"{"result":{"user":"7","user":"8"}}"#),
        ("200 OK", r#"{"result":{"user":"7","subs":{"a":{},"a":{}}}}"#),
        ("200 OK", r#"{"result":["7"]}"#),
        ("200 OK", r#"[{"user":"7"}]"#),
        ("200 OK", r#"{"error":[1000]}"#),
        ("200 OK", r#"{"disconnect":[4501]}"#),
        ("200 OK", r#"{"result":null}"#),
        ("200 OK", r#"{"result":{"channels":["a",null]}}"#),
        ("200 OK", r#"{"result":{"channels":["a","b","c","d"]}}"#),
        ("200 OK", r#"{"result":{"channels":[""]}}"#),
        ("200 OK", r#"{"result":{"subs":{"a":null}}}"#),
        ("200 OK", r#"{"result":{"subs":{"a":{"expire_at":5}}}}"#),
        ("200 OK", r#"{"result":{"subs":{"a":{"override":{"max":{"value":true}}}}}}"#),
        ("200 OK", r#"{"result":{"caps":[{"channels":["a"],"allow":["sub"]}]}}"#),
        ("200 OK", r#"{"result":{"expire_at":-1}}"#),
        ("200 OK", r#"{"result":{"b64data":"*"}}"#),
        ("200 OK", r#"{"result":{"user":"7","channels":["\u0000"]}}"#),
        ("200 OK", r#"{"result":{"user":"7"}} and more"#),
        ("200 OK", r#"{"error":{"code":99}}"#),
        ("200 OK", r#"{"error":{"code":70000}}"#),
        ("200 OK", r#"{"disconnect":{"code":1000}}"#),
    ] {
        assert_eq!(decision(status, body), unavailable(), "{status} {body}");
    }
}

#[test]
fn subscription_options_of_an_answer() {
    let body = r#"{"result":{"user":null,"info":null,"data":null,"b64data":"eyJhIjogMX0K","expire_at":null,"meta":{"x":1},
        "channels":["a","b","a"],"subs":{"a":{"info":{"role": "mod"},"data":[1],"override":{"presence":{"value":false}}}}},
        "error":null,"disconnect":null}"#;
    let AuthDecision::Accept { identity, data } = decision("200 OK", body) else { panic!("not welcome") };
    assert_eq!((&*identity.user, data.as_deref()), ("", Some(&br#"{"a":1}"#[..])));
    let [a, b] = &identity.rooms[..] else { panic!("each once: {:?}", identity.rooms) };
    assert_eq!(
        (&*a.name, a.grant.info.as_deref(), a.grant.data.as_deref()),
        ("a", Some(r#"{"role":"mod"}"#), Some("[1]"))
    );
    assert_eq!(a.grant.overrides.presence, Some(false));
    assert_eq!((&*b.name, &b.grant), ("b", &Grant::default()));
    let refused = r#"{"error":{"code":1000,"message":null,"temporary":null}}"#;
    let expected = AuthDecision::Reject { code: 1000, message: "".into(), temporary: false };
    assert_eq!(decision("200 OK", refused), expected);
    let far = decision("200 OK", r#"{"result":{"expire_at":"1000000000000000000"}}"#);
    assert!(
        matches!(far, AuthDecision::Accept { identity, .. } if identity.expires_in == Some(crate::identity::EXPIRES_IN_MAX))
    );
}

#[test]
fn a_huge_answer_is_not_read() {
    let padding = "x".repeat(RESPONSE_BYTES_MAX);
    assert_eq!(
        decision("200 OK", format!(r#"{{"result":{{"user":"7","info":"{padding}"}}}}"#)),
        unavailable()
    );
    let fits = format!(r#"{{"result":{{"user":"7","info":"{}"}}}}"#, &padding[100..]);
    assert!(matches!(decision("200 OK", fits), AuthDecision::Accept { .. }));
}

#[test]
fn an_unreachable_or_failing_auth_backend() {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let hangs_up = backend(drop);
    for url in [nobody, hangs_up] {
        let (hook, decisions, _edge) = start(&options(url));
        hook.submit(0, auth_request(1)).unwrap();
        assert_eq!(decisions.recv_timeout(SOON).unwrap().2, unavailable());
    }
}

/// The decision about a client if the backend sends this on each connection, and then nothing.
fn decision_of_raw(answer: impl Into<Vec<u8>>, timeout: Duration, hangs_up: bool) -> AuthDecision {
    let answer = answer.into();
    let url = backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = request(&mut reader);
        let _ = stream.write_all(&answer);
        if !hangs_up {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (hook, decisions, _edge) = start(&HookOptions { timeout, ..options(url) });
    hook.submit(0, auth_request(1)).unwrap();
    decisions.recv_timeout(SOON).unwrap().2
}

#[test]
fn answers_that_are_garbage_partial_or_endless() {
    let soon = Duration::from_millis(50);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n";
    for silent in [
        "",
        "H",
        head,
        &format!("{head}{{\"result\":"),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1",
    ] {
        assert_eq!(decision_of_raw(silent, soon, false), unavailable(), "{silent:?}");
        assert_eq!(decision_of_raw(silent, SOON, true), unavailable(), "{silent:?}, then the end");
    }
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "\0\0\0\0",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        assert_eq!(decision_of_raw(garbage, SOON, false), unavailable(), "{garbage:?}");
    }
    let endless_head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
    assert_eq!(decision_of_raw(endless_head, SOON, false), unavailable());
    let endless_body = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(RESPONSE_BYTES_MAX + 1));
    assert_eq!(decision_of_raw(endless_body, SOON, false), unavailable(), "read no further than the bound");
    let whole = format!("{head}{}", r#"{"result":{"user":"7"}} "#);
    assert!(matches!(decision_of_raw(whole, SOON, false), AuthDecision::Accept { .. }));
}

/// One that sends a byte now and then is not waited for longer than one that sends nothing.
#[test]
fn a_slow_answer_is_given_up_on_in_time() {
    let url = backend(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = request(&mut reader);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        // A byte whenever the other side has sent nothing for a moment, which it never does.
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        while stream.read(&mut [0]).is_err() && stream.write_all(b" ").is_ok() {}
    });
    let (hook, decisions, _edge) =
        start(&HookOptions { timeout: Duration::from_millis(100), ..options(url) });
    hook.submit(0, auth_request(1)).unwrap();
    assert_eq!(decisions.recv_timeout(SOON).unwrap().2, unavailable());
}

/// A backend that accepts, reports its progress, and never answers.
fn stalled(arrived: std::sync::mpsc::Sender<u16>) -> String {
    backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if request(&mut reader).is_some() {
            let _ = arrived.send(stream.peer_addr().unwrap().port());
        }
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[test]
fn queued_requests_of_a_stalled_backend_time_out() {
    let (arrived, arrivals) = channel();
    let timeout = Duration::from_millis(300);
    let (hook, decisions, _edge) =
        start(&HookOptions { timeout, concurrency: 2, waiting_max: 100, ..options(stalled(arrived)) });
    let begun = clock();
    for number in 0..102 {
        hook.submit(0, auth_request(number)).unwrap();
    }
    let mut decided: Vec<_> = (0..102).map(|_| decisions.recv_timeout(SOON).unwrap().1.to_bits()).collect();
    // One after the other, two at a time, would take 51 time-outs.
    let took = begun.elapsed();
    assert!(took >= timeout && took < timeout * 20, "{took:?}");
    decided.sort_unstable();
    assert_eq!(decided, (0..102).collect::<Vec<_>>());
    assert_eq!(arrivals.try_iter().count(), 2, "no request for clients that have a decision already");
    assert_eq!(hook.count(), 0);
}

#[test]
fn a_cancelled_request_frees_its_slot() {
    let (arrived, arrivals) = channel();
    let (hook, decisions, _edge) =
        start(&HookOptions { timeout: SOON, concurrency: 1, waiting_max: 1, ..options(stalled(arrived)) });
    hook.submit(0, auth_request(1)).unwrap();
    arrivals.recv_timeout(SOON).unwrap();
    hook.submit(0, auth_request(2)).unwrap();
    assert_eq!(hook.submit(0, auth_request(3)), Err(Full::Count));
    // The one that waits: its slot is free at once.
    hook.cancel(0, session(2));
    hook.cancel(7, session(1));
    assert_eq!(hook.count(), 1, "and another shard's connection is another one");
    hook.submit(0, auth_request(3)).unwrap();
    // The one in flight: the next is sent.
    hook.cancel(0, session(1));
    arrivals.recv_timeout(SOON).unwrap();
    hook.cancel(0, session(3));
    assert_eq!(hook.count(), 0);
    assert!(decisions.try_recv().is_err(), "no decision about them");
}

#[test]
fn queued_requests_are_bounded_in_bytes() {
    let (arrived, _arrivals) = channel();
    let (hook, decisions, _edge) =
        start(&HookOptions { timeout: SOON, concurrency: 1, waiting_max: 1000, ..options(stalled(arrived)) });
    let large =
        |number| AuthRequest { data: Some("x".repeat(QUEUED_BYTES_MAX / 4).into()), ..auth_request(number) };
    for number in 0..3 {
        hook.submit(0, large(number)).unwrap();
    }
    assert_eq!(hook.submit(0, large(3)), Err(Full::Bytes));
    hook.submit(0, auth_request(4)).unwrap();
    hook.cancel(0, session(0));
    hook.submit(0, large(3)).unwrap();
    assert!(decisions.try_recv().is_err());
}

/// It closes each connection after some answers, without saying so beforehand.
#[test]
fn a_kept_connection_that_was_closed_costs_a_second_attempt() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, connections) = (Arc::clone(&requests), AtomicUsize::new(0));
    let url = backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        // Its number, and not its port, which the next one may have again.
        let connection = connections.fetch_add(1, Relaxed);
        let Some(_) = request(&mut reader) else { return };
        seen.lock().unwrap().push(connection);
        respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        // The second one over this connection gets no answer.
        if request(&mut reader).is_some() {
            seen.lock().unwrap().push(connection);
        }
    });
    let (hook, decisions, _edge) = start(&HookOptions { concurrency: 1, ..options(url) });
    for number in 0..3 {
        hook.submit(0, auth_request(number)).unwrap();
        let decision = decisions.recv_timeout(SOON).unwrap().2;
        assert!(matches!(decision, AuthDecision::Accept { .. }), "{number}: {decision:?}");
    }
    let requests = requests.lock().unwrap();
    let [a, again, b, once_more, c] = requests[..] else { panic!("{requests:?}") };
    assert_eq!((a, b), (again, once_more), "{requests:?}");
    assert!(a != b && b != c, "{requests:?}");
}

/// On a connection that was just made there is no retry: the backend may have understood, and done what it
/// does.
#[test]
fn a_fresh_connection_that_was_closed_is_a_fault() {
    let (sender, asked) = channel();
    let url = backend(move |stream| {
        if request(&mut BufReader::new(stream)).is_some() {
            sender.send(()).unwrap();
        }
    });
    let (hook, decisions, _edge) = start(&options(url));
    hook.submit(0, auth_request(1)).unwrap();
    assert_eq!(decisions.recv_timeout(SOON).unwrap().2, unavailable());
    assert_eq!(asked.try_iter().count(), 1);
}

#[test]
fn a_replaced_hook_answers_its_requests() {
    let (arrived, arrivals) = channel();
    let slow = options(stalled(arrived));
    let quick = options(backend(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        }
    }));
    let edge = Edge::start().unwrap();
    let (sender, decisions) = channel();
    let decided = move |shard: usize, conn, decision| drop(sender.send((shard, conn, decision)));
    let client = HookClient::new(edge.handle().clone(), Arc::new(decided));
    client.submit(0, auth_request(0));
    assert_eq!(decisions.recv_timeout(SOON).unwrap(), (0, session(0), unavailable()), "there is none yet");
    let timeout = Duration::from_millis(200);
    client.open(Some(&HookOptions { timeout, ..slow.clone() }), &policy()).unwrap();
    client.submit(0, auth_request(1));
    client.submit(0, auth_request(2));
    arrivals.recv_timeout(SOON).unwrap();
    client.open(Some(&quick), &policy()).unwrap();
    client.cancel(0, session(2));
    client.submit(0, auth_request(3));
    let mut decided: Vec<_> = (0..2).map(|_| decisions.recv_timeout(SOON).unwrap()).collect();
    decided.sort_unstable_by_key(|(_, conn, _)| conn.to_bits());
    assert_eq!((decided[0].1.to_bits(), &decided[0].2), (1, &unavailable()), "the former one's time-out");
    assert!(matches!(&decided[1], (0, _, AuthDecision::Accept { .. })));
    assert!(decisions.try_recv().is_err(), "the second was cancelled");
}

#[test]
fn shutdown_of_the_edge_answers_every_request() {
    let (arrived, arrivals) = channel();
    let (hook, decisions, edge) =
        start(&HookOptions { timeout: SOON, concurrency: 1, ..options(stalled(arrived)) });
    hook.submit(0, auth_request(1)).unwrap();
    hook.submit(0, auth_request(2)).unwrap();
    arrivals.recv_timeout(SOON).unwrap();
    drop(edge);
    hook.submit(0, auth_request(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(decisions.recv_timeout(SOON).unwrap().2, unavailable());
    }
}

#[test]
fn in_flight_and_queued_requests_are_bounded() {
    let (arrived, arrivals) = channel();
    let (release, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let url = backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            arrived.send(()).unwrap();
            let _ = gate.lock().unwrap().recv();
            respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        }
    });
    let (hook, decisions, _edge) = start(&HookOptions { timeout: SOON, ..options(url) });
    for number in 0..2 {
        hook.submit(0, auth_request(number)).unwrap();
        arrivals.recv_timeout(SOON).unwrap();
    }
    for number in 2..5 {
        hook.submit(0, auth_request(number)).unwrap();
    }
    assert_eq!(hook.submit(0, auth_request(5)), Err(Full::Count), "the queue is full");
    assert!(arrivals.try_recv().is_err(), "two are in flight");
    drop(release);
    let mut decided: Vec<_> = (0..5).map(|_| decisions.recv_timeout(SOON).unwrap().1.to_bits()).collect();
    decided.sort_unstable();
    assert_eq!(decided, [0, 1, 2, 3, 4]);
}

#[test]
fn a_dropped_hook_sends_its_queued_requests() {
    let url = backend(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        }
    });
    let (hook, decisions, _edge) = start(&options(url));
    hook.submit(0, auth_request(1)).unwrap();
    hook.submit(0, auth_request(2)).unwrap();
    drop(hook);
    let decided: Vec<_> = decisions.iter().map(|(_, conn, _)| conn.to_bits()).collect();
    // The iterator ends when the last thread has let go of the sender.
    assert_eq!(decided.len(), 2);
}
