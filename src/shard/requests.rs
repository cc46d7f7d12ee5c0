//! From bytes to requests, and which answer each gets: the pages, the health checks, the opening handshakes.

use std::borrow::Cow;
use std::sync::Arc;

use super::client::{Client, Entrance};
use super::identity::Visitor;
use super::session::Session;
use super::{OUTBOX_PAUSE_BYTES, Shard, Slot, jittered};
use crate::app::{Protocol, WireFormat, json, text};
use crate::base::ConnKey;
use crate::chat::{self, BadName, Person};
use crate::conn::{Ending, Endpoint, PartialHead, State};
use crate::http::{
    Date, Head, Precondition, Reject, Response, Status, accept_into, check_upgrade, is_head_request,
    is_upgrade, parse_head, percent_decode, query_value,
};
use crate::metrics::CloseReason;
use crate::page;
use crate::ws::{Decoder, Step, Window};

/// What a request asks for.
enum Target<'a> {
    /// An open WebSocket.
    Upgrade(Opening<'a>),
    /// A page.
    Page(&'static page::Asset),
    /// Whether the process lives.
    Health,
    /// Whether it wants clients.
    Ready,
    /// The counters.
    Metrics,
}

/// What an open WebSocket is to be connected to.
enum Opening<'a> {
    /// To itself.
    Echo,
    /// To a room, in plain text.
    Chat(Visitor<'a>),
    /// To whatever it will ask for, in JSON.
    Centrifuge {
        /// It wants to see pings as frames.
        frame_pings: bool,
    },
}

impl Opening<'_> {
    const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Echo => Endpoint::Echo,
            Self::Chat(_) => Endpoint::Chat,
            Self::Centrifuge { .. } => Endpoint::Centrifuge,
        }
    }

    /// The subprotocol that is selected.
    fn subprotocol(&self, head: &Head<'_>) -> Result<Option<&'static str>, Reject> {
        let offers = |name| head.offers_subprotocol(name);
        match self {
            Self::Echo => Ok(None),
            Self::Chat(_) => Ok(offers(text::SUBPROTOCOL).then_some(text::SUBPROTOCOL)),
            Self::Centrifuge { .. } if offers(json::SUBPROTOCOL) => Ok(Some(json::SUBPROTOCOL)),
            Self::Centrifuge { .. } if offers(json::OTHER_SUBPROTOCOL) => Err(Reject::Subprotocol),
            Self::Centrifuge { .. } => Ok(None),
        }
    }
}

/// What becomes of the rest of the input after a request.
enum Next {
    /// It begins with the next request.
    Request,
    /// It begins with a frame.
    Frames,
    /// It is not looked at.
    Nothing,
}

/// What every page may do: load its own style and script and talk to its own server, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                           connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PLAIN: &str = "text/plain; charset=utf-8";

impl Shard {
    /// Bytes of a connection that is reading request heads.
    pub(super) fn head_bytes(&mut self, key: ConnKey, input: &mut [u8]) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let Some(partial) = conn.head.take() else {
            return self.requests(key, input, 0);
        };
        let PartialHead { mut bytes, scanned } = *partial;
        bytes.extend_from_slice(input);
        self.requests(key, &mut bytes, scanned);
    }

    fn requests(&mut self, key: ConnKey, mut input: &mut [u8], mut scanned: usize) {
        while !input.is_empty() {
            let head = match parse_head(input, &mut scanned, &self.options.head) {
                Ok(Step::Done(head)) => head,
                Ok(Step::NeedMore) => {
                    if let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
                        conn.head = Some(Box::new(PartialHead { bytes: input.to_vec(), scanned }));
                    }
                    return;
                }
                Err(reject) => {
                    return self.reject(key, reject, is_head_request(input), CloseReason::Refused);
                }
            };
            let (len, head_only) = (head.len, head.method == "HEAD");
            let next = self.request(key, &head);
            input = &mut input[len..];
            scanned = 0;
            match next {
                Ok(Next::Request) => {}
                Ok(Next::Frames) => return self.frame_bytes(key, input),
                Ok(Next::Nothing) => return,
                Err(reject) => return self.reject(key, reject, head_only, CloseReason::Refused),
            }
        }
    }

    fn request(&mut self, key: ConnKey, head: &Head<'_>) -> Result<Next, Reject> {
        let Some(Slot { conn, provenance, .. }) = self.conns.get(key) else { return Ok(Next::Nothing) };
        if conn.surplus {
            return Err(Reject::Overloaded);
        }
        if provenance.as_ref().is_some_and(|provenance| provenance.counted.is_none()) {
            return Err(Reject::TooMany);
        }
        match self.target(head)? {
            Target::Upgrade(opening) => self.upgrade(key, head, &opening),
            Target::Page(asset) => {
                let etag = [
                    ("ETag", asset.etag.as_str()),
                    ("Cache-Control", "no-cache"),
                    ("Content-Security-Policy", PAGE_POLICY),
                ];
                let status = match head.precondition(&asset.etag) {
                    Precondition::Holds => Status::Ok,
                    Precondition::NotModified => Status::NotModified,
                    Precondition::Failed => return Err(Reject::Precondition),
                };
                Ok(self.answer(
                    key,
                    head,
                    &Response { fields: &etag, ..Response::new(status, asset.content_type, asset.body) },
                ))
            }
            Target::Health => Ok(self.answer(key, head, &Response::new(Status::Ok, PLAIN, b"ok\n"))),
            Target::Ready if self.registry.is_ready() => {
                Ok(self.answer(key, head, &Response::new(Status::Ok, PLAIN, b"ready\n")))
            }
            Target::Ready => Err(Reject::NotReady),
            Target::Metrics => {
                let page = self.registry.exposition();
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                Ok(self.answer(key, head, &Response::new(Status::Ok, content_type, page.as_bytes())))
            }
        }
    }

    /// Every path that is served.
    fn target<'b>(&self, head: &Head<'b>) -> Result<Target<'b>, Reject> {
        let target = match head.path {
            "/echo" if self.options.echo => Target::Upgrade(Opening::Echo),
            "/connection/websocket" => {
                let frame_pings = query_value(head.query, "cf_ws_frame_ping_pong")?;
                Target::Upgrade(Opening::Centrifuge { frame_pings: frame_pings.as_deref() == Some("true") })
            }
            "/healthz" => Target::Health,
            "/readyz" => Target::Ready,
            "/metrics" => Target::Metrics,
            path => match (path.strip_prefix("/ws/"), page::asset(path)) {
                (Some(name), _) => Target::Upgrade(Opening::Chat(self.visitor(name, head)?)),
                (None, Some(asset)) if self.options.page => Target::Page(asset),
                (None, _) => return Err(Reject::NotFound),
            },
        };
        match target {
            Target::Upgrade(..) if is_upgrade(head) => Ok(target),
            Target::Upgrade(..) => Err(Reject::UpgradeRequired),
            Target::Page(_) | Target::Health | Target::Ready | Target::Metrics => match head.method {
                "GET" | "HEAD" => Ok(target),
                _ => Err(Reject::Method),
            },
        }
    }

    /// `/ws/{name}?room=R&history=N&since=EPOCH:OFFSET&token=T`: the room is the lobby unless it is named.
    fn visitor<'b>(&self, name: &'b str, head: &Head<'b>) -> Result<Visitor<'b>, Reject> {
        if name.contains('/') {
            return Err(Reject::NotFound);
        }
        let name = percent_decode(name)?;
        let room = query_value(head.query, "room")?.filter(|room| !room.is_empty());
        let room = room.unwrap_or(Cow::Borrowed(chat::DEFAULT_ROOM));
        chat::check_name(&name, self.options.name_bytes_max).map_err(bad_name)?;
        chat::check_name(&room, self.options.room_bytes_max).map_err(bad_name)?;
        let (history, since) = (query_value(head.query, "history")?, query_value(head.query, "since")?);
        let wanted = text::wanted(history.as_deref(), since.as_deref()).ok_or(Reject::Query)?;
        let token = query_value(head.query, "token")?.or_else(|| head.bearer_token().map(Cow::Borrowed));
        Ok(Visitor { name, room, wanted, token })
    }

    fn upgrade(&mut self, key: ConnKey, head: &Head<'_>, to: &Opening<'_>) -> Result<Next, Reject> {
        let upgrade = check_upgrade(head, &self.options.origins, self.options.deflate)?;
        if self.draining.is_some() {
            return Err(Reject::NotReady);
        }
        let subprotocol = to.subprotocol(head)?;
        let pass = if let Opening::Chat(visitor) = to { self.pass(visitor)? } else { None };
        if let Some((identity, _)) = &pass
            && !self.count_user(key, &identity.user)
        {
            return Err(Reject::TooMany);
        }
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return Ok(Next::Nothing) };
        accept_into(conn.outbox.bytes(), &upgrade, subprotocol);
        let window: Option<Window> = upgrade.deflate.and_then(|agreed| agreed.window);
        conn.state = State::Open;
        conn.endpoint = Some(to.endpoint());
        conn.decoder = Decoder::new(upgrade.deflate.is_some());
        conn.window = window;
        self.metrics.websockets.add(1);
        let interval = self.options.ping_interval;
        if interval.is_zero() {
            self.wheel.cancel(key.index());
        } else {
            let first = self.now + jittered(&mut self.rng, interval);
            self.wheel.set(key.index(), first);
        }
        match to {
            Opening::Echo => {}
            Opening::Chat(visitor) => {
                self.seat_client(key, WireFormat::new(Protocol::Text, window), None);
                let entrance = Entrance { room: Box::from(&*visitor.room), wanted: visitor.wanted };
                match pass {
                    Some((identity, grant)) => self.enter_plain(key, identity, grant, &entrance),
                    None => self.ask_who(key, visitor, entrance),
                }
            }
            Opening::Centrifuge { frame_pings } => {
                let deadline = self.now + self.options.handshake_timeout;
                let session = Box::new(Session::new(deadline, *frame_pings));
                self.seat_client(key, WireFormat::new(Protocol::Json, window), Some(session));
                self.rearm(key);
            }
        }
        // Whoever has its answer hears what is said from then on: so it waits until the room's home has let it in.
        if !self.is_arriving(key) {
            self.flush_later(key);
        }
        Ok(Next::Frames)
    }

    /// Makes a client of a connection: nobody in particular, in no room.
    fn seat_client(&mut self, key: ConnKey, format: WireFormat, session: Option<Box<Session>>) {
        let client = self.new_client_id();
        let person =
            Person { client, user: Arc::clone(&self.nameless), name: Arc::clone(&self.nameless), info: None };
        if let Some(slot) = self.conns.get_mut(key) {
            slot.client = Some(Box::new(Client { session, ..Client::new(Arc::new(person), format) }));
        }
    }

    /// The Date of answers; none as long as the wall clock is not known.
    pub(super) fn date(&self) -> Option<Date> {
        (self.unix_origin_ms > 0).then(|| Date::from_unix_s(self.unix_ms() / 1000))
    }

    fn answer(&mut self, key: ConnKey, head: &Head<'_>, response: &Response<'_>) -> Next {
        let date = self.date();
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return Next::Nothing };
        // Whoever asks for much at once and does not read gets no more than this.
        let keep_alive =
            head.keep_alive() && self.draining.is_none() && conn.outbox.len() < OUTBOX_PAUSE_BYTES;
        Response { keep_alive, date, head_only: head.method == "HEAD", ..*response }
            .write_into(conn.outbox.bytes());
        self.metrics.requests.add(1);
        if !keep_alive {
            self.finish(key, Ending::Linger, CloseReason::HttpDone);
            return Next::Nothing;
        }
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        self.flush_later(key);
        Next::Request
    }
}

const fn bad_name(bad: BadName) -> Reject {
    match bad {
        BadName::Empty => Reject::NameEmpty,
        BadName::TooLong => Reject::NameTooLong,
        BadName::Control => Reject::NameControl,
    }
}
