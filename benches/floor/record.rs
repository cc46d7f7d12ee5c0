//! Results as data: a line of JSON for each row, to be kept and compared.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::rows::label;

/// What a row has measured: medians of its rounds, by name and unit.
#[derive(Serialize, Deserialize)]
struct Record {
    row: String,
    /// Empty for a server that is not Stentor.
    driver: String,
    #[serde(flatten)]
    values: BTreeMap<String, f64>,
}

/// Where and how a file was recorded: its first line.
#[derive(Serialize)]
struct Head<'a> {
    version: &'a str,
    kernel: String,
    cpu: String,
    rounds: usize,
    seconds: f64,
}

/// A file that gets a line for each row, or none.
#[derive(Default)]
pub struct Recorder(Option<PathBuf>);

impl Recorder {
    /// Begins `path` anew.
    pub fn create(path: PathBuf, rounds: usize, seconds: f64) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease");
        let models = read("/proc/cpuinfo");
        let model = models.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let head = Head {
            version: env!("CARGO_PKG_VERSION"),
            // Without the name that a distribution has given it.
            kernel: release.trim().split('-').next().unwrap_or_default().to_owned(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            rounds,
            seconds,
        };
        let line = serde_json::to_string(&head).expect("plain values");
        fs::write(&path, line + "\n").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(Some(path))
    }

    /// Appends what a row has measured.
    pub fn row(&self, row: &str, driver: &str, values: &[(&str, f64)]) {
        let Some(path) = &self.0 else { return };
        let values = values.iter().map(|&(name, value)| (name.to_owned(), (value * 1000.0).round() / 1000.0));
        let record = Record { row: row.to_owned(), driver: driver.to_owned(), values: values.collect() };
        let line = serde_json::to_string(&record).expect("plain values") + "\n";
        let file = OpenOptions::new().append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Recordings of two runs vary by more than two builds in one run do: see [`super::compare`] for those.
const RATIO_MAX: f64 = 1.10;

/// Prints two recordings side by side. Whether no row's ratio to the floor has grown by more than
/// [`RATIO_MAX`].
pub fn compare(old: &str, new: &str) -> bool {
    let (old, new) = (read(Path::new(old)), read(Path::new(new)));
    let mut fine = true;
    println!("{:<22}{:<20}{:>12}{:>12}{:>9}", "row", "measured", "old", "new", "ratio");
    for before in &old {
        let Some(after) = new.iter().find(|it| it.row == before.row && it.driver == before.driver) else {
            continue;
        };
        for (name, &was) in &before.values {
            let Some(&is) = after.values.get(name) else { continue };
            let worse = name == "ratio" && is > was * RATIO_MAX;
            fine &= !worse;
            let row = label(&before.row, &before.driver);
            println!(
                "{row:<22}{name:<20}{was:>12.3}{is:>12.3}{:>9.3}{}",
                is / was,
                if worse { "  WORSE" } else { "" }
            );
        }
    }
    fine
}

/// The rows of a file, without its head.
fn read(path: &Path) -> Vec<Record> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().skip(1).filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}
