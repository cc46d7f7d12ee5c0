//! A running server for tests, and third-party clients.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "each test program uses a part of it"
)]

pub mod http;
pub mod json;
pub mod sources;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

#[expect(clippy::disallowed_types, reason = "a blocking client")]
pub type Tcp = std::net::TcpStream;

/// The program under test.
pub fn stentor() -> Command {
    with_settings_of_tests(Command::new(env!("CARGO_BIN_EXE_stentor")))
}

/// The same for a command that starts it: none of our own settings, but the driver.
fn with_settings_of_tests(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("STENTOR_")) {
        command.env_remove(key);
    }
    command.env("STENTOR_DRIVER", driver());
    // Tests flood; those of the bounds set them as flags, which are stronger.
    command.env("STENTOR_MAX_SESSION_MESSAGES_PER_SECOND", "0");
    command.env("STENTOR_MAX_SESSION_COMMANDS_PER_SECOND", "0");
    // Those of the shutdown choose their delay.
    command.env("STENTOR_SHUTDOWN_DELAY", "0s");
    command
}

/// The driver of the servers: io_uring in the test programs whose names end in `_uring`, else epoll. Where
/// there is no io_uring, see [`has_uring`], such a program ends at once instead of testing epoll under the
/// other's name.
pub fn driver() -> &'static str {
    if !env!("CARGO_CRATE_NAME").ends_with("_uring") {
        return "epoll";
    }
    if !has_uring() {
        std::process::exit(0);
    }
    "uring"
}

/// With this variable, what needs io_uring is skipped where there is none: `test.sh` sets it, and reports
/// what was skipped. (It does not begin with `STENTOR_`, as a server that inherits it would take it for a
/// mistyped setting.)
const ALLOW_NO_URING: &str = "TESTS_ALLOW_NO_URING";

/// With this variable there is no io_uring, as far as the tests know.
const FORBID_URING: &str = "TESTS_FORBID_URING";

/// Whether io_uring can be used here. If not, a line that begins with `SKIPPED: ` has the reason, once.
///
/// # Panics
/// When it cannot be used and [`ALLOW_NO_URING`] is not set.
pub fn has_uring() -> bool {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    static REPORTED: Once = Once::new();
    let Err(error) = OUTCOME.get_or_init(probe_uring) else { return true };
    let program = env!("CARGO_CRATE_NAME");
    assert!(
        std::env::var_os(ALLOW_NO_URING).is_some(),
        "io_uring cannot be used here: {error}; with {ALLOW_NO_URING}=1, {program} skips what needs it"
    );
    REPORTED.call_once(|| {
        // Not with `eprintln!`, which the test harness would keep for itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {program}: io_uring cannot be used here: {error}");
    });
    false
}

fn probe_uring() -> Result<(), String> {
    if std::env::var_os(FORBID_URING).is_some() {
        return Err(format!("{FORBID_URING} is set"));
    }
    // In a thread of its own: a ring that goes away interrupts the calls of the thread that made it.
    let probe = std::thread::Builder::new().spawn(|| stentor::driver::IoBackend::uring(64).map(drop));
    probe.expect("a thread").join().expect("an answer").map_err(|error| error.to_string())
}

/// Runs one test of this program where no io_uring is to be had: whether it passes, and all that it prints.
pub fn run_without_uring(test: &str, allow: bool) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args(["--exact", test]).env(FORBID_URING, "1").env_remove(ALLOW_NO_URING);
    if allow {
        command.env(ALLOW_NO_URING, "1");
    }
    let output = command.output().expect("it runs");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), printed)
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    log: BufReader<UnixStream>,
    /// What it logged until it listened.
    pub start_log: Vec<String>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = stentor();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]).args(arguments);
        Self::from(command)
    }

    /// Starts `command`, whose log is JSON, and waits until it listens.
    pub fn from(command: Command) -> Self {
        // A socket and no pipe: a test that waits for a line that never comes fails instead of hanging.
        let (log, stderr) = UnixStream::pair().expect("a pair of sockets");
        log.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let stderr = Stdio::from(OwnedFd::from(stderr));
        let child = with_settings_of_tests(command).stderr(stderr).spawn().expect("the server starts");
        let mut log = BufReader::new(log);
        let start_log = lines_until(&mut log, "\"listening\"");
        let line = start_log.last().expect("at least that line");
        let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let address = address.and_then(|address| address.parse().ok()).expect("an address in the log");
        Self { child, log, start_log, address }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Bytes of memory that it has now (`VmRSS`).
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// The time that it has used of a CPU.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("its name ends").split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// From now on the server gets no descriptor whose number is not below `max`.
    pub fn limit_descriptors(&self, max: u64) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        let limit = Rlimit { current: Some(max), maximum: Some(max) };
        prlimit(Some(pid), Resource::Nofile, limit).expect("it is ours");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// Reads the log up to a line with `part` in it, and returns that.
    pub fn log_line(&mut self, part: &str) -> String {
        wait_for(&mut self.log, part)
    }

    /// Reads the log up to a line with `part` in it, and returns all that was read.
    pub fn log_until(&mut self, part: &str) -> Vec<String> {
        lines_until(&mut self.log, part)
    }

    /// A raw connection; reads fail after ten seconds instead of hanging.
    pub fn raw(&self) -> Tcp {
        let stream = Tcp::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        stream
    }

    pub fn client(&self, path: &str) -> WebSocket<Tcp> {
        self.try_client(path, &[]).expect("a handshake").0
    }

    pub fn try_client(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(WebSocket<Tcp>, Response), String> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a value"));
        }
        tungstenite::client(request, self.raw()).map_err(|error| error.to_string())
    }

    /// Sends one request and returns the whole answer, which ends the connection.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = self.raw();
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        answer
    }

    pub fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))
    }

    /// One number of `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str) -> u64 {
        metric(&self.get("/metrics"), name)
    }
}

/// One number of a page of metrics, which must be there, summed over its labels.
pub fn metric(page: &str, name: &str) -> u64 {
    let lines =
        page.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    let values: Vec<u64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(!values.is_empty(), "there is no metric {name}");
    values.iter().sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file with that content, which is there as long as the value, and its path.
pub fn file(content: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("it is written");
    let path = file.path().display().to_string();
    (file, path)
}

/// The path of a key, or a certificate, that is only for tests.
pub fn key(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The secret that tokens in tests are signed with.
pub const SECRET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/secret");

/// A token that the program itself makes.
pub fn token(arguments: &[&str]) -> String {
    let make = ["token", "make", "--token-hmac-secret-files", SECRET];
    let output = stentor().args(make).args(arguments).output().expect("the program runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("a token").trim_end().to_owned()
}

/// The lines up to the one with `part` in it.
fn lines_until(log: &mut impl BufRead, part: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(
            log.read_line(&mut line).expect("a log") > 0,
            "the log ended before {part}: {}",
            lines.concat()
        );
        let found = line.contains(part);
        lines.push(line);
        if found {
            return lines;
        }
    }
}

fn wait_for(log: &mut impl BufRead, part: &str) -> String {
    lines_until(log, part).pop().expect("at least that line")
}

/// The next text; pings are answered on the way.
pub fn text(client: &mut WebSocket<Tcp>) -> String {
    loop {
        match client.read().expect("a message") {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// The code of the Close that comes next.
pub fn close_code(client: &mut WebSocket<Tcp>) -> u16 {
    loop {
        match client.read() {
            Ok(Message::Close(frame)) => return frame.map_or(1005, |frame| frame.code.into()),
            Ok(_) => {}
            Err(error) => panic!("no Close frame: {error}"),
        }
    }
}
