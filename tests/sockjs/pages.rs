//! What a service answers outside of its sessions: the greeting, the page for iframes, capabilities,
//! preflights.

use super::support::Server;
use super::support::http::Answer;
use super::{CLOSE, COOKIE, ECHO, NO_WEBSOCKET, ask, echo_server, has_type, is_allowed_for, is_not_cached};

fn is_cached_for_a_year(answer: &Answer) {
    assert_eq!(answer.field("Cache-Control"), Some("public, max-age=31536000"), "{answer:?}");
    assert!(answer.field("Expires").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
}

#[test]
fn a_service_has_a_greeting() {
    let server = echo_server();
    for path in [ECHO, "/sockjs-test/echo/", COOKIE, "/sockjs"] {
        let answer = ask(&server, &format!("GET {path}"), "", "");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "Welcome to SockJS!\n"),
            "{path}: {answer:?}"
        );
        has_type(&answer, "text/plain;charset=utf-8");
        assert_eq!(answer.field("Set-Cookie"), None);
    }
    let without = Server::start(&["--shards", "1"]);
    assert_eq!(ask(&without, &format!("GET {ECHO}"), "", "").status, 404, "only with --echo");
}

#[test]
fn nothing_else_is_there() {
    let server = echo_server();
    for path in ["/a", "/a.html", "//", "///", "/a/a", "/a/a/", "/a/", "/a/b/c", "/a/b/xhr/d", "/a/b/XHR"] {
        assert_eq!(ask(&server, &format!("GET {ECHO}{path}"), "", "").status, 404, "{path}");
    }
    // Parts of a session's path are not empty and have no dot.
    for session in ["//", "///", "/", "/a./a", "/a/a.", "/./.", "/a/", "//a", "/a/b/c", "/.a/b"] {
        for method in ["GET", "POST"] {
            let answer = ask(&server, &format!("{method} {ECHO}{session}/xhr"), "", "");
            assert_eq!(answer.status, 404, "{method} {session}: {answer:?}");
        }
    }
    for page in
        ["/iframe.htm", "/iframe", "/IFRAME.HTML", "/IFRAME", "/iframe.HTML", "/iframe.xml", "/iframe-/.html"]
    {
        assert_eq!(ask(&server, &format!("GET {ECHO}{page}"), "", "").status, 404, "{page}");
    }
}

#[test]
fn methods_that_a_transport_lacks() {
    let server = echo_server();
    for (line, lines, allowed) in [
        ("GET /a/a/xhr", "", "POST"),
        ("GET /a/a/xhr_streaming", "", "POST"),
        ("GET /a/a/xhr_send", "", "POST"),
        ("PUT /a/a/jsonp_send", "", "POST"),
        ("POST /a/a/eventsource", "", "GET"),
        ("POST /a/a/htmlfile?c=x", "", "GET"),
        ("POST /a/a/jsonp?c=x", "", "GET"),
        ("POST /info", "", "GET"),
        ("POST /0/0/websocket", "", "GET"),
        ("POST /0/0/websocket", "Upgrade: WebSocket\r\nConnection: Upgrade\r\n", "GET"),
        ("PUT /0/0/websocket", "", "GET"),
    ] {
        let (method, path) = line.split_once(' ').unwrap();
        let answer = ask(&server, &format!("{method} {ECHO}{path}"), lines, "");
        assert_eq!((answer.status, answer.body.as_str()), (405, ""), "{line}: {answer:?}");
        assert!(answer.field("Allow").is_some_and(|allow| allow.contains(allowed)), "{line}: {answer:?}");
        assert_eq!(answer.field("Content-Type"), None, "{line}: {answer:?}");
    }
}

#[test]
fn the_page_for_iframes() {
    let server = echo_server();
    let mut tags = Vec::new();
    for name in [
        "iframe.html",
        "iframe-a.html",
        "iframe-.html",
        "iframe-0.1.2.html",
        "iframe-0.1.2abc-dirty.2144.html",
        "iframe-a.html?t=1234",
        "iframe-0.1.2abc-dirty.2144.html?t=qweqweq123",
    ] {
        let answer = ask(&server, &format!("GET {ECHO}/{name}"), "Origin: https://elsewhere.example\r\n", "");
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        has_type(&answer, "text/html;charset=utf-8");
        is_cached_for_a_year(&answer);
        assert_eq!((answer.field("Last-Modified"), answer.field("Set-Cookie")), (None, None));
        // A page of another site holds it, and its script is inline.
        assert_eq!(answer.field("X-Frame-Options"), None, "{answer:?}");
        let policy = answer.field("Content-Security-Policy").unwrap_or_default();
        assert!(!policy.contains("frame-ancestors 'none'"), "{policy}");
        let (before, rest) = answer.body.split_once("<script src=\"").expect("a script");
        let (script, after) = rest.split_once('"').unwrap();
        assert_eq!(before.replace([' ', '\n'], ""), IFRAME_HEAD.replace([' ', '\n'], ""));
        assert_eq!(after.replace([' ', '\n'], ""), IFRAME_REST.replace([' ', '\n'], ""));
        assert!(script.starts_with('/') || script.starts_with("http"), "{script}");
        if script.starts_with('/') {
            assert_eq!(ask(&server, &format!("GET {script}"), "", "").status, 200, "{script}");
        }
        tags.push(answer.field("ETag").expect("a validator").to_owned());
    }
    assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    for condition in [tags[0].clone(), format!("\"other\", {}", tags[0]), "*".to_owned()] {
        let lines = format!("If-None-Match: {condition}\r\n");
        let answer = ask(&server, &format!("GET {ECHO}/iframe.html"), &lines, "");
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{condition}: {answer:?}");
        assert_eq!(answer.field("Content-Type"), None);
    }
}

const IFRAME_HEAD: &str = "<!DOCTYPE html><html><head>\
    <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\
    <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />";

const IFRAME_REST: &str = "></script><script>\
    document.domain = document.domain; SockJS.bootstrap_iframe();\
    </script></head><body>\
    <h2>Don't panic!</h2><p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>\
    </body></html>";

#[test]
fn capabilities() {
    let server = echo_server();
    let info = |service: &str| {
        let answer = ask(&server, &format!("GET {service}/info?t=1"), "Origin: test\r\n", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        has_type(&answer, "application/json;charset=utf-8");
        is_not_cached(&answer);
        is_allowed_for(&answer, "test");
        assert_eq!(answer.field("Set-Cookie"), None);
        serde_json::from_str::<serde_json::Value>(&answer.body).expect("JSON")
    };
    for (service, websocket, cookie) in
        [(ECHO, true, false), (CLOSE, true, false), (NO_WEBSOCKET, false, false), (COOKIE, true, true)]
    {
        let found = info(service);
        assert_eq!((&found["websocket"], &found["cookie_needed"]), (&websocket.into(), &cookie.into()));
        assert_eq!(found["origins"], serde_json::json!(["*:*"]));
        let entropy = found["entropy"].as_u64().expect("a number");
        assert!(u32::try_from(entropy).is_ok(), "{entropy}");
        assert_ne!(info(service)["entropy"], entropy);
    }
    let answer = ask(&server, &format!("GET {ECHO}/info"), "", "");
    assert_eq!(answer.field("Access-Control-Allow-Credentials"), None, "no page has asked: {answer:?}");
}

#[test]
fn preflights() {
    let server = echo_server();
    for (path, methods) in [
        ("/info", ["OPTIONS", "GET"]),
        ("/abc/abc/xhr", ["OPTIONS", "POST"]),
        ("/abc/abc/xhr_send", ["OPTIONS", "POST"]),
        ("/abc/abc/xhr_streaming", ["OPTIONS", "POST"]),
    ] {
        for origin in ["test", "null", "https://chat.example"] {
            let asked = format!("Access-Control-Request-Method: {}\r\n", methods[1]);
            let asked_all = format!("Access-Control-Request-Method: {}\r\n", methods.join(", "));
            for asked in [asked, asked_all] {
                let lines = format!("Origin: {origin}\r\n{asked}");
                let answer = ask(&server, &format!("OPTIONS {ECHO}{path}"), &lines, "");
                assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path}: {answer:?}");
                is_cached_for_a_year(&answer);
                is_allowed_for(&answer, origin);
                assert_eq!(answer.field("Access-Control-Max-Age"), Some("31536000"));
                let allowed = answer.field("Access-Control-Allow-Methods").expect("methods");
                assert!(methods.iter().all(|method| allowed.contains(method)), "{path}: {allowed}");
            }
        }
    }
    for (asked, allowed) in [
        ("Access-Control-Request-Headers: a, b, c\r\n", Some("a, b, c")),
        ("Access-Control-Request-Headers: \r\n", None),
        ("", None),
    ] {
        let lines = format!("Origin: test\r\nAccess-Control-Request-Method: POST\r\n{asked}");
        let answer = ask(&server, &format!("OPTIONS {ECHO}/a/b/xhr"), &lines, "");
        is_allowed_for(&answer, "test");
        let found = answer.field("Access-Control-Allow-Headers").filter(|found| !found.is_empty());
        assert_eq!(found, allowed, "{answer:?}");
    }
    // A preflight opens no session.
    assert_eq!(ask(&server, &format!("POST {ECHO}/a/b/xhr_send"), "", "[\"x\"]").status, 404);
}
