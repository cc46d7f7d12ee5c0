//! A Stentor of a test's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::Run;

/// A server of its own for each test; it ends with it.
pub struct Stentor {
    process: Child,
    pub url: String,
}

impl Stentor {
    /// At an address that is free.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", arguments)
    }

    /// The same at this address.
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
        // Whoever is not read would block.
        std::thread::Builder::new().spawn(move || log.for_each(drop)).unwrap();
        Self { process, url: format!("ws://{address}") }
    }

    /// Its process.
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

/// The server's binary: the one that `TESTS_STENTOR` names, or built here, once. It belongs to the other package of this
/// workspace, which the tests of all packages together have built anyway, with other features than it has alone.
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

pub const FAULTS: [&str; 6] = ["lost", "duplicated", "reordered", "crossed", "strayed", "errors"];

/// Everybody heard everything once and in order.
pub fn check_clean(run: &Run) {
    assert_eq!((run.metrics(FAULTS), run.code), ([0.0; 6], Some(0)), "{}", run.table);
}
