//! `servesim simulate`: what will this deployment do under this traffic.

use crate::output::{self, Format, WholeFile};
use crate::rows::{self, RowWriter, StepRow};
use crate::table;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sim::replica::StepRecord;
use sim::scenario::Scenario;
use sim::simulation::RunObserver;
use sim::units::SimTime;
use sim::workload::Arrival;
use sim::workload::trace::write_arrival;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `simulate`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A scenario file, or the name of a ready-made one (`servesim list scenarios`)
    scenario: String,
    /// Override a key of the scenario, for example --set engine.max_num_seqs=128
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write one row per request to this .csv or .jsonl file
    #[arg(long, value_name = "FILE")]
    requests_out: Option<PathBuf>,
    /// Write one row per step to this .csv or .jsonl file
    #[arg(long, value_name = "FILE")]
    steps_out: Option<PathBuf>,
    /// Write the requests as a trace that a scenario can replay (see docs/traces.md)
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scenario = Scenario::load(&arguments.scenario, &arguments.set)?;
    let create = |path: &Option<PathBuf>| path.as_deref().map(RowWriter::create).transpose();
    let requests_out = create(&arguments.requests_out)?;
    let trace_out = arguments.trace_out.as_deref().map(WholeFile::create).transpose()?;
    let mut watcher = Watcher::new(create(&arguments.steps_out)?, trace_out, scenario.expected_requests());
    let run = match &requests_out {
        Some(_) => scenario.simulate(&mut watcher)?,
        None => scenario.simulate_for_report(&mut watcher)?,
    };
    watcher.finish()?;
    if let Some(writer) = requests_out {
        rows::write_requests(writer, &run.table)?;
    }
    let report = scenario.report(&run);
    match arguments.format {
        Format::Json => output::print_json(&report)?,
        Format::Text => output::print(&table::report(&report))?,
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A run shorter than this shows no progress.
const QUIET: Duration = Duration::from_millis(700);

/// Writes steps and arrivals, and shows progress.
struct Watcher {
    steps_out: Option<RowWriter>,
    trace_out: Option<WholeFile>,
    arrivals: u64,
    failure: Option<anyhow::Error>,
    expected_requests: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
    events: u64,
}

impl Watcher {
    fn new(
        steps_out: Option<RowWriter>,
        trace_out: Option<WholeFile>,
        expected_requests: Option<u64>,
    ) -> Watcher {
        Watcher {
            steps_out,
            trace_out,
            arrivals: 0,
            failure: None,
            expected_requests,
            started: Instant::now(),
            bar: None,
            events: 0,
        }
    }

    fn finish(self) -> Result<()> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.steps_out.map_or(Ok(()), RowWriter::finish)?;
        self.trace_out.map_or(Ok(()), WholeFile::finish)
    }

    fn new_bar(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(self.expected_requests, ProgressDrawTarget::stderr());
        let template = "{wide_bar} {human_pos}/{human_len} requests, {elapsed}, {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }
}

impl RunObserver for Watcher {
    fn watches_steps(&self) -> bool {
        self.steps_out.is_some()
    }

    fn arrival(&mut self, arrival: &Arrival) {
        if let Some(file) = &mut self.trace_out
            && self.failure.is_none()
            && let Err(error) = write_arrival(file, self.arrivals, arrival)
        {
            self.failure = Some(error.into());
        }
        self.arrivals += 1;
    }

    fn step(&mut self, step: &StepRecord<'_>) {
        if let Some(writer) = &mut self.steps_out
            && self.failure.is_none()
            && let Err(error) = writer.write(&StepRow::new(step))
        {
            self.failure = Some(error);
        }
    }

    fn progress(&mut self, now: SimTime, arrived_requests: u64, left_requests: u64) {
        self.events += 1;
        if !self.events.is_multiple_of(4096) || self.started.elapsed() < QUIET {
            return;
        }
        let bar = self.bar.take().unwrap_or_else(|| self.new_bar());
        bar.set_position(left_requests);
        let present = arrived_requests - left_requests;
        bar.set_message(format!("{:.0} s simulated, {present} in the system", now.0 as f64 / 1e9));
        self.bar = Some(bar);
    }
}
