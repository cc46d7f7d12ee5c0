//! SockJS: its paths, and what each of them does.
//!
//! A session of the transports over HTTP has an *outlet*: it collects what the session sends, while one
//! request after the other receives it. The outlet is on the shard that the session's name hashes to, and
//! connections whose requests receive go there (`shard::moving`). What a client sends comes by requests on
//! any connection, and is relayed. A session over WebSocket is a plain text session with other frames.

mod answers;
mod delivery;
mod life;
mod outlet;
mod transport;

pub(super) use outlet::Outlets;

use std::borrow::Cow;

use super::content::Purpose;
use super::http::Exchange;
use super::input::Used;
use super::plain::owned;
use super::{Shard, Slot};
use crate::app::sockjs;
use crate::base::ConnKey;
use crate::http::{Cors, Framing, Head, Reject, StatusCode, is_upgrade, percent_decode, query_value};
use crate::session::TextHandshake;
use answers::cookie_of;
pub(super) use answers::{Answers, TEXT};
pub(super) use outlet::Receive;

/// A service: what a session under its prefix does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    /// It is in a room.
    Rooms,
    /// Every message is sent back: for tests.
    Echo {
        /// Over WebSocket too.
        websocket: bool,
        /// A load balancer needs a cookie.
        cookie: bool,
    },
    /// It ends at once: for tests.
    Close,
}

/// The services and their prefixes; all but the first one are there for tests.
const SERVICES: [(&str, Service); 5] = [
    ("/sockjs", Service::Rooms),
    ("/sockjs-test/echo", Service::Echo { websocket: true, cookie: false }),
    ("/sockjs-test/disabled_websocket_echo", Service::Echo { websocket: false, cookie: false }),
    ("/sockjs-test/cookie_needed_echo", Service::Echo { websocket: true, cookie: true }),
    ("/sockjs-test/close", Service::Close),
];

/// How a request receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    /// One frame, and the answer ends.
    Xhr,
    /// Frames until the answer is long enough.
    XhrStreaming,
    /// The same as events.
    EventSource,
    /// The same as scripts in a page.
    HtmlFile,
    /// One frame, as a script.
    Jsonp,
}

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resource<'a> {
    /// The prefix itself.
    Greeting,
    /// What the service can do.
    Info,
    /// The page for pages of other origins.
    Iframe,
    /// A WebSocket without SockJS's frames.
    RawWebSocket,
    /// A WebSocket.
    WebSocket,
    /// Receives, for the session of this name.
    Receive(Transport, &'a str),
    /// Sends, for the session of this name; `true`: as a form.
    Send(&'a str, bool),
    /// Nothing.
    Nothing,
}

impl Resource<'_> {
    const fn methods(self) -> &'static str {
        match self {
            Self::Greeting | Self::Iframe => "GET, HEAD",
            Self::RawWebSocket | Self::WebSocket | Self::Nothing => "GET",
            Self::Info
            | Self::Receive(Transport::EventSource | Transport::HtmlFile | Transport::Jsonp, _) => {
                "OPTIONS, GET"
            }
            Self::Receive(Transport::Xhr | Transport::XhrStreaming, _) | Self::Send(..) => "OPTIONS, POST",
        }
    }
}

/// The service at a path, and what follows its prefix.
pub(super) fn service_at(path: &str, tests: bool) -> Option<(Service, &str)> {
    let served = if tests { &SERVICES[..] } else { &SERVICES[..1] };
    served.iter().find_map(|(prefix, service)| {
        let rest = path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((*service, rest))
    })
}

fn resource_at(rest: &str) -> Resource<'_> {
    match rest {
        "" | "/" => return Resource::Greeting,
        "/info" => return Resource::Info,
        "/websocket" => return Resource::RawWebSocket,
        _ => {}
    }
    let is_iframe_part = |it: u8| it.is_ascii_digit() || it.is_ascii_lowercase() || b"-._".contains(&it);
    if let Some(part) = rest.strip_prefix("/iframe").and_then(|rest| rest.strip_suffix(".html")) {
        return if part.bytes().all(is_iframe_part) { Resource::Iframe } else { Resource::Nothing };
    }
    let mut parts = rest[1..].split('/');
    let (Some(server), Some(session), Some(transport), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Resource::Nothing;
    };
    let is_name = |part: &str| !part.is_empty() && !part.contains('.');
    if !is_name(server) || !is_name(session) || session.len() > SESSION_NAME_BYTES_MAX {
        return Resource::Nothing;
    }
    match transport {
        "websocket" => Resource::WebSocket,
        "xhr" => Resource::Receive(Transport::Xhr, session),
        "xhr_streaming" => Resource::Receive(Transport::XhrStreaming, session),
        "eventsource" => Resource::Receive(Transport::EventSource, session),
        "htmlfile" => Resource::Receive(Transport::HtmlFile, session),
        "jsonp" => Resource::Receive(Transport::Jsonp, session),
        "xhr_send" => Resource::Send(session, false),
        "jsonp_send" => Resource::Send(session, true),
        _ => Resource::Nothing,
    }
}

/// Bytes of the name that a client gives its session.
const SESSION_NAME_BYTES_MAX: usize = 64;

/// A request to send that is being read.
#[derive(Debug)]
pub(super) struct Sending {
    service: Service,
    session: Box<str>,
    /// The content is a form's, or a text.
    is_form: Option<bool>,
    exchange: Exchange,
}

impl Shard {
    /// Uses a request to a SockJS service, of which `rest` is what follows its head.
    pub(super) fn take_sockjs(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        (service, path): (Service, &str),
        rest: &[u8],
    ) -> Used {
        if self.holds_for_answers(key) {
            return Used::Later;
        }
        let resource = resource_at(path);
        let mut exchange = self.exchange_of(key, head);
        let is_session = matches!(resource, Resource::Receive(..) | Resource::Send(..));
        let cookie = is_session.then(|| cookie_of(service, head)).flatten();
        exchange.sockjs = Some(Box::new(Answers { cookie }));
        let outcome = self.check_sockjs(key, head, service, resource, &mut exchange);
        if let Err(reject) = outcome {
            return self.refuse_sockjs(key, head, reject, &exchange);
        }
        if head.method == "OPTIONS" {
            self.answer_sockjs_options(key, head, service, resource.methods(), &exchange);
            return Used::Some(head.len);
        }
        let outcome = match resource {
            Resource::Greeting => self.greet(key, &exchange),
            Resource::Info => self.answer_info(key, service, &exchange),
            Resource::Iframe => self.answer_iframe(key, head, service, &exchange),
            Resource::Receive(transport, session) => {
                return self.take_receive(key, head, (service, session, transport), exchange, rest);
            }
            Resource::Send(session, is_form) => {
                let is_form = is_form.then(|| is_form_content(head));
                let sending = Sending { service, session: session.into(), is_form, exchange };
                return self.take_sending(key, head, sending, rest);
            }
            Resource::WebSocket => self.upgrade_sockjs(key, head, service, true),
            Resource::RawWebSocket => self.upgrade_sockjs(key, head, service, false),
            Resource::Nothing => Err(Reject::NotFound),
        };
        match outcome {
            Ok(()) => Used::Some(head.len),
            Err(reject) => self.refuse_sockjs(key, head, reject, &exchange),
        }
    }

    fn check_sockjs(
        &self,
        key: ConnKey,
        head: &Head<'_>,
        service: Service,
        resource: Resource<'_>,
        exchange: &mut Exchange,
    ) -> Result<(), Reject> {
        if resource == Resource::Nothing {
            return Err(Reject::NotFound);
        }
        exchange.cors = match service {
            Service::Rooms
                if matches!(resource, Resource::Receive(Transport::Jsonp | Transport::HtmlFile, _)) =>
            {
                Cors::check_script(head, &self.options.origins)?
            }
            Service::Rooms => Cors::check(head, &self.options.origins, head.method == "POST")?,
            Service::Echo { .. } | Service::Close => Cors::any_with_credentials(head),
        };
        self.check_service(key)?;
        let methods = resource.methods();
        if !methods.split(", ").any(|method| method == head.method) {
            return Err(Reject::Method(methods));
        }
        let takes_content = head.method == "POST";
        if head.framing != Framing::None && !takes_content {
            return Err(Reject::Body);
        }
        Ok(())
    }

    /// A request that receives: it goes to the shard of its session first.
    fn take_receive(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        (service, session, transport): (Service, &str, Transport),
        exchange: Exchange,
        rest: &[u8],
    ) -> Used {
        let callback = match callback_of(head, transport) {
            Ok(callback) => callback,
            Err(reject) => return self.refuse_sockjs(key, head, reject, &exchange),
        };
        let home = self.mesh.seed().spread(session, self.mesh.shards());
        if home != self.mesh.me() {
            self.move_to(key, home);
            return Used::Later;
        }
        let client = name_of(head).and_then(|name| self.text_client(name, head)).map(|client| {
            let recovery_request = client.recovery_request;
            TextHandshake { recovery_request, ..owned(&client) }
        });
        let receive = Receive {
            service,
            session: session.into(),
            transport,
            callback,
            client,
            exchange: exchange.clone(),
        };
        // What such a request brings is of no consequence, but where the next one begins.
        let mut receive = Some(receive);
        let begun = self.begin_content(key, head, &exchange, rest, || {
            Purpose::Receive(Box::new(receive.take().expect("once")))
        });
        match begun {
            Ok((_, used)) => {
                if let Some(receive) = receive {
                    self.receive(key, receive);
                }
                Used::Some(used)
            }
            Err(used) => used,
        }
    }

    /// The content of a request that receives is there, or cannot be read.
    pub(super) fn use_receive(&mut self, key: ConnKey, receive: Receive, content: Result<Vec<u8>, Reject>) {
        match content {
            Ok(_) => self.receive(key, receive),
            Err(reject) => self.refuse_content(key, &receive.exchange, reject),
        }
    }

    /// A request that sends.
    fn take_sending(&mut self, key: ConnKey, head: &Head<'_>, sending: Sending, rest: &[u8]) -> Used {
        let exchange = sending.exchange.clone();
        let mut sending = Some(sending);
        let begun = self
            .begin_content(key, head, &exchange, rest, || Purpose::Sending(sending.take().expect("once")));
        match begun {
            Ok((content, used)) => {
                if let Some(sending) = sending {
                    self.use_sending(key, sending, Ok(content));
                }
                Used::Some(used)
            }
            Err(used) => used,
        }
    }

    /// Passes on what a request has brought, or refuses it.
    pub(super) fn use_sending(&mut self, key: ConnKey, sending: Sending, content: Result<Vec<u8>, Reject>) {
        let Sending { service, session, is_form, exchange } = sending;
        let content = match content {
            Ok(content) => content,
            Err(reject) => return self.refuse_content(key, &exchange, reject),
        };
        let content = String::from_utf8(content).map_err(|_| Reject::Encoding);
        let content = content.and_then(|content| messages_of(content, is_form));
        match content {
            Ok(content) => {
                let request = self.expect_relayed(key, &exchange, is_form.is_some());
                self.relay_to_outlet(service, &session, content, request);
            }
            Err(reject) => {
                self.note_refusal(key, None, reject);
                self.respond(key, &exchange, true, |out, options| reject.response_into(out, options));
            }
        }
    }

    /// Refuses a request. A method that is not served has no sentence, but the status and `Allow`.
    fn refuse_sockjs(&mut self, key: ConnKey, head: &Head<'_>, reject: Reject, exchange: &Exchange) -> Used {
        let Reject::Method(allow) = reject else { return self.refuse_request(key, head, reject, exchange) };
        self.note_refusal(key, Some(head), reject);
        let goes_on = head.framing == Framing::None;
        self.respond(key, exchange, goes_on, |out, options| {
            let fields = [("Allow", allow)];
            answers::empty(StatusCode::METHOD_NOT_ALLOWED, &fields).with(options).write_into(out);
        });
        if goes_on { Used::Some(head.len) } else { Used::All }
    }

    fn upgrade_sockjs(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        service: Service,
        is_framed: bool,
    ) -> Result<(), Reject> {
        if !is_upgrade(head) {
            return Err(Reject::NoUpgrade);
        }
        if service == (Service::Echo { websocket: false, cookie: false }) {
            return Err(Reject::NotFound);
        }
        self.end_publisher(key);
        self.open_sockjs_websocket(key, head, service, is_framed)
    }
}

/// The name and the room of a session stand in the query of its requests.
pub(super) fn name_of<'b>(head: &Head<'b>) -> Result<Cow<'b, str>, Reject> {
    Ok(query_value(head.query, "name")?.unwrap_or_default())
}

/// The function that a page has for what it receives; for transports without one it is empty.
fn callback_of(head: &Head<'_>, transport: Transport) -> Result<Box<str>, Reject> {
    if !matches!(transport, Transport::HtmlFile | Transport::Jsonp) {
        return Ok(Box::default());
    }
    let callback = query_value(head.query, "c")?.filter(|callback| !callback.is_empty());
    let callback = callback.ok_or(Reject::NoCallback)?;
    let is_valid = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-' | b'.');
    let fits = callback.len() <= SESSION_NAME_BYTES_MAX && callback.bytes().all(is_valid);
    if fits { Ok(callback.into()) } else { Err(Reject::Callback) }
}

fn is_form_content(head: &Head<'_>) -> bool {
    let essence = |field: &[u8]| field.split(|&byte| byte == b';').next().unwrap_or_default().to_vec();
    head.fields("Content-Type").next().is_some_and(|field| {
        essence(field).trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// The array in a request's content; `is_form`: it is a form's field `d`.
fn messages_of(content: String, is_form: Option<bool>) -> Result<Box<str>, Reject> {
    let content = if is_form == Some(true) {
        let field = content.split('&').find_map(|field| field.strip_prefix("d="));
        let field = field.unwrap_or_default().replace('+', " ");
        percent_decode(&field).map_err(|_| Reject::Messages)?.into_owned()
    } else {
        content
    };
    if content.is_empty() {
        return Err(Reject::Payload);
    }
    match sockjs::parse(&content) {
        Ok(_) => Ok(content.into()),
        Err(_) => Err(Reject::Messages),
    }
}

impl Slot {
    /// Whether it receives for an outlet.
    pub(super) fn outlet(&self) -> Option<crate::base::OutletKey> {
        self.http()?.outlet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(service_at("/sockjs/info", false), Some((Service::Rooms, "/info")));
        assert_eq!(service_at("/sockjs", false), Some((Service::Rooms, "")));
        assert_eq!(service_at("/sockjs-test/close", true), Some((Service::Close, "")));
        for (path, tests) in [("/sockjsx", true), ("/sockjs-test/close", false), ("/sockjs-test/x", true)] {
            assert_eq!(service_at(path, tests), None, "{path}");
        }
        assert_eq!(resource_at("/000/abc/xhr"), Resource::Receive(Transport::Xhr, "abc"));
        assert_eq!(resource_at("/a_-%20/b/jsonp_send"), Resource::Send("b", true));
        for iframe in ["/iframe.html", "/iframe-a.html", "/iframe-.html", "/iframe-0.1.2abc-dirty.2144.html"]
        {
            assert_eq!(resource_at(iframe), Resource::Iframe, "{iframe}");
        }
        for nothing in [
            "/a",
            "/a.html",
            "//",
            "///",
            "/a/a",
            "/a/a/",
            "/a/",
            "///xhr",
            "/a./a/xhr",
            "/a/a./xhr",
            "/././/xhr",
            "//xhr",
            "////xhr",
            "/iframe.htm",
            "/iframe",
            "/IFRAME.HTML",
            "/iframe.HTML",
            "/iframe-/.html",
            "/a/a/xhr/",
            "/a/a/other",
            "/iframeA.html",
        ] {
            assert_eq!(resource_at(nothing), Resource::Nothing, "{nothing}");
        }
    }

    #[test]
    fn content() {
        let check = |content: &str, is_form, expected: Result<&str, Reject>| {
            assert_eq!(messages_of(content.to_owned(), is_form).as_deref(), expected.as_deref(), "{content}");
        };
        check("[\"a\"]", None, Ok("[\"a\"]"));
        check("", None, Err(Reject::Payload));
        check("[\"a\"", None, Err(Reject::Messages));
        check("d=%5B%22a+b%22%5D&i=1", Some(true), Ok("[\"a b\"]"));
        check("d=", Some(true), Err(Reject::Payload));
        check("p=p", Some(true), Err(Reject::Payload));
        check("d=%5B%22x", Some(true), Err(Reject::Messages));
        check("d=%", Some(true), Err(Reject::Messages));
        check("[\"%61bc\"]", Some(false), Ok("[\"%61bc\"]"));
    }
}
