//! Messages that are published by request, `POST /send`, into rooms without members: requests a second on one
//! core.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use stentor_testkit::parse_response;

use super::client::connect;
use super::process::Server;
use super::protocol::{name_of, room_of};
use super::rows::{Plan, label, medians, to_f64};

/// Keep-alive connections.
const CONNECTIONS: usize = 32;

/// Requests in flight on each connection: as many as the server reads of one.
const PIPELINED: usize = 16;

/// How long the requests are sent before they are counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// What an answer begins with.
const ACCEPTED: &[u8] = b"HTTP/1.1 204 ";

/// The rows, and how many requests each connection has in flight.
const ROWS: [(&str, usize); 2] = [("send", 1), ("send-pipelined", PIPELINED)];

/// Measures and prints the rows that the plan wants.
pub fn run(plan: &Plan, driver: &str) {
    for (row, in_flight) in ROWS.into_iter().filter(|(row, _)| plan.wants(row)) {
        let mut rounds: Vec<[f64; 4]> = Vec::new();
        for round in 0..plan.rounds {
            let server = plan.serve(driver, &["--shards", "1"]);
            let source = 2 + u8::try_from(round % 200).unwrap_or(0);
            let mut senders = Senders::open(&server, source, in_flight);
            senders.send_for(WARM_UP);
            let before = server.cpu_ns();
            let (answers, elapsed) = senders.send_for(plan.time);
            let cost = to_f64(server.cpu_ns() - before) / 1000.0 / to_f64(answers);
            rounds.push([to_f64(answers) / elapsed.as_secs_f64(), cost, 0.0, 0.0]);
        }
        let [per_second, cost, ..] = medians(&rounds);
        println!(
            "{:<34}{:>10}{cost:>10.2}{:>8}  CPU µs for each request; {per_second:.0} requests/s on {CONNECTIONS} connections, {in_flight} in flight on each",
            label(row, driver),
            "",
            "",
        );
        plan.recorder.row(row, driver, &[("server_us", cost), ("requests_per_s", per_second)]);
    }
}

/// Connections that send requests, each the next ones when earlier ones are answered.
struct Senders {
    poll: Poll,
    streams: Vec<TcpStream>,
    /// For each connection, one request.
    requests: Vec<Vec<u8>>,
    /// For each connection, bytes of answers that are still to come.
    owed: Vec<usize>,
    /// Every answer has this length.
    answer_bytes: usize,
    in_flight: usize,
    buffer: Vec<u8>,
}

impl Senders {
    fn open(server: &Server, source: u8, in_flight: usize) -> Self {
        let poll = Poll::new().expect("a poller");
        let (mut streams, mut requests, mut answer_bytes) = (Vec::new(), Vec::new(), 0);
        for index in 0..CONNECTIONS {
            let text = "x".repeat(64);
            let request = format!(
                "POST /send/{}?room={} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{text}",
                name_of(index),
                room_of(index),
                text.len()
            )
            .into_bytes();
            let mut socket = connect(server.address, source).expect("the server listens");
            socket.write_all(&request).expect("the server reads");
            let mut answer = [0; 1024];
            let len = socket.read(&mut answer).expect("the server answers");
            let head = parse_response(&answer[..len]).expect("a whole answer");
            assert_eq!((head.status, head.len), (204, len), "{}", answer[..len].escape_ascii());
            assert!(answer_bytes == 0 || answer_bytes == len, "answers of different lengths");
            answer_bytes = len;
            socket.set_nonblocking(true).expect("a socket");
            let mut stream = TcpStream::from_std(socket.into());
            poll.registry().register(&mut stream, Token(index), Interest::READABLE).expect("a socket");
            streams.push(stream);
            requests.push(request.repeat(in_flight));
        }
        let owed = vec![0; CONNECTIONS];
        Self { poll, streams, requests, owed, answer_bytes, in_flight, buffer: vec![0; 64 * 1024] }
    }

    /// Sends for `time`, then receives what is owed. Returns the number of answers, and the time it took.
    #[expect(clippy::disallowed_methods, reason = "the client's own clock")]
    fn send_for(&mut self, time: Duration) -> (u64, Duration) {
        let begun = Instant::now();
        let mut received = 0;
        for index in 0..CONNECTIONS {
            self.send(index, self.in_flight);
        }
        let mut events = Events::with_capacity(CONNECTIONS);
        while self.owed.iter().any(|&owed| owed > 0) {
            let elapsed = begun.elapsed();
            assert!(elapsed < time + Duration::from_secs(20), "answers are missing");
            self.poll.poll(&mut events, Some(Duration::from_millis(100))).expect("a poller");
            for event in &events {
                let index = event.token().0;
                let before = self.owed[index];
                self.receive(index);
                // Answers that are whole now.
                let answers =
                    before.div_ceil(self.answer_bytes) - self.owed[index].div_ceil(self.answer_bytes);
                received += answers as u64;
                if elapsed < time {
                    self.send(index, answers);
                }
            }
        }
        (received, begun.elapsed())
    }

    fn send(&mut self, index: usize, count: usize) {
        let request = &self.requests[index];
        let mut bytes = &request[..request.len() / self.in_flight * count];
        while !bytes.is_empty() {
            match self.streams[index].write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("connection {index}: {error}"),
            }
        }
        self.owed[index] += count * self.answer_bytes;
    }

    fn receive(&mut self, index: usize) {
        loop {
            match self.streams[index].read(&mut self.buffer) {
                Ok(0) => panic!("the server closed connection {index}"),
                Ok(len) => {
                    // Behind the rest of an answer whole ones begin, and all have the same length.
                    let first = self.owed[index] % self.answer_bytes;
                    let answers = self.buffer[..len].get(first..).unwrap_or_default();
                    for answer in answers.chunks(self.answer_bytes) {
                        let status = &answer[..answer.len().min(ACCEPTED.len())];
                        assert!(ACCEPTED.starts_with(status), "{}", answer.escape_ascii());
                    }
                    let owed = self.owed[index].checked_sub(len);
                    self.owed[index] = owed.expect("an answer for each request");
                    if len < self.buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("connection {index}: {error}"),
            }
        }
    }
}
