//! A Stentor server for each test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::Run;

/// A server process, ended on drop.
pub struct Stentor {
    process: Child,
    pub url: String,
}

impl Stentor {
    /// Starts at a free port.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", arguments)
    }

    /// Starts at this address.
    pub fn start_at(address: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(binary())
            .args(["--listen", address, "--log-format", "json"])
            .args(["--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line: serde_json::Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
            if line["message"] == "listening" {
                break line["address"].as_str().unwrap().to_owned();
            }
        };
        // An unread pipe would block the server.
        std::thread::Builder::new().spawn(move || log.for_each(drop)).unwrap();
        Self { process, url: format!("ws://{address}") }
    }

    /// Its process id.
    pub fn pid(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for Stentor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server's binary: the path in `TESTS_STENTOR`, or built once. It belongs to the other package of this
/// workspace, which the tests of all packages together have built with other features.
fn binary() -> &'static Path {
    static BINARY: OnceLock<std::path::PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("TESTS_STENTOR") {
            return path.into();
        }
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "stentor", "--bin", "stentor"])
            .status();
        assert!(build.unwrap().success());
        Path::new(env!("CARGO_BIN_EXE_swarm")).with_file_name("stentor")
    })
}

pub const ERROR_METRICS: [&str; 6] =
    ["lost", "duplicated", "reordered", "order_mismatch", "misdelivered", "errors"];

/// Every message was received once and in order.
pub fn check_clean(run: &Run) {
    assert_eq!((run.metrics(ERROR_METRICS), run.code), ([0.0; 6], Some(0)), "{}", run.table);
}
