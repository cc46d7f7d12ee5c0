//! One connection of a client: what it has published and received, and how the server may end it.

use super::checker::{PublicationId, Receiver};
use super::identity::UNWANTED;
use super::plain::Resume;
use super::scenario::{Brings, Endpoint, Fresh, Leave, Look, Plan, Reading, Wrong};
use super::transport::Http;
use super::world::World;
use crate::base::Time;
use crate::chat::SlowMember;
use crate::metrics::CloseReason;
use crate::shard::Options;
use std::time::Duration;

/// How far a session has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// It waits for the answer to its request.
    Head,
    /// Its WebSocket is open.
    Open,
    /// A Close frame has come.
    Closed,
    /// The request was refused.
    Refused,
}

/// Whether a client is in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SubStage {
    /// It is not.
    Out,
    /// It has requested to be.
    Requested,
    /// It is.
    In,
}

/// A client's subscription to a room, and what it receives there.
#[derive(Debug)]
pub(super) struct Sub {
    pub(super) stage: SubStage,
    pub(super) receiver: Receiver,
    /// When it ends by itself, and when that is going to be once it is in.
    pub(super) ends: Option<Time>,
    pub(super) requested_ends: Option<Time>,
}

impl Sub {
    pub(super) const fn new(receiver: Receiver) -> Self {
        Self { stage: SubStage::Out, receiver, ends: None, requested_ends: None }
    }
}

/// Rooms of a scenario, at most.
pub(super) const ROOMS_MAX: usize = 8;

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Publications of a session in all rooms together.
    Session,
    /// Publications in one room.
    Room(usize),
    /// The other commands.
    Commands,
}

/// A command without its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PendingCommand {
    Connect,
    Publish(PublicationId),
    /// To subscribe to the room at this index of the session's.
    Subscribe(usize),
    /// The same, without what was missed.
    SubscribeAnew(usize),
    /// To be out of it.
    Unsubscribe(usize),
    /// To stay, with this token, which ends then.
    Refresh(Fresh, Option<Time>),
    /// To stay in a room.
    RoomRefresh(usize, Fresh, Option<Time>),
    /// Presence or history of the room at that index.
    Look(usize, Look),
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) plan: Plan,
    pub(super) pipe: usize,
    pub(super) stage: Stage,
    /// Bytes that have been read and not understood.
    pub(super) buffer: Vec<u8>,
    /// The rooms that it is in or subscribes to; one, unless it is a JSON client.
    pub(super) subs: Vec<Sub>,
    /// Its last publication in each room.
    pub(super) last_published: [Option<PublicationId>; ROOMS_MAX],
    /// When its identity expires.
    pub(super) ends: Option<Time>,
    /// The server puts it into rooms.
    pub(super) has_rooms: bool,
    /// It brings a token for each room.
    pub(super) brings_tokens: bool,
    /// It has brought another's token.
    pub(super) uses_foreign_token: bool,
    /// It has brought one of its own that had expired.
    pub(super) is_stale: bool,
    /// Its `connect` was refused.
    pub(super) refused_in: bool,
    /// It has sent commands in batches, so that they may contradict one another.
    pub(super) batched: bool,
    /// It has ended its stream behind its publications, which are published all the same.
    pub(super) final_messages: bool,
    /// Commands that count against a limit, each with that limit's scope and whether it was too many.
    pub(super) limited: Vec<(Scope, u32, bool)>,
    /// One of them has been sent or refused since the last rest.
    pub(super) limits_moved: bool,
    /// Whether its commands are counted.
    pub(super) counts_commands: bool,
    /// Messages in plain text that were too many.
    pub(super) too_often: u32,
    /// Commands so far, and those without an answer.
    pub(super) commands: u32,
    /// What the server calls it, in JSON.
    pub(super) id: String,
    /// Each with when it was sent.
    pub(super) pending_commands: Vec<(u32, PendingCommand, Time)>,
    /// Messages of its own that the engine could not take, and how many errors it got for them.
    pub(super) refused: u32,
    pub(super) refusals: u32,
    /// permessage-deflate was agreed on.
    pub(super) deflated: bool,
    /// It reads nothing before.
    pub(super) stalled_until: Time,
    /// A time to read again is on the agenda.
    pub(super) will_read: bool,
    /// Its socket was full, once or more.
    pub(super) was_full: bool,
    /// It has not read at once, once or more.
    pub(super) was_late: bool,
    pub(super) wrong: Option<Wrong>,
    pub(super) left: Option<Leave>,
    /// It has sent a Close.
    pub(super) close_sent: bool,
    /// Pings sent, and the newest that was answered.
    pub(super) pings: u64,
    pub(super) ponged: u64,
    pub(super) over: bool,
    /// How it resumes, in the plain protocol.
    pub(super) resume: Option<Box<Resume>>,
    /// What it is, when it is no WebSocket.
    pub(super) http: Option<Box<Http>>,
    /// Of its messages by request, how many have no answer yet, and the last one of each room that has a good
    /// one.
    pub(super) unresolved: usize,
    /// Requests that it has sent, answers that it has got, and whether those are all that the server gave.
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) has_all: bool,
    pub(super) acknowledged: [Option<PublicationId>; ROOMS_MAX],
}

/// What the server may be excused with.
#[derive(Debug)]
pub(super) struct Circumstances {
    /// The options in force.
    pub(super) options: Options,
    /// When they last changed.
    pub(super) changed: Time,
    /// The largest log that was ever allowed: a lower bound holds from the next publication on.
    pub(super) room_log_bytes_max: u64,
    /// Whether anything ever has.
    pub(super) disturbed: bool,
    /// Whether the clock has ever jumped, and how long shards stood still, all in all.
    pub(super) jumped: bool,
    pub(super) paused: Duration,
    /// Whether the engine takes long to complete a draft.
    pub(super) engine_is_slow: bool,
    /// Whether members were ever to be pinged.
    pub(super) pings: bool,
    /// When a drain began.
    pub(super) draining: Option<Time>,
}

impl Circumstances {
    /// The slow-consumer policy; the same in all rooms, and all the time.
    pub(super) fn policy(&self) -> SlowMember {
        self.options.rooms.otherwise.slow_member
    }
}

impl Session {
    pub(super) fn new(client: usize, plan: Plan, pipe: usize, subs: Vec<Sub>) -> Self {
        Self {
            client,
            plan,
            pipe,
            stage: Stage::Head,
            buffer: Vec::new(),
            subs,
            last_published: [None; ROOMS_MAX],
            ends: None,
            has_rooms: false,
            brings_tokens: false,
            uses_foreign_token: false,
            is_stale: false,
            refused_in: false,
            batched: false,
            final_messages: false,
            limited: Vec::new(),
            limits_moved: false,
            counts_commands: false,
            too_often: 0,
            commands: 0,
            id: String::new(),
            pending_commands: Vec::new(),
            refused: 0,
            refusals: 0,
            deflated: false,
            stalled_until: Time::ZERO,
            will_read: false,
            was_full: false,
            was_late: plan.reading != Reading::AtOnce,
            wrong: None,
            left: None,
            close_sent: false,
            pings: 0,
            ponged: 0,
            over: false,
            resume: None,
            http: None,
            unresolved: 0,
            asked: 0,
            answered: 0,
            has_all: false,
            acknowledged: [None; ROOMS_MAX],
        }
    }

    /// How many plain text messages may be missing without its being known which: they exceeded a limit, or
    /// it is not known whether they did.
    pub(super) fn excused(&self, world: &World) -> usize {
        if self.is_publisher() {
            return if self.unresolved == 0 { 0 } else { usize::MAX };
        }
        let pipe = world.pipe(self.pipe);
        let knows =
            self.stage == Stage::Open && self.is_compliant() && pipe.is_open() && pipe.to_client.is_empty();
        if knows && !pipe.starved { self.too_often as usize } else { usize::MAX }
    }

    /// It has ended its stream behind its publications, and nothing stood in the way of that.
    pub(super) fn has_final_messages(&self, world: &World, now: &Circumstances) -> bool {
        let is_in = match self.plan.endpoint {
            Endpoint::Room(_) => !now.uses_hook(),
            Endpoint::Centrifuge(_) => !self.id.is_empty(),
            Endpoint::Echo | Endpoint::Plain(..) => false,
        };
        // Its publications wait no longer than a closing handshake may take.
        let takes_long = now.jumped || now.paused > Duration::from_secs(2) || now.engine_is_slow;
        let is_fine =
            self.wrong.is_none() && !self.uses_foreign_token && !self.was_late && !now.limits_publishing();
        let ended = self.final_messages && self.left == Some(Leave::HalfClose);
        let as_it_wants = matches!(world.pipe(self.pipe).closed, None | Some(CloseReason::Disconnected));
        is_in && !takes_long && is_fine && ended && as_it_wants
    }

    /// Whether it may still publish.
    pub(super) fn may_publish(&self) -> bool {
        matches!(self.stage, Stage::Head | Stage::Open)
            && self.is_compliant()
            && !self.over
            && !self.refused_in
    }

    /// Whether it has done nothing that ends it.
    pub(super) const fn is_compliant(&self) -> bool {
        self.wrong.is_none() && self.left.is_none() && !self.close_sent && !self.uses_foreign_token
    }

    /// An HTTP status has come.
    pub(super) fn check_status(&self, status: u16, world: &World, now: &Circumstances) {
        let pipe = world.pipe(self.pipe);
        let fine = match status {
            101 => self.wrong.is_none_or(|wrong| !wrong.is_http()),
            401 => {
                self.brings_tokens && (self.plan.brings != Brings::Good || self.may_be_too_old(world.now()))
            }
            503 => now.options.connections_max < u64::MAX || now.draining.is_some(),
            408 => world.now().since(pipe.opened) >= now.options.handshake_timeout,
            _ => self.wrong.is_some_and(|wrong| wrong.is_http() && wrong.answer() == status),
        };
        assert!(fine, "client {} is answered with {status}: {:?}", self.client, self.wrong);
    }

    /// A Close frame has come.
    pub(super) fn check_close(&self, code: Option<u16>, world: &World, now: &Circumstances) {
        let own = self.left.and_then(|left| match left {
            Leave::Close(code) => Some(code),
            Leave::HalfClose | Leave::Reset => None,
        });
        let fine = match code {
            Some(UNWANTED) => self.is_unwanted(now),
            Some(1001) => own == code || now.draining.is_some() || self.may_be_silent(world, now),
            Some(3001) => own == code || now.draining.is_some(),
            Some(3012) => self.may_be_silent(world, now),
            Some(1008) if self.may_be_expired(world.now()) => self.plan.is_plain(),
            Some(1008 | 3013) => self.may_be_flooding(now),
            Some(3005) => self.may_be_expired(world.now()) || self.brought_old(world.now()),
            Some(3006) => self.may_be_put_out(world.now()),
            Some(3010) => self.was_full && now.policy() == SlowMember::Skip && self.has_rooms,
            Some(3500) => {
                self.uses_foreign_token || self.brings_tokens && self.plan.brings == Brings::Garbage
            }
            Some(3501) if self.may_be_refused(world) => true,
            Some(1013) if self.may_be_given_up(world, now) => true,
            Some(3004 | 3502) => {
                world.now().since(world.pipe(self.pipe).opened) >= now.options.handshake_timeout
            }
            Some(1013 | 3008) => self.was_full && now.policy() == SlowMember::Disconnect,
            Some(1002 | 1003 | 1007 | 1009 | 3501) => self.wrong.map(Wrong::answer) == code,
            other => other.is_some() && own == other,
        };
        assert!(fine, "client {} is closed with {code:?}: {:?} {:?}", self.client, self.wrong, self.left);
        assert!(world.pipe(self.pipe).is_accepted());
    }

    /// Whether it may receive publications some time after they were accepted.
    pub(super) const fn is_late(&self) -> bool {
        self.was_late || self.was_full
    }

    /// Whether the auth backend never decides about it.
    pub(super) fn waits_for_an_answer(&self, now: &Circumstances) -> bool {
        self.plan.unanswered && self.plan.endpoint != Endpoint::Echo && now.uses_hook()
    }

    /// Whether it is rejected for its token, or was.
    pub(super) fn may_be_refused(&self, world: &World) -> bool {
        self.refused_in
            || self.may_be_too_old(world.now())
            || self.brings_tokens && self.plan.brings != Brings::Good
    }

    /// Whether the auth backend rejects it.
    pub(super) fn is_unwanted(&self, now: &Circumstances) -> bool {
        self.plan.unwanted && self.plan.endpoint != Endpoint::Echo && now.uses_hook()
    }

    /// Whether the room that it goes into in plain text may not have answered in time.
    pub(super) fn may_be_given_up(&self, world: &World, now: &Circumstances) -> bool {
        let waited = world.now().since(world.pipe(self.pipe).opened);
        self.plan.is_plain() && waited >= now.options.command_timeout
    }

    /// Whether the server may find that it does not answer pings.
    fn may_be_silent(&self, world: &World, now: &Circumstances) -> bool {
        let pipe = world.pipe(self.pipe);
        let silence = pipe.silence.max(world.now().since(pipe.received));
        // In JSON it is the pong that counts, and not that bytes were received.
        let late = !self.plan.answers || self.was_full || self.was_late || world.faults().reads_per_turn < 4;
        let is_json = matches!(self.plan.endpoint, Endpoint::Centrifuge(_));
        now.pings && (silence >= now.options.pong_timeout || is_json && (late || now.disturbed))
    }

    /// The server has closed the connection.
    pub(super) fn check_reason(&self, reason: CloseReason, world: &World, now: &Circumstances) {
        let pipe = world.pipe(self.pipe);
        if let Some(http) = &self.http {
            return self.check_http_reason(reason, http, world, now);
        }
        let fine = match reason {
            CloseReason::ClosedByPeer => self.close_sent,
            CloseReason::Disconnected => pipe.end.is_some(),
            CloseReason::RequestComplete => pipe.end.is_some() && self.stage == Stage::Head,
            CloseReason::InvalidCommand if self.may_be_refused(world) => true,
            CloseReason::ProtocolError
            | CloseReason::InvalidCommand
            | CloseReason::MessageTooBig
            | CloseReason::UnsupportedData => self.wrong.map(Wrong::reason) == Some(reason),
            CloseReason::PingTimeout => self.may_be_silent(world, now),
            CloseReason::SlowConsumer => {
                self.was_full && (now.policy() == SlowMember::Disconnect || self.has_rooms)
            }
            CloseReason::Shutdown => now.draining.is_some(),
            CloseReason::RequestTimeout => world.now().since(pipe.opened) >= now.options.handshake_timeout,
            // A plain client waits as long as for a command, another one as long as for its handshake.
            CloseReason::AuthTimeout => {
                self.may_be_given_up(world, now)
                    || world.now().since(pipe.opened) >= now.options.handshake_timeout
            }
            CloseReason::RoomTimeout => self.may_be_given_up(world, now),
            CloseReason::Unauthorized => {
                self.uses_foreign_token || self.is_unwanted(now) || self.may_be_refused(world)
            }
            CloseReason::RateLimited => self.may_be_flooding(now),
            CloseReason::Expired => {
                let at = world.now();
                self.may_be_expired(at) || self.may_be_put_out(at) || self.brought_old(at)
            }
            CloseReason::ShardPanic | CloseReason::ConnectionLimit => false,
            CloseReason::RequestRejected => self.stage != Stage::Open && self.stage != Stage::Closed,
        };
        assert!(fine, "client {} is closed for {reason:?}: {:?} {:?}", self.client, self.wrong, self.left);
    }

    /// Nothing moves any more: what must have come of what it did, and which time must not have passed.
    pub(super) fn check_at_rest(&mut self, world: &World, now: &Circumstances) {
        let pipe = world.pipe(self.pipe);
        if self.over || !pipe.is_open() || !pipe.is_accepted() {
            return;
        }
        if self.http.is_some() {
            return self.check_http_at_rest(world, now);
        }
        // Of one that does not read nothing more is known, but that it may wait.
        let reads = !pipe.starved && pipe.to_client.is_empty();
        let unanswered = self.waits_for_an_answer(now);
        assert!(
            !reads || unanswered || pipe.to_server.is_empty(),
            "what client {} has sent is not read: {} bytes",
            self.client,
            pipe.to_server.len()
        );
        let (age, silence) = (world.now().since(pipe.opened), world.now().since(pipe.received));
        let options = &now.options;
        let most = options.close_timeout + SLACK;
        let is_http = matches!(self.stage, Stage::Head | Stage::Refused);
        if self.stage == Stage::Head && reads {
            assert!(
                age <= options.handshake_timeout + most,
                "client {} never sends a request, and is kept",
                self.client
            );
        }
        let pinged_since = pipe.received.max(now.changed);
        let is_json = matches!(self.plan.endpoint, Endpoint::Centrifuge(_));
        if !options.ping_interval.is_zero() && !is_http && !is_json {
            // A ping that was answered just before its time leaves the next one to the end of that time.
            let limit = options.ping_interval.max(options.pong_timeout) + options.pong_timeout + most;
            let overdue = world.now().since(pinged_since) > limit;
            assert!(!overdue, "client {} has been silent for {silence:?}, and is kept", self.client);
        }
        if let Some(drain) = now.draining {
            assert!(world.now().since(drain) <= most, "client {} outlives the drain", self.client);
        }
        if self.stage == Stage::Open && reads {
            self.check_expiry(world.now(), now.changed, most);
        }
        if self.stage == Stage::Open && reads && pipe.end.is_none() && !unanswered {
            self.check_replies();
            self.check_limits(now);
            let is_excused =
                matches!(self.plan.endpoint, Endpoint::Centrifuge(_)) || self.refusals == self.refused;
            assert!(is_excused, "client {} gets a notice for a message that was sent", self.client);
            assert_eq!(self.ponged, self.pings, "client {} waits for a pong", self.client);
            assert!(
                self.wrong.is_none(),
                "client {} did {:?}, and nothing came of it",
                self.client,
                self.wrong
            );
            assert!(!self.close_sent, "client {} waits for the answer to its Close", self.client);
        }
    }
}

/// What a timer may be late by: its ticks, and the time of a pause.
pub(super) const SLACK: Duration = Duration::from_millis(200);
