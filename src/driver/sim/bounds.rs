//! What shards hold is within its bounds: of each kind, as it is allocated.

use std::time::Duration;

use super::kernel::PIECES_MAX;
use super::session::Session;
use super::simulation::Simulation;
use crate::base::Time;
use crate::shard::Audit;

/// Places for commands of one session that wait: sixteen, in a list that doubles.
const COMMANDS_MAX: usize = 32;

/// Bytes of a connection's own that wait before its input does.
const OUTBOX_PAUSE_BYTES: usize = 64 * 1024;

/// Bytes of drafts for one room that one shard has in flight, beside the last one.
const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an engine's pages that one joining client receives.
const MISSED_BYTES_MAX: usize = 1 << 20;

/// Bytes of a draft beside what it carries.
const DRAFT_BYTES: usize = 512;

/// What may pass between the request of a poll and its joining of the room.
const LEASE_SLACK: Duration = Duration::from_secs(10);

/// Bytes that an inflater keeps between two messages.
const INFLATER_BYTES_MAX: usize = 256 * 1024;

impl Simulation<'_> {
    /// What a shard holds is within its bounds. Returns how many clients its homes list as present.
    pub(super) fn audit(&self, id: usize) -> usize {
        let audit = self.world.shard(id).audit();
        self.check_connections(&audit);
        self.check_rooms(&audit);
        let (clients, options) = (self.sessions.len(), &self.scenario.options);
        assert!(audit.commands <= COMMANDS_MAX, "{} commands of a session wait", audit.commands);
        assert!(audit.auth_requests <= clients, "{} auth requests wait", audit.auth_requests);
        assert!(audit.countings <= clients * COMMANDS_MAX, "{} counts are in flight", audit.countings);
        let rooms = self.scenario.rooms * (options.rooms.otherwise.history_bytes_max + 1024);
        let connect_max = 2 * (rooms + self.paged_max()) + 1024;
        assert!(audit.connect_bytes <= connect_max, "{} bytes of a connect", audit.connect_bytes);
        let waiting_max = self.scenario.shards * (2 * self.scenario.clients.len() + self.read_max() / 6 + 64);
        assert!(audit.mesh_waiting <= waiting_max, "{} messages wait for a ring", audit.mesh_waiting);
        audit.homes.present
    }

    fn read_max(&self) -> usize {
        self.world.faults().read_bytes_max
    }

    /// Bytes that one connection may bring between two looks at whether it is paused: one read; where bytes
    /// arrive by themselves, the pieces of one wait and the one that comes while they are stopped.
    fn brought_max(&self) -> usize {
        self.read_max() * if self.world.faults().completes { PIECES_MAX + 1 } else { 1 }
    }

    /// Bytes of an engine's pages that one answer may hold.
    const fn paged_max(&self) -> usize {
        if self.scenario.engine.is_some() { MISSED_BYTES_MAX } else { 0 }
    }

    fn check_connections(&self, audit: &Audit) {
        let (read, options) = (self.read_max(), &self.scenario.options);
        let message = options.message.message_bytes_max;
        let outbox_max = 2 * (OUTBOX_PAUSE_BYTES + 2 * read + message) + self.paged_max();
        assert!(audit.outbox_bytes <= outbox_max, "{} bytes wait in a connection", audit.outbox_bytes);
        // A vector doubles.
        assert!(audit.outbox_capacity <= 2 * outbox_max, "an outbox of {} bytes", audit.outbox_capacity);
        let input_max = 2 * (message + self.brought_max() + options.head.head_bytes_max) + 1024;
        assert!(audit.input_bytes <= input_max, "{} bytes of input are kept", audit.input_bytes);
        let inflater_max = INFLATER_BYTES_MAX.max(2 * message + 2048);
        assert!(audit.inflater_bytes <= inflater_max, "an inflater of {} bytes", audit.inflater_bytes);
    }

    fn check_rooms(&self, audit: &Audit) {
        let (shards, options) = (self.scenario.shards, &self.scenario.options);
        let (read, message) = (self.read_max(), options.message.message_bytes_max);
        let log_max = self.circumstances.room_log_bytes_max.max(2 * message as u64);
        // Beyond its bound a log holds what was not swept yet, a message, and what one read has brought.
        let log_limit = log_max + log_max / 4 + 2 * (message + 4 * read) as u64 + 32 * 1024;
        assert!(audit.log_bytes <= log_limit, "a log keeps {} bytes, of {log_max}", audit.log_bytes);
        let parked_max = (self.sessions.len() * (message + DRAFT_BYTES)) as u64;
        assert!(audit.parked_bytes <= parked_max, "{} bytes of drafts wait", audit.parked_bytes);
        let draft_max = (shards * (IN_FLIGHT_BYTES_MAX + message + DRAFT_BYTES)) as u64;
        let homes = audit.homes;
        assert!(homes.draft_bytes <= draft_max, "{} bytes of drafts are not ordered", homes.draft_bytes);
        let history_max = options.history_total_bytes_max / shards as u64;
        assert!(homes.history_bytes <= history_max, "histories of {} bytes", homes.history_bytes);
        assert!(homes.joins <= self.sessions.len(), "{} clients wait for a page", homes.joins);
    }

    /// Whether the poll of a session has joined its room, and waits.
    fn is_member(&self, session: &Session) -> bool {
        let pipe = self.world.pipe(session.pipe);
        // What has come to it, read or not, is the answer.
        let http = session.http.as_ref();
        let is_answered = !pipe.to_client.is_empty()
            || !session.buffer.is_empty()
            || http.is_none_or(|it| it.answer.is_some());
        !is_answered
            && pipe.is_accepted()
            && pipe.is_open()
            && pipe.end.is_none()
            && !pipe.shut
            && !session.waits_for_an_answer(&self.circumstances)
    }

    /// Nothing moves any more: the homes list as present all that are members, as far as they are to be
    /// listed. Several polls of one session are one client, which is there between two polls too.
    pub(super) fn check_present(&self, present: usize) {
        let shards = 0..self.world.shard_count();
        let members: u64 = shards.map(|id| self.world.registry().shard(id).members.value()).sum();
        let at = self.world.now();
        let mut polls = vec![0_u64; self.plain.len()];
        for it in self.sessions.iter().filter(|it| !it.over && it.polls() && self.is_member(it)) {
            polls[it.client] += 1;
        }
        let (mut twice, mut surely, mut perhaps) = (0, 0, 0);
        for (of, polls) in self.plain.iter().zip(polls) {
            twice += polls.saturating_sub(1);
            if polls == 0 {
                surely += u64::from(at < of.lease.0);
                let is_possible = of.lease.1 > Time::ZERO;
                perhaps +=
                    u64::from(is_possible && at < of.lease.1 + LEASE_SLACK + self.circumstances.paused);
            }
        }
        let (least, most) = (members + surely - twice, members + perhaps - twice);
        let present = present as u64;
        let quiet = self.sessions.iter().any(|session| session.plan.quiet);
        let fits = present <= most && (quiet || present >= least);
        assert!(
            fits,
            "{present} clients are listed as present, of {members} members; {twice} polls are second ones, and of {perhaps} clients between two polls {surely} are members"
        );
    }
}
