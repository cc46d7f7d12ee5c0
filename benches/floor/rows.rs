//! The rows of the table: what is measured, and how it is printed.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use mio::net::TcpStream;
use std::time::Duration;

use super::client::{Client, Pace, Seen, Settings, Topology, connect, upgrade};
use super::compare::{compare, print_head};
use super::process::{Server, pin_client};
use super::protocol::Protocol::{self, Events, Json, Lines, Plain};
use super::record::Recorder;

/// A frame as it arrives: 2 bytes of header, `member-0000: `, and the text.
const FRAME_BYTES: usize = 110;
/// The same with a longer text, and two bytes more of header.
const LARGE_FRAME_BYTES: usize = 4096;
/// A short text with the position, the author and the time that JSON members receive.
const JSON_FRAME_BYTES: usize = 256;
/// What a member of a stream receives of a message, with the chunk's header.
const STREAM_BYTES: usize = 256;
/// How long each row is measured, unless the command line says otherwise.
const TIME: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(700);
/// The clients answer no pings, and expect nothing but publications, so nothing else is sent.
const STENTOR: &str = "serve --listen {listen} --log error --ping-interval 0s --join-leave=false \
     --max-session-messages-per-second 0 --max-session-commands-per-second 0";

/// The rows of the tables in ARCHITECTURE.md and in docs/benchmarks.md.
const TABLES: [(&str, &[&str]); 4] = [
    ("table", &["one", "open", "large", "one-4k", "open-4k", "large-4k"]),
    ("json", &["one-json", "open-json", "ten-json", "flood-json", "large-json"]),
    ("rooms", &["rooms-plain", "rooms-json"]),
    ("streams", &["open-events", "open-lines", "flood-events", "flood-lines"]),
];

/// What to measure.
pub struct Plan {
    rows: Vec<String>,
    /// How often each row is measured.
    pub rounds: usize,
    /// How long each row is measured.
    pub time: Duration,
    /// An older build and its arguments: it is compared with this one, and there is no floor.
    old: Option<(String, String)>,
    program: String,
    arguments: String,
    /// What Stentor runs on, one after the other in each round. Another server is run as it is.
    drivers: Vec<String>,
    /// Where what is measured is written.
    pub recorder: Recorder,
}

impl Plan {
    /// From the command line.
    pub fn parse(arguments: &[String]) -> Self {
        let mut plan = Self {
            rows: Vec::new(),
            rounds: 3,
            time: TIME,
            old: None,
            program: env!("CARGO_BIN_EXE_stentor").to_owned(),
            arguments: STENTOR.to_owned(),
            drivers: vec!["epoll".to_owned(), "uring".to_owned()],
            recorder: Recorder::default(),
        };
        let mut record = None;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().cloned().unwrap_or_default();
            match argument.as_str() {
                "--rounds" => plan.rounds = value().parse().unwrap_or(3),
                "--seconds" => plan.time = value().parse().map_or(TIME, Duration::from_secs_f64),
                "--server" => {
                    plan.program = value();
                    plan.drivers = vec![String::new()];
                }
                "--arguments" => plan.arguments = value(),
                "--old" => plan.old = Some((value(), plan.arguments.clone())),
                "--old-arguments" => {
                    let arguments = value();
                    plan.old = plan.old.map(|(program, _)| (program, arguments));
                }
                "--record" => record = Some(value().into()),
                "--driver" => plan.drivers = value().split(',').map(str::to_owned).collect(),
                row => match TABLES.iter().find(|(table, _)| *table == row) {
                    Some((_, rows)) => plan.rows.extend(rows.iter().map(|&row| row.to_owned())),
                    None => plan.rows.push(row.to_owned()),
                },
            }
        }
        if let Some(path) = record {
            plan.recorder = Recorder::create(path, plan.rounds, plan.time.as_secs_f64());
        }
        plan
    }

    /// Whether a row is to be measured.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }

    /// The old build for 0, this one for 1.
    pub fn serve_one_of_two(&self, which: usize, driver: &str) -> Server {
        match &self.old {
            Some((program, arguments)) if which == 0 => {
                Server::start(program, arguments, &["--shards", "1", "--driver", driver])
            }
            Some(_) | None => self.serve(driver, &["--shards", "1"]),
        }
    }

    /// This build on `driver`, with more arguments.
    pub fn serve(&self, driver: &str, more: &[&str]) -> Server {
        let driver = if driver.is_empty() { Vec::new() } else { vec!["--driver", driver] };
        Server::start(&self.program, &self.arguments, &[more, &driver].concat())
    }
}

/// Work on one shard.
pub struct Row {
    /// What it is called on the command line.
    pub name: &'static str,
    topology: Topology,
    frame_bytes: usize,
    pace: Pace,
}

/// What a row costs.
#[derive(Clone, Copy, Default, Debug)]
pub struct Measured {
    /// CPU microseconds of the server for each delivery.
    pub cost: f64,
    /// Milliseconds from publishing to receiving that 99 of 100 deliveries took at most.
    pub p99_ms: f64,
    per_second: f64,
}

impl Row {
    /// Its members join, publish and leave.
    pub fn measure(&self, plan: &Plan, server: &Server, source: u8) -> Measured {
        let mut client = members_of(server, self.topology, 0, source, Settings::default(), self.frame_bytes);
        let (cost, mut seen) = measure(plan, server, &mut client, self.pace);
        Measured { cost, p99_ms: millis(seen.p99()), per_second: rate(&seen) }
    }

    /// Whether more is published than can be written one by one.
    pub const fn is_flood(&self) -> bool {
        matches!(self.pace, Pace::Closed { window: 2.., .. })
    }

    fn floor(&self, plan: &Plan, source: u8) -> f64 {
        // Batches are the server's to form: the floor of every closed row is one message at a time.
        let pace = if matches!(self.pace, Pace::Closed { .. }) { Pace::OneAtATime } else { self.pace };
        let topology = Topology { protocol: Protocol::Bare, ..self.topology };
        let server = Server::bare(topology.members, self.frame_bytes, topology.audience());
        measure(plan, &server, &mut against_bare(&server, topology, source, self.frame_bytes), pace).0
    }
}

fn rows() -> Vec<Row> {
    let row = |name, topology, frame_bytes, pace| Row { name, topology, frame_bytes, pace };
    let (open, sparse) = (Pace::Open(200), Pace::Open(5));
    let ten = |window| Pace::Closed { publishers: 10, window };
    let some = |protocol| Topology::together(protocol, 1000);
    let many = |protocol| Topology::together(protocol, 15_000);
    let small = FRAME_BYTES;
    let plain_tens = Topology { protocol: Plain, members: 15_000, rooms: 1_500, rooms_per_member: 1 };
    let json_tens = Topology { protocol: Json, members: 10_000, rooms: 10_000, rooms_per_member: 10 };
    vec![
        row("one", some(Plain), small, Pace::OneAtATime),
        row("open", some(Plain), small, open),
        row("ten", some(Plain), small, ten(1)),
        row("flood", some(Plain), small, ten(16)),
        row("large", many(Plain), small, sparse),
        row("one-4k", some(Plain), LARGE_FRAME_BYTES, Pace::OneAtATime),
        row("open-4k", some(Plain), LARGE_FRAME_BYTES, open),
        row("large-4k", many(Plain), LARGE_FRAME_BYTES, sparse),
        row("one-json", some(Json), JSON_FRAME_BYTES, Pace::OneAtATime),
        row("open-json", some(Json), JSON_FRAME_BYTES, open),
        row("ten-json", some(Json), JSON_FRAME_BYTES, ten(1)),
        row("flood-json", some(Json), JSON_FRAME_BYTES, ten(16)),
        row("large-json", many(Json), JSON_FRAME_BYTES, sparse),
        row("rooms-plain", plain_tens, small, Pace::Open(150)),
        row("rooms-json", json_tens, JSON_FRAME_BYTES, Pace::Open(1000)),
    ]
}

/// Measures and prints. Whether everything is within its bounds, where there are any.
pub fn run(plan: &Plan) -> bool {
    pin_client();
    let rows = rows().into_iter().filter(|row| plan.wants(row.name));
    if plan.old.is_some() {
        print_head(plan.rounds);
        let each = rows.flat_map(|row| {
            plan.drivers.iter().map(|driver| compare(plan, &row, driver)).collect::<Vec<_>>()
        });
        return each.filter(|fine| !fine).count() == 0;
    }
    println!("{:<34}{:>10}{:>10}{:>8}  also", "row", "floor µs", "server µs", "ratio");
    rows.for_each(|row| ratio(plan, &row));
    let one = ["--shards", "1"];
    let two = ["--shards", "2"];
    for driver in &plan.drivers {
        stuck(plan, driver);
        between(plan, driver, "one-two-shards", Pace::OneAtATime, (&one, &two));
        between(plan, driver, "ten-two-shards", Pace::Closed { publishers: 10, window: 1 }, (&one, &two));
        deflate(plan, driver);
        idle(plan, driver);
        for (row, protocol, pace) in STREAMS {
            stream(plan, driver, row, protocol, pace);
        }
        super::posts::run(plan, driver);
    }
    true
}

/// CPU for each delivery on one shard, beside the floor's.
fn ratio(plan: &Plan, row: &Row) {
    // Of each driver, and the floor's beside each.
    let mut rounds: Vec<Vec<[f64; 4]>> = vec![Vec::new(); plan.drivers.len()];
    for round in 0..plan.rounds {
        let source = 2 + 3 * u8::try_from(round % 80).unwrap_or(0);
        let floor = row.floor(plan, source);
        for (index, (driver, rounds)) in plan.drivers.iter().zip(&mut rounds).enumerate() {
            let server = plan.serve(driver, &["--shards", "1"]);
            let Measured { cost, p99_ms, per_second } =
                row.measure(plan, &server, source + 1 + u8::try_from(index % 2).unwrap_or(0));
            rounds.push([floor, cost, p99_ms, per_second]);
        }
    }
    for (driver, rounds) in plan.drivers.iter().zip(&rounds) {
        let [floor, cost, p99, per_second] = medians(rounds);
        let sweep = floor * to_f64(row.topology.audience() as u64) / 1000.0;
        println!(
            "{:<34}{floor:>10.2}{cost:>10.2}{:>8.3}  p99 {p99:.1} ms, one sweep {sweep:.1} ms, {per_second:.0} messages/s",
            label(row.name, driver),
            cost / floor
        );
        plan.recorder.row(
            row.name,
            driver,
            &[
                ("floor_us", floor),
                ("server_us", cost),
                ("ratio", cost / floor),
                ("p99_ms", p99),
                ("floor_pass_ms", sweep),
                ("messages_per_s", per_second),
            ],
        );
    }
}

/// A row and what it ran on.
pub fn label(row: &str, driver: &str) -> String {
    if driver.is_empty() { row.to_owned() } else { format!("{row} {driver}") }
}

/// The same work with two configurations.
fn between(plan: &Plan, driver: &str, row: &str, pace: Pace, (base, other): (&[&str], &[&str])) {
    if !plan.wants(row) {
        return;
    }
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    for round in 0..plan.rounds {
        let mut costs = [0.0; 4];
        for (index, arguments) in [base, other].into_iter().enumerate() {
            let server = plan.serve(driver, arguments);
            let source = 2 + 2 * u8::try_from(round % 100).unwrap_or(0);
            let (cost, mut seen) =
                measure(plan, &server, &mut a_thousand(&server, source, Settings::default()), pace);
            costs[index] = cost;
            costs[index + 2] = millis(seen.p99());
        }
        rounds.push(costs);
    }
    let [base, other, _, p99] = medians(&rounds);
    println!(
        "{:<34}{base:>10.2}{other:>10.2}{:>8.3}  p99 {p99:.1} ms (the first column is one shard)",
        label(row, driver),
        other / base
    );
    let values = [("one_shard_us", base), ("server_us", other), ("ratio", other / base), ("p99_ms", p99)];
    plan.recorder.row(row, driver, &values);
}

/// Streams beside WebSocket.
const STREAMS: [(&str, Protocol, Pace); 4] = [
    ("open-events", Events, Pace::Open(200)),
    ("open-lines", Lines, Pace::Open(200)),
    ("flood-events", Events, Pace::Closed { publishers: 10, window: 16 }),
    ("flood-lines", Lines, Pace::Closed { publishers: 10, window: 16 }),
];

/// Members that receive a stream, against members with a WebSocket, with as many bytes for each delivery.
fn stream(plan: &Plan, driver: &str, row: &str, protocol: Protocol, pace: Pace) {
    if !plan.wants(row) {
        return;
    }
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    for round in 0..plan.rounds {
        let mut costs = [0.0; 4];
        // The order changes, as the machine does.
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let server = plan.serve(driver, &["--shards", "1"]);
            let source = 2 + 2 * u8::try_from(round % 100).unwrap_or(0);
            let topology = Topology::together([Plain, protocol][index], 1000);
            let mut client = members_of(&server, topology, 0, source, Settings::default(), STREAM_BYTES);
            let (cost, mut seen) = measure(plan, &server, &mut client, pace);
            costs[index] = cost;
            if index == 1 {
                costs[3] = millis(seen.p99());
            }
        }
        costs[2] = costs[1] / costs[0];
        rounds.push(costs);
    }
    let [websocket, cost, ratio, p99] = medians(&rounds);
    println!(
        "{:<34}{websocket:>10.2}{cost:>10.2}{ratio:>8.3}  p99 {p99:.1} ms (the first column is WebSocket)",
        label(row, driver),
    );
    let values = [("websocket_us", websocket), ("server_us", cost), ("ratio", ratio), ("p99_ms", p99)];
    plan.recorder.row(row, driver, &values);
}

/// Every member takes compressed frames, against none that does.
fn deflate(plan: &Plan, driver: &str) {
    if !plan.wants("deflate") {
        return;
    }
    let fields: Vec<_> = (0..12).map(|i| format!("\"field-{i}\":\"value {}\"", i * 7919 % 1000)).collect();
    let mut text = format!("{{{}}}", fields.join(","));
    text.truncate(498);
    let text = format!("{text:.<499}}}");
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    for round in 0..plan.rounds {
        let mut costs = [0.0; 4];
        for (index, deflate) in [false, true].into_iter().enumerate() {
            let server = plan.serve(driver, &["--shards", "1"]);
            let source = 2 + 2 * u8::try_from(round % 100).unwrap_or(0);
            let settings = Settings { deflate, ..Settings::default() };
            let mut client = a_thousand(&server, source, settings).publishing(&text);
            costs[index] = measure(plan, &server, &mut client, Pace::OneAtATime).0;
        }
        rounds.push(costs);
    }
    let [plain, deflated, ..] = medians(&rounds);
    println!(
        "{:<34}{plain:>10.2}{deflated:>10.2}{:>8.3}  {} bytes of JSON (the first column is uncompressed)",
        label("deflate", driver),
        deflated / plain,
        text.len()
    );
    let values = [("uncompressed_us", plain), ("server_us", deflated), ("ratio", deflated / plain)];
    plan.recorder.row("deflate", driver, &values);
}

/// A tenth of the members never reads.
fn stuck(plan: &Plan, driver: &str) {
    if !plan.wants("stuck") {
        return;
    }
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    for round in 0..plan.rounds {
        let source = 2 + 2 * u8::try_from(round % 100).unwrap_or(0);
        let mut result = [0.0; 4];
        for (index, silent) in [0, 100].into_iter().enumerate() {
            let server = plan.serve(driver, &["--shards", "1"]);
            let topology = Topology::together(Plain, 1000 - silent);
            let mut client = members_of(&server, topology, silent, source, Settings::default(), FRAME_BYTES);
            assert_eq!(client.silent(), silent);
            client.drive(Pace::Open(200), WARM_UP);
            let before = server.rss_bytes();
            // Long enough for the kernel's buffers to fill, and the room's log after them.
            let mut seen = client.drive(Pace::Open(200), 4 * TIME);
            result[index] = millis(seen.p99());
            result[2] = to_f64(server.rss_bytes().saturating_sub(before)) / 1048576.0;
        }
        rounds.push(result);
    }
    let [without, with, grown, _] = medians(&rounds);
    println!(
        "{:<34}{:>10}{:>10}{:>8.3}  p99 {without:.1} ms without, {with:.1} ms with 100 that never read; RSS grew {grown:.1} MiB",
        label("stuck", driver),
        "",
        "",
        with / without
    );
    let values =
        [("p99_without_ms", without), ("p99_ms", with), ("ratio", with / without), ("grown_mib", grown)];
    plan.recorder.row("stuck", driver, &values);
}

/// The cost of an opening handshake, and of a silent member.
fn idle(plan: &Plan, driver: &str) {
    if !plan.wants("idle") {
        return;
    }
    const MEMBERS: usize = 15_000;
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    for round in 0..plan.rounds {
        let server = plan.serve(driver, &["--shards", "1"]);
        let source = 2 + 2 * u8::try_from(round % 100).unwrap_or(0);
        let come = |members| {
            let topology = Topology::together(Plain, members);
            members_of(&server, topology, 0, source, Settings::default(), FRAME_BYTES)
        };
        drop(come(100));
        let (cpu, rss) = (server.cpu_ns(), server.rss_bytes());
        let _members = come(MEMBERS);
        let each = to_f64(server.cpu_ns() - cpu) / 1000.0 / to_f64(MEMBERS as u64);
        let kib = to_f64(server.rss_bytes() - rss) / 1024.0 / to_f64(MEMBERS as u64);
        rounds.push([each, kib, 0.0, 0.0]);
    }
    let [each, kib, ..] = medians(&rounds);
    println!(
        "{:<34}{:>10}{each:>10.2}{:>8}  CPU µs for each handshake; {kib:.3} KiB RSS for each member",
        label("idle", driver),
        "",
        ""
    );
    plan.recorder.row("idle", driver, &[("handshake_us", each), ("member_kib", kib)]);
}

/// CPU microseconds for each delivery, after a warm-up.
fn measure(plan: &Plan, server: &Server, client: &mut Client, pace: Pace) -> (f64, Seen) {
    client.drive(pace, WARM_UP);
    let before = server.cpu_ns();
    let seen = client.drive(pace, plan.time);
    let cost = to_f64(server.cpu_ns() - before) / 1000.0 / to_f64(seen.deliveries);
    (cost, seen)
}

fn against_bare(server: &Server, topology: Topology, source: u8, frame_bytes: usize) -> Client {
    let open = || {
        let socket = connect(server.address, source).expect("the floor listens");
        socket.set_nonblocking(true).expect("a socket");
        TcpStream::from_std(socket.into())
    };
    let publisher = open();
    let streams = (0..topology.members).map(|_| open()).collect();
    Client::new(topology, streams, Some(publisher), Vec::new(), frame_bytes)
}

fn a_thousand(server: &Server, source: u8, settings: Settings) -> Client {
    members_of(server, Topology::together(Plain, 1000), 0, source, settings, FRAME_BYTES)
}

/// Members, and others in the same rooms that will never read. Publishers are spread evenly among the others.
fn members_of(
    server: &Server,
    topology: Topology,
    silent: usize,
    source: u8,
    settings: Settings,
    frame_bytes: usize,
) -> Client {
    let stride = (topology.members / 10).max(1);
    let mut order: Vec<usize> = (0..topology.members).collect();
    order.sort_by_key(|&index| if index < 10 { index * stride } else { index });
    let streams = upgrade(server, source, topology, &order, settings);
    let mut streams: Vec<_> = order.into_iter().zip(streams).collect();
    streams.sort_by_key(|(index, _)| *index);
    let silent: Vec<usize> = (0..silent).map(|index| 9000 + index % 1000).collect();
    let silent = upgrade(server, source, topology, &silent, Settings { narrow: true, ..settings });
    Client::new(topology, streams.into_iter().map(|(_, stream)| stream).collect(), None, silent, frame_bytes)
}

fn rate(seen: &Seen) -> f64 {
    to_f64(seen.published) / seen.elapsed.as_secs_f64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "figures for readers")]
pub fn to_f64(value: u64) -> f64 {
    value as f64
}

/// The median of each column.
pub fn medians(rounds: &[[f64; 4]]) -> [f64; 4] {
    std::array::from_fn(|column| {
        let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}
