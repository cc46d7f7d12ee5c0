//! The hook against a back end that answers, or does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, channel};

use super::*;

#[expect(clippy::disallowed_types, reason = "a back end for tests")]
type Listener = std::net::TcpListener;
#[expect(clippy::disallowed_types, reason = "a back end for tests")]
type Stream = std::net::TcpStream;

const BOUNDS: Bounds = Bounds { name_bytes_max: 64, room_bytes_max: 255 };

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

fn question(number: u64) -> Question {
    Question {
        conn: ConnKey::from_bits(number),
        client: "c9".into(),
        protocol: "json",
        name: Some("Ann".into()),
        token: None,
        data: Some("{\"a\": 1}".into()),
        address: Some([127, 0, 0, 1].into()),
    }
}

type Told = (usize, ConnKey, Verdict);

fn start(options: &HookOptions) -> (Hook, Receiver<Told>) {
    let (sender, verdicts) = channel();
    let decided = move |shard, conn, verdict| drop(sender.send((shard, conn, verdict)));
    (Hook::start(options, BOUNDS, Arc::new(decided)).unwrap(), verdicts)
}

/// A back end that does `serve` with each connection, and where it listens.
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
    // Who refuses a huge body hangs up while it is sent.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// What becomes of a client if the back end answers each request with this.
fn verdict(status: &'static str, body: impl Into<String>) -> Verdict {
    let body = body.into();
    let url = backend(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            respond(&mut stream, status, &body);
        }
    });
    let (hook, verdicts) = start(&options(url));
    hook.ask(5, question(7)).unwrap();
    let (shard, conn, verdict) = verdicts.recv_timeout(SOON).unwrap();
    assert_eq!((shard, conn), (5, ConnKey::from_bits(7)));
    verdict
}

#[test]
fn the_back_end_is_asked_in_the_shape_of_the_connect_proxy() {
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
    let (hook, verdicts) = start(&HookOptions { concurrency: 1, ..options(url) });
    for number in 0..3 {
        hook.ask(0, question(number)).unwrap();
        verdicts.recv_timeout(SOON).unwrap();
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
    let Verdict::Welcome { identity: ann, data } = verdict("200 OK", body) else { panic!("not welcome") };
    assert_eq!((&*ann.user, &*ann.name, ann.info.as_deref()), ("7", "Ann", Some(r#"{"name":"Ann"}"#)));
    assert_eq!(data.as_deref(), Some(&br#"{"n":1}"#[..]));
    assert_eq!((ann.rooms.as_slice(), ann.expires_in), (&[Arc::from("a")][..], None));

    let refused =
        |code, message: &str, temporary| Verdict::Refused { code, message: message.into(), temporary };
    assert_eq!(
        verdict("200 OK", r#"{"error":{"code":1000,"message":"no","temporary":true}}"#),
        refused(1000, "no", true)
    );
    assert_eq!(verdict("200 OK", r#"{"result":{"expire_at":1}}"#), refused(109, "token expired", false));
    let disconnect = |code, reason: &str| Verdict::Disconnect { code, reason: reason.into() };
    assert_eq!(
        verdict("200 OK", r#"{"disconnect":{"code":4501,"reason":"banned"}}"#),
        disconnect(4501, "banned")
    );
    assert_eq!(
        verdict("200 OK", r#"{"disconnect":{"code":4501,"reason":"null"}}"#),
        disconnect(4501, "null.")
    );
    let long = format!(r#"{{"disconnect":{{"code":4501,"reason":"{}"}}}}"#, "ü".repeat(100));
    assert_eq!(verdict("200 OK", long), disconnect(4501, &"ü".repeat(61)));
}

#[test]
fn anything_else_tells_the_client_to_come_back() {
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
        ("200 OK", r#"{"result":{"user":"7","channels":["\u0000"]}}"#),
        ("200 OK", r#"{"result":{"user":"7"}} and more"#),
        ("200 OK", r#"{"error":{"code":99}}"#),
        ("200 OK", r#"{"error":{"code":70000}}"#),
        ("200 OK", r#"{"disconnect":{"code":1000}}"#),
    ] {
        assert_eq!(verdict(status, body), unavailable(), "{status} {body}");
    }
}

#[test]
fn a_huge_answer_is_not_read() {
    let padding = "x".repeat(usize::try_from(RESPONSE_BYTES_MAX).unwrap());
    assert_eq!(
        verdict("200 OK", format!(r#"{{"result":{{"user":"7","info":"{padding}"}}}}"#)),
        unavailable()
    );
    let fits = format!(r#"{{"result":{{"user":"7","info":"{}"}}}}"#, &padding[100..]);
    assert!(matches!(verdict("200 OK", fits), Verdict::Welcome { .. }));
}

#[test]
fn a_back_end_that_is_not_there_or_breaks_off() {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let hangs_up = backend(drop);
    for url in [nobody, hangs_up] {
        let (hook, verdicts) = start(&options(url));
        hook.ask(0, question(1)).unwrap();
        assert_eq!(verdicts.recv_timeout(SOON).unwrap().2, unavailable());
    }
}

#[test]
fn one_that_is_silent_is_given_up_on_in_time() {
    let url = backend(|mut stream| {
        // Reads until the other side has had enough, and says one byte at most.
        let _ = stream.write_all(b"H");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (hook, verdicts) = start(&HookOptions { timeout: Duration::from_millis(50), ..options(url) });
    hook.ask(0, question(1)).unwrap();
    assert_eq!(verdicts.recv_timeout(SOON).unwrap().2, unavailable());
}

#[test]
fn a_bounded_number_is_under_way_and_a_bounded_number_waits() {
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
    let (hook, verdicts) = start(&HookOptions { timeout: SOON, ..options(url) });
    for number in 0..2 {
        hook.ask(0, question(number)).unwrap();
        arrivals.recv_timeout(SOON).unwrap();
    }
    for number in 2..5 {
        hook.ask(0, question(number)).unwrap();
    }
    let back = hook.ask(0, question(5)).unwrap_err();
    assert_eq!(*back, question(5), "the queue is full, and the question comes back");
    assert!(arrivals.try_recv().is_err(), "two are under way");
    drop(release);
    let mut decided: Vec<_> = (0..5).map(|_| verdicts.recv_timeout(SOON).unwrap().1.to_bits()).collect();
    decided.sort_unstable();
    assert_eq!(decided, [0, 1, 2, 3, 4]);
}

#[test]
fn dropped_it_asks_what_waits_and_ends() {
    let url = backend(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while request(&mut reader).is_some() {
            respond(&mut stream, "200 OK", r#"{"result":{"user":"7"}}"#);
        }
    });
    let (hook, verdicts) = start(&options(url));
    hook.ask(0, question(1)).unwrap();
    hook.ask(0, question(2)).unwrap();
    drop(hook);
    let decided: Vec<_> = verdicts.iter().map(|(_, conn, _)| conn.to_bits()).collect();
    // The iterator ends when the last thread has let go of the sender.
    assert_eq!(decided.len(), 2);
}
