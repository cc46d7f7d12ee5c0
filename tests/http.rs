//! The plain protocol over HTTP, over real sockets: streams, long polling, messages published by request, and
//! HTTP/1.1 as its users expect it.

mod support;

use std::io::Write;

use rustix::process::Signal;
use support::http::{Http, request};
use support::json::Client;
use support::{SECRET, Server, text, token};
use tungstenite::Message;

const JSON: &str = "Content-Type: application/json\r\n";
const POSITION: &str = "Accept: application/json\r\n";

/// The position in an answer: epoch and offset.
fn position(body: &str) -> (String, u64) {
    let position = body.split("\"position\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let (epoch, offset) = position.and_then(|position| position.split_once(':')).expect("a position");
    (epoch.to_owned(), offset.parse().expect("an offset"))
}

/// Waits until a number of `/metrics` is `value`.
fn wait_for(server: &Server, metric: &str, value: u64) {
    let reached = (0..10_000).any(|_| server.metric(metric) == value);
    assert!(reached, "{metric} never becomes {value}");
}

#[test]
fn a_message_is_published_by_request() {
    let server = Server::start(&["--shards", "2"]);
    let mut plain = server.client("/ws/plain?room=r");
    let mut json = Client::connect(&server, "json");
    json.ask("subscribe", serde_json::json!({"channel": "r"}));
    let mut http = Http::connect(&server);
    let answer = http.ask("POST /send/ann?room=r", "", "hi");
    assert_eq!((answer.status, answer.field("Content-Length")), (204, None), "{answer:?}");
    assert_eq!(text(&mut plain), "ann: hi");
    let answer =
        http.ask("POST /send/ann?room=r", &format!("{JSON}{POSITION}"), "{\"text\": \"two\", \"x\": 1}");
    assert_eq!((answer.status, position(&answer.body).1), (200, 2), "{answer:?}");
    assert_eq!(text(&mut plain), "ann: two");
    let push = |line: &serde_json::Value| line["push"]["pub"]["data"].clone();
    let mut data = Vec::new();
    while data.len() < 2 {
        let line = json.next();
        if !push(&line).is_null() {
            data.push(push(&line));
        }
    }
    assert_eq!(data[0], serde_json::json!({"name": "ann", "text": "hi"}));
    assert_eq!(data[1], serde_json::json!({"text": "two", "x": 1}));
    assert_eq!(server.metric("stentor_members"), 2, "who publishes by request is no member");
}

#[test]
fn a_retried_message_is_published_once() {
    let server = Server::start(&["--shards", "2"]);
    let mut member = server.client("/ws/m?room=r");
    let keyed = |key: &str| format!("Idempotency-Key: {key}\r\n{POSITION}");
    let mut positions = Vec::new();
    for _ in 0..3 {
        // A client that has lost the connection before the answer tries again with another one.
        let mut http = Http::connect(&server);
        let answer = http.ask("POST /send/ann?room=r", &keyed("\"k-1\""), "once");
        positions.push(position(&answer.body));
    }
    assert!(positions.iter().all(|it| *it == positions[0]), "{positions:?}");
    let mut http = Http::connect(&server);
    assert_eq!(position(&http.ask("POST /send/ann?room=r", &keyed("k-2"), "twice").body).1, 2);
    assert_eq!(position(&http.ask("POST /send/bob?room=r", &keyed("k-2"), "bob's").body).1, 3);
    assert_eq!(
        [text(&mut member), text(&mut member), text(&mut member)],
        ["ann: once", "ann: twice", "bob: bob's"]
    );
    for wrong in ["", "a b", &"x".repeat(129), "ü"] {
        let answer = http.ask("POST /send/ann?room=r", &keyed(wrong), "no");
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
        http = Http::connect(&server);
    }
}

#[test]
fn answers_have_the_order_of_their_requests() {
    let server = Server::start(&["--shards", "3"]);
    let mut http = Http::connect(&server);
    let mut all = String::new();
    for index in 0..100 {
        // Rooms have their homes on all shards; the last one is not a message.
        all += &request(&format!("POST /send/ann?room=r{}", index % 5), POSITION, &format!("{index}"));
        if index % 10 == 9 {
            all += &request("GET /healthz", "", "");
        }
        if index % 25 == 24 {
            all += &request("POST /send/ann?room=", JSON, "{");
        }
    }
    http.send(&all);
    for index in 0..100_u64 {
        let answer = http.answer();
        assert_eq!((answer.status, position(&answer.body).1), (200, index / 5 + 1), "{index}: {answer:?}");
        if index % 10 == 9 {
            assert_eq!(http.answer().body, "ok\n");
        }
        if index % 25 == 24 {
            assert_eq!(http.answer().status, 400);
        }
    }
    assert_eq!(http.ask("GET /healthz", "Connection: close\r\n", "").field("Connection"), Some("close"));
    assert_eq!(http.rest(), "");
}

#[test]
fn content_arrives_in_any_pieces() {
    let server = Server::start(&["--shards", "1"]);
    let mut member = server.client("/ws/m?room=r");
    let chunked = "POST /send/ann?room=r HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n";
    let sized = request("POST /send/ann?room=r", "", "hello");
    let mut http = Http::connect(&server);
    for whole in [chunked, sized.as_str()] {
        for byte in whole.as_bytes() {
            http.stream.write_all(&[*byte]).unwrap();
        }
        assert_eq!(http.answer().status, 204);
        assert_eq!(text(&mut member), "ann: hello");
    }
    // Two requests in one packet, the second one cut in its content.
    let two = [chunked, chunked].concat();
    http.send(&two[..two.len() - 20]);
    assert_eq!(http.answer().status, 204);
    http.send(&two[two.len() - 20..]);
    assert_eq!(http.answer().status, 204);
}

#[test]
fn a_client_that_expects_an_interim_answer_gets_one() {
    let server = Server::start(&["--shards", "1", "--max-message", "1KiB"]);
    let mut http = Http::connect(&server);
    let head = |length: usize, more: &str| {
        format!("POST /send/ann HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{more}\r\n")
    };
    http.send(&head(5, "Expect: 100-continue\r\n"));
    assert_eq!(http.head().status, 100);
    http.send("hello");
    assert_eq!(http.answer().status, 204);
    // Content that comes along needs none, and content that is refused is not asked for.
    http.send(&(head(5, "Expect: 100-continue\r\n") + "hello"));
    assert_eq!(http.answer().status, 204);
    http.send(&head(1025, "Expect: 100-continue\r\n"));
    let answer = http.answer();
    assert_eq!((answer.status, answer.field("Connection")), (413, Some("close")), "{answer:?}");
    let mut http = Http::connect(&server);
    http.send(&head(5, "Expect: magic\r\n"));
    assert_eq!(http.answer().status, 417);
}

#[test]
fn what_two_recipients_could_read_in_two_ways_is_refused() {
    let server = Server::start(&["--shards", "1"]);
    for (lines, body, status) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello!\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, identity\r\n", "hello", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", 501),
        ("Content-Length : 5\r\n", "hello", 400),
        ("Content-Length: 5\n", "hello", 400),
        ("Content-Length: 65537\r\n", "hello", 413),
        ("Transfer-Encoding: chunked\r\n", "10001\r\nhello", 413),
    ] {
        let mut http = Http::connect(&server);
        let hidden = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
        http.send(&format!("POST /send/ann HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}{hidden}"));
        let answer = http.answer();
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{lines}{body}");
        assert_eq!(http.rest(), "", "{lines}{body}: nothing that follows is a request");
    }
    let mut http = Http::connect(&server);
    http.send("POST /send/ann HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(http.answer().status, 400);
}

#[test]
fn methods_and_content_types() {
    let server = Server::start(&["--shards", "1"]);
    for (line, lines, body, status, allow) in [
        ("GET /send/ann", "", "", 405, Some("POST, OPTIONS")),
        ("PUT /send/ann", "", "x", 405, Some("POST, OPTIONS")),
        ("POST /sse/ann", "", "x", 405, Some("GET, HEAD, OPTIONS")),
        ("DELETE /poll/ann", "", "", 405, Some("GET, HEAD, OPTIONS")),
        ("POST /healthz", "", "", 405, Some("GET, HEAD")),
        ("OPTIONS /send/ann", "", "", 204, Some("POST, OPTIONS")),
        ("POST /send/ann", "Content-Type: text/plain; charset=utf-8\r\n", "ü", 204, None),
        ("POST /send/ann", "Content-Type: application/x-www-form-urlencoded\r\n", "x", 204, None),
        ("POST /send/ann", "Content-Type: text/plain; charset=iso-8859-1\r\n", "x", 415, None),
        ("POST /send/ann", "Content-Encoding: gzip\r\n", "x", 415, None),
        ("POST /send/ann", JSON, "[1, 2]", 204, None),
        ("POST /send/ann", JSON, "{\"a\":}", 400, None),
        ("POST /send/%0A", "", "x", 400, None),
        ("POST /send/a/b", "", "x", 404, None),
        ("GET /sse/ann?since=x", "", "", 400, None),
        ("GET /sse/ann", "Last-Event-ID: x\r\n", "", 400, None),
        ("GET /poll/ann?session=a%20b", "", "", 400, None),
        ("GET /stream/ann", "Content-Length: 1\r\n", "x", 400, None),
    ] {
        let mut http = Http::connect(&server);
        http.send(&if line.starts_with("GET /stream") {
            format!("{line} HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}")
        } else {
            request(line, lines, body)
        });
        let answer = http.answer();
        assert_eq!((answer.status, answer.field("Allow")), (status, allow), "{line} {lines}: {answer:?}");
    }
    let mut http = Http::connect(&server);
    http.send("POST /send/ann HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n");
    http.stream.write_all(&[0xFF]).unwrap();
    assert_eq!(http.answer().status, 400);
    // It was read to its end: the connection goes on.
    assert_eq!(http.ask("POST /send/ann", "", "x").status, 204);
}

#[test]
fn a_head_request_is_answered_without_content() {
    let server = Server::start(&["--shards", "1"]);
    let mut http = Http::connect(&server);
    for (path, media_type) in [("/sse/ann", "text/event-stream"), ("/stream/ann", "application/x-ndjson")] {
        http.send(&request(&format!("HEAD {path}"), "", ""));
        let head = http.head();
        assert!(head.field("Content-Type").is_some_and(|found| found.starts_with(media_type)), "{head:?}");
    }
    assert_eq!(http.ask("HEAD /poll/ann", "", "").status, 204);
    assert_eq!(server.metric("stentor_members"), 0);
    let mut old = Http::connect(&server);
    old.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(old.answer().field("Connection"), Some("keep-alive"));
    old.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().field("Connection"), Some("close"));
}

#[test]
fn events_resume_by_themselves() {
    let server = Server::start(&["--shards", "2"]);
    let mut sse = Http::connect(&server);
    sse.send(&request("GET /sse/ann?room=r", "", ""));
    let head = sse.head();
    assert_eq!(head.field("Content-Type"), Some("text/event-stream; charset=utf-8"), "{head:?}");
    assert_eq!((head.field("X-Accel-Buffering"), head.field("Vary")), (Some("no"), Some("Origin")));
    let begin = sse.content_until("\n\nid: ");
    assert_eq!(begin, "retry: 2000\n\nid: ");
    let epoch = sse.content_until(":0\n\n").trim_end_matches(":0\n\n").to_owned();
    let mut publisher = Http::connect(&server);
    publisher.ask("POST /send/bob?room=r", "", "one\ntwo");
    let event = format!("id: {epoch}:1\ndata: {{\"name\":\"bob\",\"text\":\"one\\ntwo\"}}\n\n");
    assert_eq!(sse.content_until("}\n\n"), event);
    drop(sse);
    publisher.ask("POST /send/bob?room=r", "", "three");
    let mut again = Http::connect(&server);
    again.send(&request("GET /sse/ann?room=r&since=x:0", &format!("Last-Event-ID: {epoch}:1\r\n"), ""));
    again.head();
    let event = format!("retry: 2000\n\nid: {epoch}:2\ndata: {{\"name\":\"bob\",\"text\":\"three\"}}\n\n");
    assert_eq!(again.content_until("}\n\n"), event);
    assert_eq!(again.content_until(":2\n\n"), format!("id: {epoch}:2\n\n"));
    // A position that cannot be recovered from is announced.
    let mut gap = Http::connect(&server);
    gap.send(&request("GET /sse/ann?room=r", "Last-Event-ID: other:1\r\n", ""));
    gap.head();
    let notice = "event: notice\ndata: {\"notice\":\"messages may be missing here\"}\n\n";
    assert!(gap.content_until(":2\n\n").starts_with(&format!("retry: 2000\n\n{notice}")));
}

#[test]
fn lines_of_a_stream() {
    let server = Server::start(&["--shards", "2"]);
    let mut publisher = Http::connect(&server);
    publisher.ask("POST /send/bob?room=r", "", "one");
    let mut stream = Http::connect(&server);
    stream.send(&request("GET /stream/ann?room=r&history=5", "", ""));
    let head = stream.head();
    assert_eq!(head.field("Content-Type"), Some("application/x-ndjson; charset=utf-8"), "{head:?}");
    let line = stream.content_until("\n");
    let (epoch, offset) = position(&line);
    assert_eq!(offset, 1);
    assert_eq!(line, format!("{{\"position\":\"{epoch}:1\",\"name\":\"bob\",\"text\":\"one\"}}\n"));
    assert_eq!(stream.content_until("\n"), format!("{{\"position\":\"{epoch}:1\"}}\n"));
    for number in 2..200 {
        assert_eq!(publisher.ask("POST /send/bob?room=r", "", "more").status, 204);
        assert_eq!(position(&stream.content_until("\n")), (epoch.clone(), number));
    }
    assert_eq!(server.metric("stentor_http_streams"), 1);
    // A publication is one frame for all members of a format, whatever transports the room has.
    let mut member = server.client("/ws/m?room=r");
    member.send(Message::text("hi")).unwrap();
    assert_eq!(position(&stream.content_until("\n")).1, 200);
}

/// HTTP/1.0 has no chunks: the stream ends with the connection, which is what proxies use by default.
#[test]
fn streams_of_http_1_0_end_with_the_connection() {
    let mut server = Server::start(&["--shards", "1", "--drain", "20s"]);
    let mut stream = Http::connect(&server);
    stream.send("GET /stream/ann?room=r HTTP/1.0\r\n\r\n");
    let head = stream.head();
    assert_eq!(
        (head.field("Transfer-Encoding"), head.field("Connection")),
        (None, Some("close")),
        "{head:?}"
    );
    let mut chunked = Http::connect(&server);
    chunked.send(&request("GET /sse/ann?room=r", "", ""));
    chunked.head();
    chunked.content_until(":0\n\n");
    Http::connect(&server).ask("POST /send/bob?room=r", "", "hi");
    chunked.content_until("}\n\n");
    server.signal(Signal::TERM);
    let lines = stream.rest();
    let (epoch, _) = position(&lines);
    let end = "{\"end\":1001,\"reason\":\"server is going away\"}\n";
    let expected = format!(
        "{{\"position\":\"{epoch}:0\"}}\n{{\"position\":\"{epoch}:1\",\"name\":\"bob\",\"text\":\"hi\"}}\n{end}"
    );
    assert_eq!(lines, expected);
    assert!(chunked.content_until("}\n\n").starts_with("event: end\n"));
    assert_eq!(chunked.chunk(), None, "the last chunk ends the stream");
    drop((stream, chunked));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_stream_without_messages_shows_that_it_is_alive() {
    let server = Server::start(&["--shards", "1", "--ping-interval", "200ms", "--pong-timeout", "100ms"]);
    let mut sse = Http::connect(&server);
    sse.send(&request("GET /sse/ann", "", ""));
    sse.head();
    for _ in 0..3 {
        sse.content_until("\n:\n\n");
        sse.stream.write_all(b"ignored").unwrap();
    }
    let mut stream = Http::connect(&server);
    stream.send("GET /stream/ann HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.head();
    stream.content_until("\n");
    assert_eq!(stream.content_until("\n"), "{}\n");
}

#[test]
fn a_poll_waits_for_messages() {
    let server = Server::start(&["--shards", "2"]);
    let (mut poller, mut publisher) = (Http::connect(&server), Http::connect(&server));
    publisher.ask("POST /send/bob?room=r", "", "one");
    let first = poller.ask("GET /poll/ann?room=r&history=1", "", "");
    let (epoch, offset) = position(&first.body);
    assert_eq!((first.status, offset), (200, 1), "{first:?}");
    assert_eq!(first.field("Stentor-Position"), Some(&*format!("{epoch}:1")));
    let session = first.field("Stentor-Session").expect("a name").to_owned();
    let poll = format!("GET /poll/ann?room=r&session={session}");
    // What differs from poll to poll, the time and the author's client id, stands at the end of an entry.
    let check = |answer: &str, texts: &[(u64, &str)], offset: u64| {
        let batch: serde_json::Value = serde_json::from_str(answer).expect("JSON");
        let expected = texts.iter().map(|(offset, text)| {
            format!("{{\"position\":\"{epoch}:{offset}\",\"name\":\"bob\",\"text\":\"{text}\",\"time\":")
        });
        assert_eq!(batch["messages"].as_array().map(Vec::len), Some(texts.len()), "{answer}");
        assert!(expected.into_iter().all(|entry| answer.contains(&entry)), "{answer}");
        assert_eq!(batch["position"], format!("{epoch}:{offset}"));
        for entry in batch["messages"].as_array().into_iter().flatten() {
            assert!(entry["time"].as_u64() > Some(1_700_000_000_000), "{answer}");
            assert!(entry["client"].as_str().is_some_and(|client| client.len() == 36), "{answer}");
        }
    };
    check(&first.body, &[(1, "one")], 1);
    // Published between two polls: the next one is answered at once.
    publisher.ask("POST /send/bob?room=r", "", "two");
    publisher.ask("POST /send/bob?room=r", "", "three");
    let batch = poller.ask(&format!("{poll}&since={epoch}:1"), "", "");
    check(&batch.body, &[(2, "two"), (3, "three")], 3);
    assert_eq!(batch.field("Stentor-Session"), Some(&*session));
    // Published while one waits, with a request that follows it at once.
    poller.send(&(request(&format!("{poll}&since={epoch}:3"), "", "") + &request("GET /healthz", "", "")));
    wait_for(&server, "stentor_http_waiting_requests", 1);
    publisher.ask("POST /send/bob?room=r", "", "four");
    check(&poller.answer().body, &[(4, "four")], 4);
    assert_eq!(poller.answer().body, "ok\n");
    // A position that cannot be recovered from is announced.
    let gap = poller.ask(&format!("{poll}&since=other:1"), "", "");
    assert_eq!(gap.body, format!("{{\"position\":\"{epoch}:4\",\"gap\":true,\"messages\":[]}}\n"));
}

#[test]
fn a_poll_need_not_wait() {
    let server = Server::start(&["--shards", "2", "--poll-timeout", "600s"]);
    let mut http = Http::connect(&server);
    let answer = http.ask("GET /poll/ann?room=r&wait=0", "", "");
    let top = answer.field("Stentor-Position").expect("a position").to_owned();
    assert!(answer.status == 204 && top.ends_with(":0"), "{answer:?}");
    http.ask("POST /send/bob?room=r", "", "one");
    let answer = http.ask(&format!("GET /poll/ann?room=r&wait=0&since={top}"), "", "");
    assert_eq!((answer.status, position(&answer.body).1), (200, 1), "{answer:?}");
    assert_eq!(http.ask("GET /poll/ann?room=r&wait=1", "", "").status, 204);
    for wrong in ["", "x", "-1", "0.5"] {
        assert_eq!(http.ask(&format!("GET /poll/ann?wait={wrong}"), "", "").status, 400, "{wrong}");
    }
    http.send(&request("GET /poll/ann?wait=99999999999999999999", "", ""));
    wait_for(&server, "stentor_http_waiting_requests", 1);
}

#[test]
fn a_room_without_a_history_has_one_position_for_all_polls() {
    let (_file, path) = support::file("[[room]]\npattern = \"live\"\nhistory = 0\n");
    let server = Server::start(&["--shards", "2", "--config", &path]);
    let (mut http, poll) = (Http::connect(&server), "GET /poll/ann?room=live&session=s&wait=0");
    let top = http.ask(poll, "", "").field("Stentor-Position").expect("a position").to_owned();
    for _ in 0..3 {
        let answer = http.ask(&format!("{poll}&since={top}"), "", "");
        assert_eq!((answer.status, answer.field("Stentor-Position")), (204, Some(&*top)), "{answer:?}");
    }
    // It keeps nothing: what is published between two polls is missing, and the next one says so.
    http.ask("POST /send/bob?room=live", "", "missed");
    let answer = http.ask(&format!("{poll}&since={top}"), "", "");
    assert_eq!((position(&answer.body).1, answer.body.contains("\"gap\":true")), (1, true), "{answer:?}");
}

#[test]
fn a_client_that_polls_is_present_between_two_polls() {
    let server = Server::start(&["--shards", "3", "--poll-timeout", "100ms"]);
    let mut watcher = Client::connect(&server, "watcher");
    watcher.ask("subscribe", serde_json::json!({"channel": "r"}));
    let present = |watcher: &mut Client| {
        watcher.ask("presence_stats", serde_json::json!({"channel": "r"}))["presence_stats"]["num_clients"]
            .as_u64()
    };
    for number in 0..6 {
        // On another connection each time, and so on any shard.
        let poll = "GET /poll/ann?room=r&session=mine";
        let answer = Http::connect(&server).ask(poll, "", "");
        assert_eq!((answer.status, answer.field("Content-Length")), (204, None), "{answer:?}");
        assert_eq!(answer.field("Stentor-Session"), Some("mine"));
        assert!(answer.field("Stentor-Position").is_some_and(|it| it.ends_with(":0")), "{answer:?}");
        assert_eq!(present(&mut watcher), Some(2), "after poll {number}");
    }
    assert_eq!(Http::connect(&server).ask("GET /poll/bob?room=r&session=mine", "", "").status, 204);
    assert_eq!(present(&mut watcher), Some(3), "another identity is another client");
    assert_eq!(server.metric("stentor_polling_members"), 2);
    assert_eq!(server.metric("stentor_members"), 1);
}

#[test]
fn two_polls_of_one_client_are_both_answered() {
    let server = Server::start(&["--shards", "2"]);
    let poll = request("GET /poll/ann?room=r&session=mine", "", "");
    let mut polls = [Http::connect(&server), Http::connect(&server)];
    polls.iter_mut().for_each(|it| it.send(&poll));
    wait_for(&server, "stentor_http_waiting_requests", 2);
    Http::connect(&server).ask("POST /send/bob?room=r", "", "hi");
    for it in &mut polls {
        assert_eq!(position(&it.answer().body).1, 1);
    }
    // One that is aborted leaves nothing behind but its lease.
    let mut aborted = Http::connect(&server);
    aborted.send(&poll);
    wait_for(&server, "stentor_http_waiting_requests", 1);
    drop(aborted);
    wait_for(&server, "stentor_http_waiting_requests", 0);
    wait_for(&server, "stentor_members", 0);
}

#[test]
fn pages_of_other_origins_are_refused() {
    let server = Server::start(&["--shards", "1", "--origins", "same-host,https://chat.example"]);
    let origin = |origin: &str| format!("Origin: {origin}\r\n");
    let mut http = Http::connect(&server);
    let answer = http.ask("POST /send/ann", &origin("https://chat.example"), "x");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("https://chat.example"));
    assert_eq!(answer.field("Access-Control-Allow-Credentials"), Some("true"));
    assert_eq!(answer.field("Vary"), Some("Origin"));
    // Refusals can be read by the page, too.
    let answer = http.ask("POST /send/ann", &(origin("https://chat.example") + JSON), "{");
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin").is_some()), (400, true));
    let preflight = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n";
    let answer = http.ask("OPTIONS /send/ann", &(origin("https://chat.example") + preflight), "");
    assert_eq!((answer.status, answer.field("Access-Control-Max-Age")), (204, Some("600")), "{answer:?}");
    assert!(answer.field("Access-Control-Allow-Headers").is_some_and(|it| it.contains("Idempotency-Key")));
    for (lines, status) in [
        (origin("https://evil.example"), 403),
        (origin("null"), 403),
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), 403),
        ("Sec-Fetch-Site: same-origin\r\n".to_owned(), 204),
        (origin("http://h"), 204),
    ] {
        // What a page can send without a preflight is refused by the server itself.
        let lines = lines + "Content-Type: text/plain\r\n";
        let answer = Http::connect(&server).ask("POST /send/ann", &lines, "x");
        assert_eq!(answer.status, status, "{lines}: {answer:?}");
        assert_eq!(
            answer.field("Access-Control-Allow-Origin").is_some(),
            lines.contains("http://h"),
            "{lines}"
        );
    }
    for path in ["/sse/ann", "/stream/ann", "/poll/ann"] {
        let answer = Http::connect(&server).ask(&format!("GET {path}"), &origin("https://evil.example"), "");
        assert_eq!(answer.status, 403, "{path}");
    }
}

#[test]
fn tokens_and_rules_of_rooms() {
    let (_file, path) = support::file("[[room]]\npattern = \"news\"\npublish = \"nobody\"\n");
    let secret = ["--auth", "token", "--token-hmac-secret-files", SECRET];
    let server = Server::start(&[&["--shards", "2", "--config", path.as_str()][..], &secret].concat());
    let mut http = Http::connect(&server);
    let answer = http.ask("POST /send/ann", "", "x");
    assert_eq!((answer.status, answer.field("WWW-Authenticate")), (401, Some("Bearer")), "{answer:?}");
    let bearer =
        |user: &str| format!("Authorization: Bearer {}\r\n", token(&["--user", user, "--name", user]));
    assert_eq!(http.ask("POST /send/ann", &bearer("ann"), "x").status, 204);
    assert_eq!(http.ask("POST /send/ann", &bearer("bob"), "x").status, 403);
    assert_eq!(http.ask("POST /send/ann?room=news", &bearer("ann"), "x").status, 403);
    // One connection may serve several clients, as that of a proxy does.
    let mut member =
        server.client(&format!("/ws/ann?room=r&token={}", token(&["--user", "ann", "--name", "ann"])));
    for user in ["ann", "bob", "ann"] {
        assert_eq!(http.ask(&format!("POST /send/{user}?room=r"), &bearer(user), "hi").status, 204);
        assert_eq!(text(&mut member), format!("{user}: hi"));
    }
    for path in ["/sse/ann", "/stream/ann", "/poll/ann"] {
        assert_eq!(Http::connect(&server).ask(&format!("GET {path}"), "", "").status, 401, "{path}");
    }
}

#[test]
fn a_client_that_publishes_too_fast_is_slowed_down() {
    let server = Server::start(&["--shards", "1", "--max-session-messages-per-second", "1"]);
    let mut http = Http::connect(&server);
    let all: String = (0..4).map(|_| request("POST /send/ann", "", "x")).collect();
    http.send(&all);
    let answers: Vec<_> = (0..4).map(|_| http.answer()).collect();
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [204, 204, 429, 429]);
    assert_eq!(answers[3].field("Retry-After"), Some("1"));
}

#[test]
fn slow_content_has_a_deadline() {
    let server = Server::start(&["--shards", "1", "--handshake-timeout", "300ms"]);
    let mut http = Http::connect(&server);
    http.send("POST /send/ann HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    let answer = http.answer();
    assert_eq!((answer.status, answer.field("Connection")), (408, Some("close")), "{answer:?}");
}

/// A client that ends its side after its request still reads the answer.
#[test]
fn half_closed_connections_are_answered() {
    let server = Server::start(&["--shards", "3"]);
    for room in 0..6 {
        let mut http = Http::connect(&server);
        http.send(&request(&format!("POST /send/ann?room=r{room}"), "", "x").repeat(3));
        http.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(http.rest().matches("HTTP/1.1 204 ").count(), 3);
    }
}
