//! From bytes to requests, and which answer each gets: the pages, the health checks, the opening handshakes.

use std::borrow::Cow;
use std::sync::Arc;

use super::http::Kind;
use super::input::Used;
use super::sockjs::{self, Service};
use super::{OUTBOX_PAUSE_BYTES, Shard, Slot};
use crate::app::{self, Protocol, WireFormat, json, text};
use crate::base::{ConnKey, SessionKey, Time};
use crate::chat::{self, BadName};
use crate::conn::{Ending, Endpoint};
use crate::http::{
    AnswerOptions, Date, Framing, Head, OriginRule, OriginRules, Precondition, Reject, Response, StatusCode,
    accept_into, check_upgrade, is_head_request, is_upgrade, parse_head, percent_decode, query_value,
};
use crate::metrics::CloseReason;
use crate::page;
use crate::session::{AuthOutcome, PendingJoin, Session, TextHandshake, jittered};
use crate::ws::{CloseCode, Opcode, Step, Window};

/// The target of a request.
enum Target<'a> {
    /// An open WebSocket.
    Upgrade(Opening<'a>),
    /// A page.
    Page(&'static page::Asset),
    /// Liveness.
    Health,
    /// Readiness.
    Ready,
    /// The counters.
    Metrics,
}

/// What an open WebSocket is to be connected to.
enum Opening<'a> {
    /// To itself.
    Echo,
    /// To a room, in plain text.
    Chat(TextHandshake<'a>),
    /// To any room, in JSON.
    Centrifuge {
        /// It needs pings as frames.
        frame_pings: bool,
    },
    /// The same for a client that only listens.
    Push,
    /// To a room, through SockJS.
    Quoted(TextHandshake<'a>),
    /// To a service of SockJS for tests.
    Test(Endpoint),
}

impl Opening<'_> {
    const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Echo => Endpoint::Echo,
            Self::Chat(_) => Endpoint::Chat,
            Self::Quoted(_) => Endpoint::SockJs,
            Self::Test(endpoint) => *endpoint,
            Self::Centrifuge { .. } | Self::Push => Endpoint::Centrifuge,
        }
    }

    /// The subprotocol that is selected.
    fn subprotocol(&self, head: &Head<'_>) -> Result<Option<&'static str>, Reject> {
        let offers = |name| head.offers_subprotocol(name);
        match self {
            Self::Echo | Self::Push | Self::Quoted(_) | Self::Test(_) => Ok(None),
            Self::Chat(_) => Ok(offers(text::SUBPROTOCOL).then_some(text::SUBPROTOCOL)),
            Self::Centrifuge { .. } if offers(json::SUBPROTOCOL) => Ok(Some(json::SUBPROTOCOL)),
            Self::Centrifuge { .. } if offers(json::OTHER_SUBPROTOCOL) => Err(Reject::Subprotocol),
            Self::Centrifuge { .. } => Ok(None),
        }
    }
}

/// What every page may do: load its own style and script and talk to its own server, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                           connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

impl Shard {
    /// Uses the request at the front of `input`.
    pub(super) fn take_request(&mut self, key: ConnKey, input: &[u8], scanned: &mut usize) -> Used {
        let head = match parse_head(input, scanned, &self.options.head) {
            Ok(Step::Done(head)) => head,
            Ok(Step::NeedMore) => return Used::NeedsMore,
            Err(_) if self.holds_for_answers(key) => return Used::Later,
            Err(reject) => {
                self.reject(key, reject, None, is_head_request(input));
                return Used::All;
            }
        };
        self.budget.messages = self.budget.messages.saturating_sub(1);
        if let Some(at) = sockjs::service_at(head.path, self.options.echo) {
            return self.take_sockjs(key, &head, at, &input[head.len..]);
        }
        if let Some(at) = Kind::at(head.path) {
            return self.take_http(key, &head, at, &input[head.len..]);
        }
        if self.holds_for_answers(key) {
            return Used::Later;
        }
        match self.request(key, &head) {
            Ok(()) => Used::Some(head.len),
            Err(reject) => {
                self.reject(key, reject, Some(&head), head.method == "HEAD");
                Used::All
            }
        }
    }

    /// Answers a request that cannot be served, and ends the connection. `head_only`: it is a HEAD.
    pub(super) fn reject(&mut self, key: ConnKey, reject: Reject, head: Option<&Head<'_>>, head_only: bool) {
        let date = self.date();
        self.note_refusal(key, head, reject);
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        let options = AnswerOptions { head_only, date, ..AnswerOptions::default() };
        reject.response_into(conn.outbox.bytes(), &options);
        self.end_after_answer(key, CloseReason::RequestRejected);
    }

    /// Ends a connection once its last answer is out.
    pub(super) fn end_after_answer(&mut self, key: ConnKey, reason: CloseReason) {
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        // A surplus connection makes room for the next one: it is not waited for.
        let ending = if conn.over_limit { Ending::AtOnce } else { Ending::Linger };
        let mut change = conn.finish(ending, reason, &self.options);
        change.timer = Self::last_answer_timeout(conn.over_limit, change.timer);
        self.apply(key, change);
    }

    fn request(&mut self, key: ConnKey, head: &Head<'_>) -> Result<(), Reject> {
        let Some(Slot { conn, details, .. }) = self.conns.get(key) else { return Ok(()) };
        if conn.over_limit && !matches!(head.path, "/healthz" | "/readyz" | "/metrics") {
            return Err(self.surplus_refusal());
        }
        let peer = details.as_ref().and_then(|details| details.peer.as_ref());
        if peer.is_some_and(|peer| peer.counted.is_none()) {
            return Err(Reject::TooMany);
        }
        if head.framing != Framing::None {
            return Err(Reject::Body);
        }
        match self.target(head)? {
            Target::Upgrade(opening) => {
                self.end_publisher(key);
                return self.upgrade(key, head, &opening);
            }
            Target::Page(asset) => {
                let etag = [
                    ("ETag", asset.etag.as_str()),
                    ("Cache-Control", "no-cache"),
                    ("Content-Security-Policy", PAGE_POLICY),
                ];
                let status = match head.precondition(&asset.etag) {
                    Precondition::Holds => StatusCode::OK,
                    Precondition::NotModified => StatusCode::NOT_MODIFIED,
                    Precondition::Failed => return Err(Reject::Precondition),
                };
                let response =
                    Response { fields: &etag, ..Response::new(status, asset.content_type, asset.body) };
                self.answer(key, head, &response);
            }
            Target::Health => self.answer(key, head, &Response::new(StatusCode::OK, PLAIN, b"ok\n")),
            Target::Ready if self.registry.is_ready() => {
                self.answer(key, head, &Response::new(StatusCode::OK, PLAIN, b"ready\n"));
            }
            Target::Ready => {
                let not_ready = StatusCode::SERVICE_UNAVAILABLE;
                self.answer(key, head, &Response::new(not_ready, PLAIN, b"not ready\n"));
            }
            Target::Metrics => {
                let page = self.registry.exposition();
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                self.answer(key, head, &Response::new(StatusCode::OK, content_type, page.as_bytes()));
            }
        }
        Ok(())
    }

    /// Every path that is served.
    fn target<'b>(&self, head: &Head<'b>) -> Result<Target<'b>, Reject> {
        let target = match head.path {
            "/echo" if self.options.echo => Target::Upgrade(Opening::Echo),
            "/connection/websocket" => {
                let frame_pings = query_value(head.query, "cf_ws_frame_ping_pong")?;
                Target::Upgrade(Opening::Centrifuge { frame_pings: frame_pings.as_deref() == Some("true") })
            }
            "/connection/uni_websocket" => Target::Upgrade(Opening::Push),
            "/healthz" => Target::Health,
            "/readyz" => Target::Ready,
            "/metrics" => Target::Metrics,
            path => match (path.strip_prefix("/ws/"), page::asset(path)) {
                (Some(name), _) => Target::Upgrade(Opening::Chat(self.text_handshake(name, head)?)),
                (None, Some(asset)) if self.options.page => Target::Page(asset),
                (None, _) => return Err(Reject::NotFound),
            },
        };
        match target {
            Target::Upgrade(..) if is_upgrade(head) => Ok(target),
            Target::Upgrade(..) => Err(Reject::UpgradeRequired),
            Target::Page(_) | Target::Health | Target::Ready | Target::Metrics => match head.method {
                "GET" | "HEAD" => Ok(target),
                _ => Err(Reject::Method("GET, HEAD")),
            },
        }
    }

    /// `/ws/{name}?room=R&history=N&since=EPOCH:OFFSET&token=T`: the room is the lobby unless it is named.
    pub(super) fn text_handshake<'b>(
        &self,
        name: &'b str,
        head: &Head<'b>,
    ) -> Result<TextHandshake<'b>, Reject> {
        if name.contains('/') {
            return Err(Reject::NotFound);
        }
        self.text_client(percent_decode(name)?, head)
    }

    /// The same for a client that is called `name`.
    pub(super) fn text_client<'b>(
        &self,
        name: Cow<'b, str>,
        head: &Head<'b>,
    ) -> Result<TextHandshake<'b>, Reject> {
        let room = query_value(head.query, "room")?.filter(|room| !room.is_empty());
        let room = room.unwrap_or(Cow::Borrowed(chat::DEFAULT_ROOM));
        let bad_name = |bad: BadName| Reject::Name(bad.sentence());
        let name = match chat::display_name(&name, self.options.name_bytes_max).map_err(bad_name)? {
            Cow::Owned(mapped) => Cow::Owned(mapped),
            Cow::Borrowed(_) => name.clone(),
        };
        chat::check_room(&room, self.options.room_bytes_max).map_err(bad_name)?;
        let (history, since) = (query_value(head.query, "history")?, query_value(head.query, "since")?);
        let recovery_request =
            text::recovery_request(history.as_deref(), since.as_deref()).ok_or(Reject::Query)?;
        let token = query_value(head.query, "token")?.or_else(|| head.bearer_token().map(Cow::Borrowed));
        Ok(TextHandshake { name, room, recovery_request, token })
    }

    /// A WebSocket of SockJS, or (not `is_framed`) without its frames.
    pub(super) fn open_sockjs_websocket(
        &mut self,
        key: ConnKey,
        head: &Head<'_>,
        service: Service,
        is_framed: bool,
    ) -> Result<(), Reject> {
        let opening = match (service, is_framed) {
            (Service::Rooms, true) => Opening::Quoted(self.text_client(sockjs::name_of(head)?, head)?),
            (Service::Rooms, false) => Opening::Chat(self.text_client(sockjs::name_of(head)?, head)?),
            (Service::Echo { .. } | Service::Close, true) => Opening::Test(Endpoint::SockJs),
            (Service::Echo { .. } | Service::Close, false) => Opening::Echo,
        };
        self.upgrade(key, head, &opening)?;
        if is_framed && let Some(Slot { conn, .. }) = self.conns.get_mut(key) {
            conn.send(Opcode::Text, app::sockjs::OPEN);
        }
        if service == Service::Close {
            self.go_away(key, is_framed);
        }
        Ok(())
    }

    /// Ends a WebSocket of the service that does nothing else.
    fn go_away(&mut self, key: ConnKey, is_framed: bool) {
        let (code, reason) = (3000, "Go away!");
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        if is_framed {
            let mut frame = Vec::new();
            app::sockjs::close_into(&mut frame, code, reason);
            conn.send(Opcode::Text, &frame);
        }
        self.fail(key, CloseCode::from(code), reason, CloseReason::RequestComplete);
    }

    fn upgrade(&mut self, key: ConnKey, head: &Head<'_>, to: &Opening<'_>) -> Result<(), Reject> {
        // SockJS's frames are not compressed, and its services for tests are for pages of all origins.
        let any = OriginRules(vec![OriginRule::Any, OriginRule::Null]);
        let (origins, deflate) = match to {
            Opening::Test(_) => (&any, false),
            Opening::Quoted(_) => (&self.options.origins, false),
            Opening::Echo | Opening::Chat(_) | Opening::Centrifuge { .. } | Opening::Push => {
                (&self.options.origins, self.options.deflate)
            }
        };
        let upgrade = check_upgrade(head, origins, deflate)?;
        if self.draining.is_some() {
            return Err(Reject::ShuttingDown);
        }
        let subprotocol = to.subprotocol(head)?;
        let window: Option<Window> = upgrade.deflate.and_then(|agreed| agreed.window);
        let client = self.new_client_id();
        let session = match to {
            Opening::Echo | Opening::Test(_) => None,
            Opening::Quoted(text_handshake) => {
                Some(self.admit(Session::text(client, WireFormat::Quoted), text_handshake)?)
            }
            Opening::Chat(text_handshake) => {
                let format = WireFormat::new(Protocol::Text, app::Framing::Frames(window));
                Some(self.admit(Session::text(client, format), text_handshake)?)
            }
            Opening::Centrifuge { .. } | Opening::Push => {
                let frame_pings = matches!(to, Opening::Centrifuge { frame_pings: true });
                let protocol = if matches!(to, Opening::Push) { Protocol::Push } else { Protocol::Json };
                let deadline = self.now + self.options.handshake_timeout;
                let format = WireFormat::new(protocol, app::Framing::Frames(window));
                Some((Session::json(client, format, deadline, frame_pings), None))
            }
        };
        let interval = self.options.ping_interval;
        let pinged = !interval.is_zero() && !matches!(to, Opening::Centrifuge { .. });
        let ping_at = if pinged { self.now + jittered(&mut self.rng, interval) } else { Time::NEVER };
        let Some(slot) = self.conns.get_mut(key) else { return Ok(()) };
        accept_into(slot.conn.outbox.bytes(), &upgrade, subprotocol);
        slot.conn.opened(to.endpoint(), upgrade.deflate.is_some(), window, ping_at);
        self.wheel.cancel(key.index());
        self.metrics.websockets.add(1);
        if let Some((mut session, admission)) = session {
            session.conn = Some(key);
            let session = self.sessions.insert(session);
            slot.session = Some(session);
            if let Opening::Chat(text_handshake) | Opening::Quoted(text_handshake) = to {
                self.open_session(session, text_handshake, admission);
            }
        }
        self.rearm(key);
        self.flush_later(key);
        Ok(())
    }

    /// The authentication of a plain client, which is counted among the connections of its user.
    pub(super) fn admit(
        &mut self,
        mut session: Session,
        text_handshake: &TextHandshake<'_>,
    ) -> Result<(Session, Option<AuthOutcome>), Reject> {
        let admission = text_handshake.authenticate(&self.options);
        match &admission {
            AuthOutcome::NoToken => return Err(Reject::Token),
            AuthOutcome::OtherUser => return Err(Reject::OtherUser),
            AuthOutcome::NoAccess => return Err(Reject::Room),
            AuthOutcome::Pending => {}
            AuthOutcome::Known(identity, _) => {
                if text_handshake.token.is_some() {
                    self.budget.signatures = self.budget.signatures.saturating_sub(1);
                }
                if !session.count_user(&self.options, self.limits.users(), &identity.user) {
                    return Err(Reject::TooMany);
                }
            }
        }
        Ok((session, Some(admission)))
    }

    /// A plain client's WebSocket is open: it joins its room, or the auth backend decides.
    pub(super) fn open_session(
        &mut self,
        key: SessionKey,
        text_handshake: &TextHandshake<'_>,
        admission: Option<AuthOutcome>,
    ) {
        let pending_join = PendingJoin {
            room: Arc::from(&*text_handshake.room),
            recovery_request: text_handshake.recovery_request,
        };
        self.call_session(key, |session, ctx| match admission {
            Some(AuthOutcome::Known(identity, grant)) => {
                session.authenticated(ctx, identity, grant, &pending_join)
            }
            Some(
                AuthOutcome::Pending | AuthOutcome::NoToken | AuthOutcome::OtherUser | AuthOutcome::NoAccess,
            )
            | None => {
                session.request_auth(
                    ctx,
                    &text_handshake.name,
                    text_handshake.token.as_deref(),
                    pending_join,
                );
            }
        });
    }

    /// The Date of answers; none as long as the wall clock is not known.
    pub(super) fn date(&self) -> Option<Date> {
        (self.unix_origin_ms > 0).then(|| Date::from_unix_s(self.unix_ms() / 1000))
    }

    fn answer(&mut self, key: ConnKey, head: &Head<'_>, response: &Response<'_>) {
        let date = self.date();
        let Some(Slot { conn, .. }) = self.conns.get_mut(key) else { return };
        // A client that sends many requests at once and does not read gets no more than this.
        let keep_alive = head.keep_alive()
            && self.draining.is_none()
            && !conn.over_limit
            && conn.outbox.len() < OUTBOX_PAUSE_BYTES;
        let (is_old, head_only) = (head.minor_version == 0, head.method == "HEAD");
        let options = AnswerOptions { keep_alive, is_old, head_only, fields: &[], date };
        response.with(&options).write_into(conn.outbox.bytes());
        self.metrics.requests.add(1);
        if !keep_alive {
            return self.end_after_answer(key, CloseReason::RequestComplete);
        }
        self.wheel.set(key.index(), self.now + self.options.handshake_timeout);
        self.flush_later(key);
    }
}
