//! Options of a room: its history, who may publish, the slow-consumer policy. Chosen by the room's name.

use std::sync::Arc;
use std::time::Duration;
use wildmatch::WildMatch;

/// What is done with a member whose cursor has fallen behind by more than the room log's bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlowMember {
    /// Close the connection (1013, or 3008).
    #[default]
    Disconnect,
    /// Jump to the head, and notify the member of the gap and the position from where it can recover.
    Skip,
    /// Jump to the newest publication as soon as its socket takes something again.
    Conflate,
}

/// Who may do something in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Every client.
    #[default]
    Anyone,
    /// Members of the room. For joining, the same as every client.
    Members,
    /// Authenticated clients: not anonymous.
    Users,
    /// Clients with a token for the room; as members, they may publish too.
    Token,
    /// No client: only the server itself.
    Nobody,
}

/// What holds in a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomOptions {
    /// Publications kept in the history; 0: none, and the room has no positions to recover from.
    pub history_count_max: usize,
    /// Bytes of these, at most.
    pub history_bytes_max: usize,
    /// How long one is kept.
    pub history_age_max: Duration,
    /// Whether the members of the room can be queried.
    pub presence: bool,
    /// Whether members receive presence events.
    pub join_leave: bool,
    /// With more members than this, there are no presence events.
    pub join_leave_members_max: usize,
    /// Who may join.
    pub subscribe: Access,
    /// Who may publish.
    pub publish: Access,
    /// The slow-consumer policy.
    pub slow_member: SlowMember,
    /// How long the room waits for more before it sends.
    pub coalesce: Duration,
    /// Messages of one client in a second in this room, with twice as many in a burst; 0: any number.
    pub messages_per_second_max: u32,
    /// Bytes of a message's text or data.
    pub message_bytes_max: usize,
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            history_count_max: 100,
            history_bytes_max: 64 * 1024,
            history_age_max: Duration::from_secs(10 * 60),
            presence: true,
            join_leave: true,
            join_leave_members_max: 500,
            subscribe: Access::Anyone,
            publish: Access::Members,
            slow_member: SlowMember::Disconnect,
            coalesce: Duration::ZERO,
            messages_per_second_max: 0,
            message_bytes_max: 64 * 1024,
        }
    }
}

/// The options of rooms by patterns of their names; the first that fits holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RoomRules {
    /// `*` stands for any characters, `?` for one.
    pub patterns: Vec<(WildMatch, Arc<RoomOptions>)>,
    /// For rooms that no pattern fits.
    pub otherwise: Arc<RoomOptions>,
}

impl RoomRules {
    /// What holds in the room called `name`.
    pub fn of(&self, name: &str) -> &Arc<RoomOptions> {
        let fitting = self.patterns.iter().find(|(pattern, _)| pattern.matches(name));
        fitting.map_or(&self.otherwise, |(_, options)| options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_holds() {
        let options =
            |history_count_max| Arc::new(RoomOptions { history_count_max, ..RoomOptions::default() });
        let patterns = vec![(WildMatch::new("news:*"), options(1)), (WildMatch::new("*:old"), options(2))];
        let rules = RoomRules { patterns, otherwise: options(3) };
        for (name, expected) in [("news:old", 1), ("a:old", 2), ("news", 3), ("", 3)] {
            assert_eq!(rules.of(name).history_count_max, expected, "{name}");
        }
    }
}
