//! What holds in which room: the settings of all rooms, and the `[[room]]` tables.

use std::sync::Arc;
use std::time::Duration;
use wildmatch::WildMatch;

use super::checked::{DAY, MESSAGE_BYTES_MAX};
use super::file::{PATTERN, Table};
use super::reader::Reader;
use super::{Entry, Problem};
use crate::chat::{Access, RoomOptions, RoomRules, SlowMember};

/// The rules. `entries` are the settings of the whole server.
pub(super) fn check(entries: &[Entry], tables: &[Table], problems: &mut Vec<Problem>) -> RoomRules {
    let mut read = Reader { entries, defaults: &[], problems };
    let otherwise = Arc::new(options(&mut read));
    let mut patterns = Vec::with_capacity(tables.len());
    for table in tables {
        let mut read = Reader { entries: &table.entries, defaults: entries, problems };
        let options = options(&mut read);
        // The server's own bound is that of reassembled messages.
        if options.message_bytes_max > otherwise.message_bytes_max {
            read.wrong(
                "max_message",
                "of a room must not be larger than that of the server, which stands above",
            );
        }
        match read.given(PATTERN).map(|entry| entry.value.text().unwrap_or("")) {
            Some("") => read.wrong(PATTERN, "must be a text that is not empty, such as \"news:*\""),
            Some(pattern) => patterns.push((WildMatch::new(pattern), Arc::new(options))),
            None => problems.push(Problem::new(
                table.location.clone(),
                "`pattern` is missing: which rooms is this for? For all others there are the settings above",
            )),
        }
    }
    RoomRules { patterns, otherwise }
}

fn options(read: &mut Reader<'_>) -> RoomOptions {
    RoomOptions {
        history_count_max: read.count("history", 0, 1_000_000),
        history_bytes_max: read.size("history_bytes", 0, 1 << 40),
        history_age_max: read.span("history_age", Duration::from_secs(1), DAY * 366),
        presence: read.switch("presence"),
        join_leave: read.switch("join_leave"),
        join_leave_members_max: read.count("join_leave_max", 0, 1_000_000),
        subscribe: who(&read.word("subscribe")),
        publish: who(&read.word("publish")),
        slow_member: match &*read.word("slow_member") {
            "skip" => SlowMember::Skip,
            "conflate" => SlowMember::Conflate,
            _ => SlowMember::Disconnect,
        },
        coalesce: read.span("coalesce", Duration::ZERO, Duration::from_secs(10)),
        messages_per_second_max: read.count_u32("max_messages_per_second", 1_000_000),
        message_bytes_max: read.size("max_message", 1, MESSAGE_BYTES_MAX),
    }
}

fn who(word: &str) -> Access {
    match word {
        "members" => Access::Members,
        "users" => Access::Users,
        "token" => Access::Token,
        "nobody" => Access::Nobody,
        _ => Access::Anyone,
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn of_file(text: &str) -> (RoomRules, Vec<String>) {
        let mut problems = Vec::new();
        let written = file::parse("s.toml", text, &mut problems);
        let rules = check(&written.entries, &written.rooms, &mut problems);
        problems.sort();
        (rules, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_defaults_are_the_cores() {
        assert_eq!(of_file(""), (RoomRules::default(), vec![]));
    }

    #[test]
    fn a_room_table_overrides_the_defaults() {
        let (rules, problems) = of_file(
            "history = 7\nhistory_age = \"5m\"\n[[room]]\npattern = \"news:*\"\nhistory = 9\npublish = \"nobody\"\n\
             [[room]]\npattern = \"*:old\"\nhistory = 0\nslow_member = \"conflate\"\nmax_messages_per_second = 3\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        let (news, old, other) = (rules.of("news:old"), rules.of("a:old"), rules.of("lobby"));
        assert_eq!((news.history_count_max, old.history_count_max, other.history_count_max), (9, 0, 7));
        assert_eq!((news.publish, old.publish), (Access::Nobody, Access::Members));
        assert_eq!(old.slow_member, SlowMember::Conflate);
        assert_eq!((old.messages_per_second_max, other.messages_per_second_max), (3, 0));
        assert!([news, old, other].iter().all(|options| options.history_age_max == Duration::from_secs(300)));
    }

    #[test]
    fn mistakes_have_locations_and_are_reported_once() {
        let (_, problems) = of_file(
            "history = -1\nmax_message = \"1KiB\"\n[[room]]\npattern = \"a\"\nsubscribe = \"all\"\n\
             max_message = \"2KiB\"\n[[room]]\nhistory = 1\n[[room]]\npattern = \"\"\n",
        );
        assert_eq!(
            problems,
            [
                "s.toml:1:11: `history` must be a whole number from 0 to 1000000",
                "s.toml:5:13: `subscribe` must be one of anyone, members, users, token, nobody",
                "s.toml:6:15: `max_message` of a room must not be larger than that of the server, which stands above",
                "s.toml:7:1: `pattern` is missing: which rooms is this for? For all others there are the settings above",
                "s.toml:10:11: `pattern` must be a text that is not empty, such as \"news:*\"",
            ]
        );
    }
}
