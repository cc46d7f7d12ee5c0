//! What must hold when nothing moves any more, and when all clients are gone.

use super::session::{Session, Stage, SubStage};
use super::simulation::Simulation;
use crate::shard::Audit;

impl Simulation<'_> {
    /// Nothing moves any more.
    pub(super) fn at_rest(&mut self) {
        self.report.rests += 1;
        self.trace.note(self.now, || "rest".to_owned());
        let mut present = 0;
        for id in 0..self.world.shard_count() {
            present += self.audit(id);
            assert!(!self.world.has_edges(id), "shard {id} sleeps, and something waits for it");
        }
        self.check_present(present);
        for session in &mut self.sessions {
            session.check_at_rest(&self.world, &self.circumstances);
        }
        self.check_suspects();
        let world = &self.world;
        let is_there = |session: &Session| {
            let pipe = world.pipe(session.pipe);
            let waits = session.waits_for_an_answer(&self.circumstances);
            !waits
                && session.stage == Stage::Open
                && session.is_compliant()
                && !pipe.shut
                && pipe.closed.is_none()
        };
        // A client that does not read may have been closed without knowing: then nothing receives its
        // messages.
        let reads = |session: &Session| {
            !world.pipe(session.pipe).starved && world.pipe(session.pipe).to_client.is_empty()
        };
        let received = |it: &&Session| {
            it.too_often == 0 && is_there(it) && reads(it)
                || it.has_final_messages(world, &self.circumstances)
        };
        let mut last_publications: Vec<_> = self.elsewhere.into_iter().flatten().collect();
        for it in self.sessions.iter().filter(received) {
            last_publications.extend(it.last_published.iter().flatten());
        }
        for it in &self.sessions {
            last_publications.extend(it.acknowledged.iter().flatten());
        }
        let there = self.sessions.iter_mut().enumerate().filter(|(_, it)| is_there(it) && reads(it));
        let subs = there.flat_map(|(index, it)| it.subs.iter_mut().map(move |sub| (index, sub)));
        let members = subs
            .filter(|(_, sub)| sub.stage == SubStage::In)
            .map(|(index, sub)| (index, &mut sub.receiver))
            .collect();
        self.checker.at_rest(members, &last_publications);
    }

    /// What a session passed over was declined, or is among those of its publisher that exceeded a limit.
    fn check_suspects(&mut self) {
        let suspects = self.checker.take_suspects();
        if suspects.is_empty() {
            return;
        }
        let mut excused: Vec<_> = self.sessions.iter().map(|it| it.excused(&self.world)).collect();
        for (session, id) in suspects {
            let Some(excused) = excused.get_mut(session) else { panic!("{id} is missing") };
            if *excused == usize::MAX {
                self.checker.pass_over(id);
                continue;
            }
            *excused =
                excused.checked_sub(1).unwrap_or_else(|| panic!("{id} is missing, and was not declined"));
        }
    }

    /// All clients are gone, and nothing is left of them.
    pub(super) fn check_aftermath(&mut self) {
        for (index, session) in self.sessions.iter().enumerate() {
            let pipe = self.world.pipe(session.pipe);
            let never_in = self.circumstances.draining.is_some() && !pipe.is_accepted();
            assert!(
                pipe.closed.is_some() || never_in,
                "session {index} of client {} is never closed",
                session.client
            );
        }
        for id in 0..self.world.shard_count() {
            assert_eq!(self.world.is_drained(id), self.circumstances.draining.is_some());
            let shard = self.world.shard(id);
            assert_eq!(shard.connections(), 0, "connections of shard {id}");
            let audit = shard.audit();
            // What the inflater keeps is for the next message.
            let nothing = Audit { inflater_bytes: audit.inflater_bytes, ..Audit::default() };
            assert_eq!(audit, nothing, "shard {id} keeps something");
            let metrics = self.world.registry().shard(id);
            let it = &*metrics;
            let gauges = [
                &it.connections,
                &it.websockets,
                &it.streams,
                &it.waiting_requests,
                &it.rooms,
                &it.members,
                &it.lagging,
                &it.history_bytes,
            ];
            let gauges = gauges.map(crate::metrics::Cell::value);
            assert_eq!(
                gauges, [0; 8],
                "connections, websockets, streams, requests, rooms, members, lagging, history of shard {id}"
            );
            let closes: u64 = metrics.closes.iter().map(crate::metrics::Cell::value).sum();
            assert_eq!(metrics.accepted.value(), closes, "every connection is closed once");
        }
        let counted: u64 =
            (0..self.world.shard_count()).map(|id| self.world.registry().shard(id).requests.value()).sum();
        // Beside what it has requested, each connection may get one answer that it did not ask for.
        let most = |it: &Session| if it.has_all { it.answered } else { it.asked.max(1) + 1 };
        let answered: u64 = self.sessions.iter().map(|it| it.answered).sum();
        let most: u64 = self.sessions.iter().map(most).sum();
        assert!(
            (answered..=most).contains(&counted),
            "{counted} answers are counted; clients got {answered}, and may have been sent {most}"
        );
    }
}
