//! The Centrifuge protocol in JSON: a message is lines, each of them a command. A command that cannot be
//! executed gets its error, and nothing else happens; one that is none ends the connection.

use super::{Context, Effects, Protocol, Session, Taken};
use crate::app::json::command::{self, Connect};
use crate::app::json::{Command, Disconnect, ErrorCode, Method, Refusal, Reply, ServerSubscription};
use crate::app::{Protocol as Wire, WireFormat};
use crate::base::Time;
use crate::chat::{ClientId, Person, RateDecision, RateLimit, RateLimiter, RecoveryRequest};
use crate::metrics::CloseReason;
use std::sync::Arc;

/// Commands of one session that may wait for a reply at a time, `subscribe` among them; what it sends beyond
/// waits with it. So the answers that come at once are bounded, too.
pub(super) const PENDING_MAX: usize = 16;

/// Bytes of replies that one call may bring about before the rest of the message waits.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What a command has come to.
pub(super) enum Outcome {
    /// Its result.
    Reply(Reply<'static>),
    /// The reply comes later, or there is none.
    Nothing,
}

/// Where a session is.
#[derive(Debug)]
pub(super) enum Phase {
    /// It has not sent `connect` yet.
    New,
    /// The auth backend decides about it.
    Authenticating(Box<Connecting>),
    /// The rooms that the server puts it into are being entered.
    Entering(Box<Connecting>),
    /// It is in.
    Open,
    /// It was refused, and is not served any more.
    Refused,
}

/// A `connect` that has not been answered.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    /// The command.
    pub(super) command: u32,
    /// Where it stopped in rooms that the server may put it into again.
    pub(super) positions: Vec<(Box<str>, RecoveryRequest, u64)>,
    /// The auth backend's data for it: JSON.
    pub(super) data: Option<Box<[u8]>>,
    /// Rooms that are still being entered.
    pub(super) missing: usize,
    /// What the reply to `connect` lists of the joined rooms.
    pub(super) subs: Vec<ServerSubscription>,
}

/// A command that waits for an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// What the answer names.
    pub(super) command: u32,
    /// What the client's reply repeats.
    pub(super) id: u32,
    /// The room that it is about.
    pub(super) room: Arc<str>,
    /// Until when the answer must have come.
    pub(super) deadline: Time,
}

/// The state of a session of the Centrifuge protocol.
#[derive(Debug)]
pub(super) struct Json {
    pub(super) phase: Phase,
    /// Commands that wait. One that never had any has no memory for them, others keep a place for one.
    pub(super) pending: Vec<Pending>,
    /// The subscription that must be in before the next command can be looked at; 0: none.
    pub(super) waits_for: u32,
    /// Lines of the current message that have been taken.
    lines_taken: usize,
    /// How often it sends commands.
    limiter: RateLimiter,
    /// Pings are those of RFC 6455, for tools that show them.
    pub(super) frame_pings: bool,
    /// When the next ping is due, or until when it must have sent `connect`.
    pub(super) ping_at: Time,
    /// Until when the last ping must be answered.
    pub(super) pong_by: Time,
}

impl Json {
    /// Whether `connect` was answered.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the auth backend decides about it.
    pub(super) const fn is_authenticating(&self) -> bool {
        matches!(self.phase, Phase::Authenticating(_))
    }

    /// Whether the next command can be looked at, while `joining` rooms are being entered.
    pub(super) fn can_take(&self, joining: usize) -> bool {
        !matches!(self.phase, Phase::Authenticating(_) | Phase::Entering(_))
            && self.pending.len() + joining < PENDING_MAX
    }
}

impl Session {
    /// A client that has until `deadline` to authenticate.
    pub fn json(client: ClientId, format: WireFormat, deadline: Time, frame_pings: bool) -> Self {
        let nameless: Arc<str> = Arc::from("");
        let person = Person::anonymous(client, nameless);
        let json = Json {
            phase: Phase::New,
            pending: Vec::new(),
            waits_for: 0,
            lines_taken: 0,
            limiter: RateLimiter::default(),
            frame_pings,
            ping_at: deadline,
            pong_by: Time::NEVER,
        };
        Self { due: deadline, ..Self::new(person, format, Protocol::Json(Box::new(json))) }
    }

    /// Whether its client only listens.
    pub(super) fn is_push(&self) -> bool {
        self.format.protocol() == Wire::Push
    }

    pub(super) fn json_state(&mut self) -> Option<&mut Json> {
        match &mut self.protocol {
            Protocol::Json(json) => Some(json),
            Protocol::Text => None,
        }
    }

    /// What it holds for its client: slots of queued commands, and bytes of a `connect` that is not answered.
    pub fn pending_work(&self) -> (usize, usize) {
        let Protocol::Json(json) = &self.protocol else { return (0, 0) };
        let commands = json.pending.capacity();
        match &json.phase {
            Phase::Authenticating(connecting) | Phase::Entering(connecting) => {
                let data = connecting.data.as_ref().map_or(0, |data| data.len());
                let subs =
                    connecting.subs.iter().map(|(_, result)| size_of::<ServerSubscription>() + result.len());
                (commands, subs.sum::<usize>() + data)
            }
            Phase::New | Phase::Open | Phase::Refused => (commands, 0),
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(json) = self.json_state() {
            json.phase = phase;
        }
    }

    pub(super) fn json_message(&mut self, ctx: &mut Context<'_>, message: &str) -> Taken {
        if self.is_push() {
            return self.introduction(ctx, message);
        }
        let taken = self.json_state().map_or(0, |json| json.lines_taken);
        let mut lines = command::lines(message).skip(taken);
        let (mut count, mut outcome) = (taken, Taken::All);
        for line in &mut lines {
            if ctx.budget.is_spent()
                || !self.can_take()
                || ctx.effects.payload_len() > REPLY_BYTES_MAX
                || self.command(ctx, line) == Taken::Later
            {
                outcome = Taken::Later;
                break;
            }
            ctx.budget.messages = ctx.budget.messages.saturating_sub(1);
            count += 1;
            if ctx.effects.closes() {
                break;
            }
        }
        if let Some(json) = self.json_state() {
            json.lines_taken = if outcome == Taken::Later { count } else { 0 };
        }
        outcome
    }

    /// The one message of a client that only listens: what others send in `connect`. It has nothing else to
    /// say, so what follows is of no consequence.
    fn introduction(&mut self, ctx: &mut Context<'_>, message: &str) -> Taken {
        if !self.json_state().is_some_and(|json| matches!(json.phase, Phase::New)) {
            return Taken::All;
        }
        let Some(connect) = Connect::read(message) else {
            ctx.effects.disconnect(Disconnect::BadRequest);
            return Taken::All;
        };
        match self.connect(ctx, 0, &connect) {
            Ok(_) => {}
            Err(Refusal::Error(code)) => self.error(ctx.effects, 0, code),
            Err(Refusal::Disconnect(disconnect)) => ctx.effects.disconnect(disconnect),
        }
        Taken::All
    }

    fn command(&mut self, ctx: &mut Context<'_>, line: &str) -> Taken {
        let Ok(Command { id, method }) = command::parse(line) else {
            ctx.effects.disconnect(Disconnect::BadRequest);
            return Taken::All;
        };
        let Some(json) = self.json_state() else { return Taken::All };
        match (&json.phase, &method) {
            (Phase::New, Method::Connect(_)) => {}
            (Phase::Open, _) if !matches!(method, Method::Connect(_)) => {}
            // Nothing comes before `connect`, no second one, and nothing after one that was refused.
            _ => {
                ctx.effects.disconnect(Disconnect::BadRequest);
                return Taken::All;
            }
        }
        if self.must_wait(&method) {
            return Taken::Later;
        }
        let outcome = match self.limit_command(ctx, &method) {
            Ok(()) => self.execute(ctx, id, method),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(Outcome::Reply(reply)) => ctx.effects.reply(id, &reply),
            Ok(Outcome::Nothing) => {}
            Err(Refusal::Error(code)) => self.error(ctx.effects, id, code),
            Err(Refusal::Disconnect(disconnect)) => ctx.effects.disconnect(disconnect),
        }
        Taken::All
    }

    /// Whether a command is about a room that is still being entered: the reply to `subscribe` comes first.
    /// Until then nothing is taken.
    fn must_wait(&mut self, method: &Method<'_>) -> bool {
        let room = match method {
            Method::Unsubscribe(room) => &room.channel,
            Method::SubRefresh(refresh) => &refresh.channel,
            Method::Connect(_)
            | Method::Subscribe(_)
            | Method::Publish(_)
            | Method::Presence(_)
            | Method::PresenceStats(_)
            | Method::History(_)
            | Method::Rpc(_)
            | Method::Send
            | Method::Refresh(_)
            | Method::Ping
            | Method::Pong => return false,
        };
        let joining = self.subscriptions.iter().find(|it| *it.room == **room && it.sub.is_none());
        let number = joining.map_or(0, |joining| joining.number);
        if let Some(json) = self.json_state() {
            json.waits_for = number;
        }
        number != 0
    }

    /// Counts a command, which is not offered again from here on. Publishing has limits of its own, and a
    /// pong is solicited.
    fn limit_command(&mut self, ctx: &Context<'_>, method: &Method<'_>) -> Result<(), Refusal> {
        if matches!(method, Method::Publish(_) | Method::Pong) {
            return Ok(());
        }
        let limit = RateLimit::of(ctx.options.session_commands_per_second_max);
        let Some(json) = self.json_state() else { return Ok(()) };
        match json.limiter.check(ctx.now, limit) {
            RateDecision::Allow => Ok(()),
            RateDecision::Throttle => Err(ErrorCode::TooManyRequests.into()),
            RateDecision::Disconnect => Err(Disconnect::TooManyRequests.into()),
        }
    }

    fn execute(&mut self, ctx: &mut Context<'_>, id: u32, method: Method<'_>) -> Result<Outcome, Refusal> {
        method.check()?;
        match method {
            Method::Connect(connect) => self.connect(ctx, id, &connect),
            Method::Subscribe(subscribe) => self.subscribe(ctx, id, &subscribe),
            Method::Unsubscribe(room) => self.unsubscribe_command(ctx, &room.channel),
            Method::Publish(publish) => self.publish(ctx, id, &publish),
            Method::Presence(room) => self.query(ctx, id, &room.channel, crate::room::Query::Presence),
            Method::PresenceStats(room) => {
                self.query(ctx, id, &room.channel, crate::room::Query::PresenceStats)
            }
            Method::History(history) => self.history(ctx, id, &history),
            Method::Rpc(rpc) => self.call(ctx, id, &rpc),
            Method::Send => Err(Disconnect::NotAvailable.into()),
            Method::Refresh(refresh) => self.refresh(ctx, &refresh.token),
            Method::SubRefresh(refresh) => self.refresh_subscription(ctx, &refresh),
            Method::Ping => Err(ErrorCode::NotAvailable.into()),
            Method::Pong if self.pong() => Ok(Outcome::Nothing),
            Method::Pong => Err(Disconnect::BadRequest.into()),
        }
    }

    /// A command waits for an answer: returns what that is to name.
    pub(super) fn wait(&mut self, ctx: &Context<'_>, id: u32, room: &Arc<str>) -> u32 {
        let command = self.next_command();
        let deadline = ctx.now + ctx.options.command_timeout;
        self.due = self.due.min(deadline);
        if let Some(json) = self.json_state() {
            if json.pending.capacity() == 0 {
                json.pending.reserve_exact(1);
            }
            json.pending.push(Pending { command, id, room: Arc::clone(room), deadline });
        }
        command
    }

    /// The answer to a command has come: returns the client's id of it. `None`: its time was up.
    pub(super) fn answered(&mut self, command: u32) -> Option<u32> {
        let json = self.json_state()?;
        let index = json.pending.iter().position(|pending| pending.command == command)?;
        let Pending { id, .. } = json.pending.remove(index);
        if json.pending.is_empty() {
            json.pending.shrink_to(1);
        }
        Some(id)
    }

    /// Answers a command with an error.
    pub(super) fn error(&self, effects: &mut Effects, id: u32, code: ErrorCode) {
        let (number, message, temporary) = code.parts();
        self.other_error(effects, id, number, message, temporary);
    }

    /// The same, with a number that the auth backend has chosen. For a client that only listens, and to whose
    /// `connect` there is no reply, the connection ends.
    pub(super) fn other_error(
        &self,
        effects: &mut Effects,
        id: u32,
        code: u16,
        message: &str,
        temporary: bool,
    ) {
        if !self.is_push() {
            return effects.other_error(id, code, message, temporary);
        }
        effects.count_error(code);
        let (disconnect, why) = if temporary {
            (Disconnect::Internal, CloseReason::AuthTimeout)
        } else if code == ErrorCode::TokenExpired.parts().0 {
            (Disconnect::Expired, CloseReason::Expired)
        } else {
            (Disconnect::PermissionDenied, CloseReason::Unauthorized)
        };
        effects.close(u16::from(disconnect.parts().0), message.to_owned(), why);
    }
}
