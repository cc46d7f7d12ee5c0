//! One run, from its options to its result.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli;
use crate::coordinator::{self, Coordinator};
use crate::display::Display;
use crate::options::Options;
use crate::plan::Scenario;
use crate::result::{Files, Kind, Report};

/// Executes a run. It ends early when `interrupted` is set.
///
/// # Errors
/// One sentence: the run could not be started.
pub fn run(scenario: Scenario, options: &Options, interrupted: &Arc<AtomicBool>) -> Result<Report, String> {
    let plan = options.plan(scenario)?;
    let workers = coordinator::size(&plan, options.workers)?;
    let (pids, display) = (options.server_pids.clone(), Display::new(options.quiet));
    let outcome = Coordinator::start(&plan, workers, pids, display, Arc::clone(interrupted))?.run()?;
    Ok(Report::new(&plan, &outcome, &options.thresholds, cli::command_line()))
}

/// Opens the files that the options request.
///
/// # Errors
/// One sentence that names the file.
pub fn files(options: &Options) -> Result<Files, String> {
    Files::open([
        (Kind::Json, options.json.as_deref()),
        (Kind::Hdr, options.hdr.as_deref()),
        (Kind::Html, options.html.as_deref()),
        (Kind::Junit, options.junit.as_deref()),
        (Kind::Prometheus, options.prometheus.as_deref()),
    ])
}
