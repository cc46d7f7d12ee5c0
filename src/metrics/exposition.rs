//! The page at `/metrics`, in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{
    BUCKETS, Cell, CloseReason, ERROR_CODES, FIRST_BUCKET_US, Histogram, ProcessStats, REFUSALS, Registry,
    Reloads, ShardMetrics,
};

impl Registry {
    /// The page at `/metrics` (Prometheus text format 0.0.4).
    pub fn exposition(&self) -> String {
        let mut page = String::with_capacity(16 * 1024);
        self.render(&mut page);
        page
    }

    fn render(&self, page: &mut String) {
        sample(
            page,
            "stentor_build_info",
            "gauge",
            "The running version.",
            concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1,
        );
        let ready = u64::from(self.is_ready());
        sample(page, "stentor_ready", "gauge", "1 while the server asks for new clients.", "", ready);
        let max = match self.connections_max.load(Ordering::Relaxed) {
            u64::MAX => "+Inf".to_owned(),
            max => max.to_string(),
        };
        let help = "Connections that may be open (max_connections): further ones get status 503.";
        sample(page, "stentor_connections_limit", "gauge", help, "", max);
        for (name, kind, help, pick) in FAMILIES {
            family(page, name, kind, help);
            for (id, shard) in self.shards.iter().enumerate() {
                let _ = writeln!(page, "stentor_{name}{{shard=\"{id}\"}} {}", pick(shard).value());
            }
        }
        self.causes(page);
        self.histogram(
            page,
            "turn_duration_seconds",
            "One turn of an event loop, without its sleep.",
            |shard| &shard.turn,
        );
        self.histogram(
            page,
            "fanout_duration_seconds",
            "Time from the turn that brought a publication until it was offered to its last member on the shard (sampled).",
            |shard| &shard.fanout,
        );
        self.reloads(page);
        if let Some(stats) = self.process.get() {
            process(page, stats());
        }
    }

    /// Counters by reason, cause and code.
    fn causes(&self, page: &mut String) {
        family(page, "connections_closed_total", "counter", "Connections closed, by reason.");
        for reason in CloseReason::ALL {
            let count = self.sum(|shard| &shard.closes[reason as usize]);
            let _ =
                writeln!(page, "stentor_connections_closed_total{{reason=\"{}\"}} {count}", reason.label());
        }
        family(page, "http_refusals_total", "counter", "Requests refused, by status and cause.");
        for ((status, cause), count) in REFUSALS.iter().zip(self.refusals()) {
            let labels = format!("{{status=\"{status}\",cause=\"{cause}\"}}");
            let _ = writeln!(page, "stentor_http_refusals_total{labels} {count}");
        }
        family(page, "errors_total", "counter", "Error replies sent to clients, by code.");
        let codes = ERROR_CODES.iter().map(u16::to_string).chain(["other".to_owned()]);
        for (index, code) in codes.enumerate() {
            let count = self.sum(|shard| &shard.errors[index]);
            let _ = writeln!(page, "stentor_errors_total{{code=\"{code}\"}} {count}");
        }
    }

    fn reloads(&self, page: &mut String) {
        let Reloads { succeeded, failed, last_failed, applied_at_s } = &self.reloads;
        family(page, "config_reloads_total", "counter", "Reloads of the configuration, by result.");
        for (result, count) in [("success", succeeded), ("failure", failed)] {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(page, "stentor_config_reloads_total{{result=\"{result}\"}} {count}");
        }
        let fine = u64::from(!last_failed.load(Ordering::Relaxed));
        let name = "stentor_config_last_reload_successful";
        sample(page, name, "gauge", "0 when the last reload was refused.", "", fine);
        let name = "stentor_config_last_reload_success_timestamp_seconds";
        let help = "When the configuration in force was read, in Unix time.";
        sample(page, name, "gauge", help, "", applied_at_s.load(Ordering::Relaxed));
    }

    fn histogram(
        &self,
        page: &mut String,
        name: &str,
        help: &str,
        pick: impl Fn(&ShardMetrics) -> &Histogram,
    ) {
        family(page, name, "histogram", help);
        for (id, shard) in self.shards.iter().enumerate() {
            let histogram = pick(shard);
            let mut count = 0;
            for (bucket, cell) in histogram.buckets.iter().enumerate() {
                count += cell.value();
                let bound = match bucket {
                    BUCKETS => "+Inf".to_owned(),
                    _ => seconds((FIRST_BUCKET_US << bucket) * 1000),
                };
                let _ = writeln!(page, "stentor_{name}_bucket{{shard=\"{id}\",le=\"{bound}\"}} {count}");
            }
            let sum = seconds(histogram.sum_ns.value());
            let _ = writeln!(page, "stentor_{name}_sum{{shard=\"{id}\"}} {sum}");
            let _ = writeln!(page, "stentor_{name}_count{{shard=\"{id}\"}} {count}");
        }
    }
}

type Pick = fn(&ShardMetrics) -> &Cell;

/// Every plain family: name without prefix, type, help, where it is.
const FAMILIES: [(&str, &str, &str, Pick); 32] = [
    ("connections_accepted_total", "counter", "Connections accepted.", |s| &s.accepted),
    ("connections", "gauge", "Connections open now, without the surplus ones.", |s| &s.connections),
    (
        "surplus_connections",
        "gauge",
        "Connections open only to be answered: above the limit, or since a drain began.",
        |s| &s.surplus,
    ),
    ("websocket_connections", "gauge", "Open WebSocket connections.", |s| &s.websockets),
    ("http_streams", "gauge", "Open HTTP streams: event streams and lines.", |s| &s.streams),
    (
        "http_waiting_requests",
        "gauge",
        "HTTP requests that wait for their answers, such as long polls.",
        |s| &s.waiting_requests,
    ),
    ("polling_members", "gauge", "Members of rooms that use long polling, between two polls too.", |s| {
        &s.leases
    }),
    ("sockjs_sessions", "gauge", "SockJS sessions over HTTP, between two requests too.", |s| &s.outlets),
    ("idempotency_keys", "gauge", "Idempotency keys that are kept.", |s| &s.idempotency_keys),
    ("rooms", "gauge", "Rooms with members on the shard.", |s| &s.rooms),
    ("members", "gauge", "Members of rooms.", |s| &s.members),
    ("messages_received_total", "counter", "Messages received for rooms.", |s| &s.messages_received),
    ("publications_total", "counter", "Publications ordered by the shard.", |s| &s.publications),
    ("deliveries_total", "counter", "Publications written completely to a member's socket.", |s| {
        &s.deliveries
    }),
    ("publications_skipped_total", "counter", "Publications skipped by slow members.", |s| &s.skipped),
    ("history_bytes", "gauge", "Bytes of publications kept in the histories of rooms.", |s| &s.history_bytes),
    (
        "history_evictions_total",
        "counter",
        "Publications evicted from histories because of history_memory.",
        |s| &s.evicted,
    ),
    ("home_rooms", "gauge", "Rooms whose home is the shard, with or without members.", |s| &s.homes),
    (
        "publications_delayed_total",
        "counter",
        "Messages delayed at their room's home because a shard was behind.",
        |s| &s.delayed,
    ),
    (
        "publications_parked_bytes",
        "gauge",
        "Bytes of messages parked behind earlier ones of their room.",
        |s| &s.parked_bytes,
    ),
    ("recoveries_succeeded_total", "counter", "Subscriptions recovered without a gap.", |s| &s.recovered),
    ("recoveries_failed_total", "counter", "Subscriptions that could not be recovered.", |s| &s.unrecovered),
    ("received_bytes_total", "counter", "Bytes read from clients.", |s| &s.received_bytes),
    ("sent_bytes_total", "counter", "Bytes written to clients.", |s| &s.sent_bytes),
    ("socket_writes_total", "counter", "System calls and ring operations that wrote to clients.", |s| {
        &s.writes
    }),
    ("lagging_members", "gauge", "Members with pending publications whose socket is full.", |s| &s.lagging),
    (
        "read_pauses_total",
        "counter",
        "Times reading from a client paused: a room, a ring or its replies were full, or its commands in flight.",
        |s| &s.pauses,
    ),
    (
        "accept_pauses_total",
        "counter",
        "Times accepting paused for lack of descriptors or of room in a socket table.",
        |s| &s.accept_pauses,
    ),
    ("http_requests_total", "counter", "HTTP requests answered, without upgrades.", |s| &s.requests),
    ("shard_panics_total", "counter", "Shard panics.", |s| &s.panics),
    (
        "connections_moved_total",
        "counter",
        "Connections that went to another shard, to their session.",
        |s| &s.moves,
    ),
    ("mesh_wakeups_total", "counter", "Wake-ups sent to other shards.", |s| &s.wakes),
];

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP stentor_{name} {help}\n# TYPE stentor_{name} {kind}");
}

/// A family with one sample.
fn sample(page: &mut String, name: &str, kind: &str, help: &str, labels: &str, value: impl Display) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}");
}

/// The families that Prometheus' client libraries have for every process.
fn process(page: &mut String, stats: ProcessStats) {
    let nanos = |time: Duration| seconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let ProcessStats { resident_memory_bytes, virtual_memory_bytes, open_fds, max_fds, .. } = stats;
    let mut one = |name: &str, kind: &str, help: &str, value: &dyn Display| {
        sample(page, &format!("process_{name}"), kind, help, "", value);
    };
    one("cpu_seconds_total", "counter", "User and system CPU time.", &nanos(stats.cpu));
    one("resident_memory_bytes", "gauge", "Memory in RAM.", &resident_memory_bytes);
    one("virtual_memory_bytes", "gauge", "Address space.", &virtual_memory_bytes);
    one("open_fds", "gauge", "Open file descriptors; with io_uring, clients take none.", &open_fds);
    let max_fds = max_fds.map_or_else(|| "+Inf".to_owned(), |max| max.to_string());
    one("max_fds", "gauge", "Limit on open file descriptors.", &max_fds);
    one("start_time_seconds", "gauge", "When the process began, in Unix time.", &nanos(stats.start_time));
}

/// Nanoseconds as a decimal number of seconds, without the detour over floating point.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let short = text.trim_end_matches('0');
    short.strip_suffix('.').map_or_else(|| short.to_owned(), |whole| format!("{whole}.0"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn page() -> String {
        let registry = Registry::new(2);
        registry.set_process(ProcessStats::default);
        registry.shard(1).fanout.observe(Duration::from_micros(70));
        registry.exposition()
    }

    /// Name, labels without `le`, the value of `le`, value.
    fn samples(page: &str) -> Vec<(String, String, Option<String>, f64)> {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let parsed = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
                None => (series, ""),
            };
            let (mut le, mut others) = (None, Vec::new());
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').expect("a label has a value");
                let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).expect("quoted");
                if key == "le" { le = Some(value.to_owned()) } else { others.push(label) }
            }
            let value = value.parse().unwrap_or_else(|_| panic!("{line} has no number"));
            (name.to_owned(), others.join(","), le, value)
        });
        parsed.collect()
    }

    /// What `promtool check metrics` asks of names, and what a scraper asks of the page.
    #[test]
    fn the_page_follows_the_conventions() {
        let page = page();
        let (mut types, mut current) = (BTreeMap::new(), "");
        for line in page.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                current = name;
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
            {
                assert_eq!(name, current, "a family has its help first");
                assert!(types.insert(name, kind).is_none(), "{name} is there twice");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
                assert!(name.starts_with("stentor_") || name.starts_with("process_"), "{name}");
                let fine = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(name.chars().all(fine) && !name.contains("__"), "{name}");
                // Base units, in full and last, but for the end of a counter.
                let unit = name.strip_suffix("_total").unwrap_or(name);
                for wrong in ["_ms", "_us", "_ns", "_sec", "_kb", "_mb", "_milliseconds"] {
                    assert!(!unit.ends_with(wrong), "{name}");
                }
                let has_unit = unit.contains("_bytes") || unit.contains("_seconds");
                assert!(!has_unit || unit.ends_with("_bytes") || unit.ends_with("_seconds"), "{name}");
                assert!(kind != "histogram" || unit.ends_with("_seconds"), "{name}");
            } else {
                assert!(line.starts_with(current), "{line} stands under {current}");
            }
        }
        let mut seen = BTreeSet::new();
        for (name, labels, le, value) in samples(&page) {
            assert!(value >= 0.0);
            assert!(seen.insert((name.clone(), labels.clone(), le)), "{name}{{{labels}}} is there twice");
        }
    }

    #[test]
    fn buckets_grow_and_end_with_the_count() {
        let samples = samples(&page());
        for name in ["stentor_turn_duration_seconds", "stentor_fanout_duration_seconds"] {
            for shard in ["shard=\"0\"", "shard=\"1\""] {
                let of = |suffix: &str| {
                    let name = format!("{name}{suffix}");
                    samples.iter().filter(move |sample| sample.0 == name && sample.1 == shard)
                };
                let buckets: Vec<(f64, f64)> = of("_bucket")
                    .map(|(_, _, le, value)| (le.as_ref().unwrap().parse().unwrap(), *value))
                    .collect();
                assert!(buckets.len() == BUCKETS + 1 && buckets.is_sorted());
                assert!(buckets.windows(2).all(|two| two[0].1 <= two[1].1));
                let (last, count) = (buckets[BUCKETS], of("_count").next().unwrap().3);
                assert!(last.0.is_infinite() && last.1 == count);
                assert_eq!(of("_sum").count(), 1);
            }
        }
    }

    #[test]
    fn seconds_have_no_more_digits_than_they_need() {
        for (nanos, expected) in
            [(0, "0.0"), (16_000, "0.000016"), (1_500_000_000, "1.5"), (1, "0.000000001")]
        {
            assert_eq!(seconds(nanos), expected);
        }
    }
}
