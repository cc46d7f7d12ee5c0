//! Measures swarm's own capacity: a thread that only sends prepared blocks of frames is the fastest possible
//! server.

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;

use crate::cli::{self, Exit};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::display::Display;
use crate::options::Options;
use crate::pace;
use crate::plan::{Plan, Scenario};
use crate::result::{Files, Kind, Report};
use crate::stamp::Stamp;
use crate::unit::Unit;
use crate::units::{Sizes, Span};

/// Publishers in the prepared blocks.
const PUBLISHERS: u32 = 20;

/// Options of `sink`.
#[derive(Args, Clone, Debug)]
pub struct Sink {
    /// Number of clients
    #[arg(long, default_value_t = 1000)]
    clients: u32,
    /// Messages in each write
    #[arg(long, default_value_t = 20)]
    batch: u32,
    /// Message size in bytes
    #[arg(long, default_value = "96")]
    size: Sizes,
    /// Duration of the run
    #[arg(long, value_name = "TIME", default_value = "5s")]
    duration: Span,
    /// Cores of the writer and of the worker
    #[arg(long, value_name = "CORES", value_delimiter = ',', default_value = "0,1")]
    pin: Vec<usize>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

impl Sink {
    /// Executes the measurement. True if every message was received once and in order.
    ///
    /// # Errors
    /// One sentence that names the cause.
    pub fn run(&self) -> Result<Exit, String> {
        let text = |error: std::io::Error| error.to_string();
        let files = Files::open([(Kind::Json, self.json.as_deref())])?;
        let &[writer_core, worker_core] = &self.pin[..] else {
            return Err("--pin requires two cores: the writer's and the worker's".to_owned());
        };
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(text)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).map_err(text)?;
        listener.listen(1024).map_err(text)?;
        let address =
            listener.local_addr().map_err(text)?.as_socket().ok_or("a socket without an address")?;
        let options = Options {
            url: Some(format!("ws://{address}/")),
            clients: Some(self.clients),
            publishers: Some(PUBLISHERS.min(self.clients)),
            size: Some(self.size.clone()),
            duration: Some(self.duration),
            pin: vec![worker_core],
            workers: Some(1),
            ..Options::default()
        };
        let plan = Plan { receive_only: true, ..options.plan(Scenario::Chat)? };
        let over = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            plan: plan.clone(),
            batch: self.batch.max(1),
            core: writer_core,
            over: Arc::clone(&over),
        };
        let thread = std::thread::Builder::new().spawn(move || writer.run(&listener)).map_err(text)?;
        let coordinator =
            Coordinator::start(&plan, 1, Vec::new(), Display::new(false), cli::interrupt_flag()?)?;
        let outcome = coordinator.run();
        over.store(true, Ordering::Relaxed);
        let written = thread.join().map_err(|_| "the writer failed".to_owned())?;
        let (outcome, written) = (outcome?, written?);
        let report = Report::new(&plan, &outcome, &[], cli::command_line());
        let per_cpu = report.metric("swarm_cpu_per_delivery").map_or(0.0, |cpu| 1.0 / cpu);
        let table = format!(
            "{}  {:<17}{} per client\n  {:<17}{} per second of the worker's CPU\n",
            report.table(),
            "written",
            Unit::Count.format(f64::from(written)),
            "capacity",
            Unit::Count.format(per_cpu),
        );
        cli::print_beside(&table, files.use_standard_output())?;
        files.write(&report)?;
        let all = f64::from(written) * f64::from(self.clients);
        let passed = report.passed && report.metric("deliveries") == Some(all);
        Ok(if passed { Exit::Passed } else { Exit::Failed })
    }
}

struct Writer {
    plan: Plan,
    batch: u32,
    core: usize,
    over: Arc<AtomicBool>,
}

impl Writer {
    /// Sends for the duration of the plan; returns the number of messages per client.
    fn run(&self, listener: &Socket) -> Result<u32, String> {
        let text = |error: std::io::Error| format!("the writer failed: {error}");
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(self.core);
        rustix::thread::sched_setaffinity(None, &cores)
            .map_err(|error| format!("--pin {}: {error}", self.core))?;
        let mut sockets = Vec::new();
        for _ in 0..self.plan.clients {
            let (mut socket, _) = listener.accept().map_err(text)?;
            accept_handshake(&mut socket).map_err(text)?;
            socket.set_nonblocking(true).map_err(text)?;
            sockets.push(socket);
        }
        // The worker starts its stages shortly after the last client has connected.
        std::thread::sleep(Duration::from_millis(100));
        let end = clock::now() + pace::nanos(pace::length(&self.plan.stages)) - clock::SECOND / 5;
        let (mut published, mut block) = (0, Vec::new());
        while clock::now() < end && !self.over.load(Ordering::Relaxed) {
            block.clear();
            for _ in 0..self.batch {
                self.frame_into(&mut block, published);
                published += 1;
            }
            for socket in &mut sockets {
                write_all(socket, &block).map_err(text)?;
            }
        }
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10)); // the sockets stay open until everything is read
        }
        Ok(published)
    }

    fn frame_into(&self, block: &mut Vec<u8>, count: u32) {
        let publishers = self.plan.publishers;
        let stamp = Stamp {
            run: self.plan.run,
            publisher: count % publishers,
            sequence: count / publishers,
            intended_ns: clock::now(),
        };
        let mut text = b"client1: ".to_vec();
        stamp.text_into(self.plan.sizes.sample(count.wrapping_mul(0x9E37_79B9)), &mut text);
        block.push(0x81);
        match u16::try_from(text.len()) {
            Ok(len @ 0..=125) => block.push(len.to_be_bytes()[1]),
            Ok(len) => {
                block.push(126);
                block.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                block.push(127);
                block.extend_from_slice(&(text.len() as u64).to_be_bytes());
            }
        }
        block.extend_from_slice(&text);
    }
}

fn accept_handshake(socket: &mut Socket) -> std::io::Result<()> {
    let (mut head, mut bytes) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        let len = socket.read(&mut bytes)?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&bytes[..len]);
    }
    let head = String::from_utf8_lossy(&head);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(response.as_bytes())
}

/// Waits for a client that is behind: the writer is as fast as its readers.
fn write_all(socket: &mut Socket, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(socket, PollFlags::OUT)];
                let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
                if poll(&mut wait, Some(&limit))? == 0 {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
