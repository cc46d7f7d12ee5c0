//! A client's seat: the connection that it has now, and what stays while it has none.

use super::client::Client;
use super::place::{Place, Return};
use crate::order::{Listener, Order};
use crate::plan::Plan;
use crate::tally::Tally;

/// A client, its place in its room, and whether it has been there since the talk began.
#[derive(Default)]
pub struct Slot {
    /// Its connection.
    pub client: Option<Box<Client>>,
    /// What it has heard.
    pub listener: Listener,
    /// It was there from the first message on, or has resumed from there.
    pub from_the_begin: bool,
    /// Where it is by the server's count, if clients resume and it has been told.
    pub place: Option<Box<Place>>,
    /// It was cut by a storm, and is not back.
    pub cut: bool,
    /// It comes back to that place.
    pub returning: Option<Return>,
}

impl Slot {
    /// A payload tells where the client is.
    pub fn hears(&mut self, plan: &Plan, payload: &[u8]) {
        let Some(resuming) = plan.target.dialect.resuming.as_ref().filter(|_| plan.resume) else { return };
        match &mut self.place {
            Some(place) => {
                place.hears(resuming, payload);
            }
            None => {
                let mut place = Place::default();
                if place.hears(resuming, payload) {
                    self.place = Some(Box::new(place));
                }
            }
        }
        if let Some(returning) = &mut self.returning {
            returning.hears(resuming, payload);
        }
    }

    /// The client is in at `now`: back at its place, or new.
    pub fn comes_in(&mut self, plan: &Plan, room: &Order, talking: bool, now: u64, tally: &mut Tally) {
        self.cut = false;
        if let (Some(returning), Some(resuming)) = (self.returning.take(), &plan.target.dialect.resuming) {
            if returning.is_recovered(resuming) {
                tally.recovered += 1;
                tally.caught_up += returning.caught_up;
                return;
            }
            tally.not_recovered += 1;
            tally.lost += self.listener.missing();
        }
        self.listener = if talking { room.listener_from(now) } else { room.listener_from_the_start() };
        self.from_the_begin = false;
    }
}
