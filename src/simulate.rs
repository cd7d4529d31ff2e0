//! `servesim simulate`: what will this deployment do under this traffic.

use crate::output::{self, Format, WholeFile};
use crate::rows::{self, RowWriter};
use crate::run_output::RunOutput;
use crate::table;
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reports::rows::StepRow;
use sim::replica::StepRecord;
use sim::scenario::Scenario;
use sim::simulation::RunObserver;
use sim::tenants::Tenants;
use sim::units::SimTime;
use sim::workload::Arrival;
use sim::workload::trace::write_arrival;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
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
    /// Leave out the error band, which takes two more runs
    #[arg(long)]
    no_band: bool,
    /// Keep the run in this new folder, for `servesim report` and `servesim compare`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write the page of the run to this .html file, as `servesim report` makes it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Simulate under this many seeds, starting with the scenario's: means with 95 % intervals
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["out", "report", "requests_out", "steps_out", "trace_out"])]
    seeds: Option<u32>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(seeds) = arguments.seeds {
        return crate::compare::over_seeds(&arguments.scenario, &arguments.set, seeds, arguments.format);
    }
    let scenario = Scenario::load(&arguments.scenario, &arguments.set)?;
    check_apart(arguments)?;
    let create = |path: &Option<PathBuf>| path.as_deref().map(RowWriter::create).transpose();
    let requests_out = create(&arguments.requests_out)?;
    let trace_out = arguments.trace_out.as_deref().map(WholeFile::create).transpose()?;
    let page = arguments.report.as_deref().map(WholeFile::create).transpose()?;
    // A page is made of a run's folder: where none is kept, of one that is gone when the page is there.
    let passing = (page.is_some() && arguments.out.is_none()).then(tempfile::tempdir).transpose()?;
    let kept = match &passing {
        Some(passing) => Some(passing.path().join("run")),
        None => arguments.out.clone(),
    };
    let folder = kept.as_deref().map(RunOutput::create).transpose()?;
    let mut steps_out: Vec<RowWriter> = create(&arguments.steps_out)?.into_iter().collect();
    if let Some(folder) = &folder {
        steps_out.push(folder.steps_writer()?);
    }
    let mut watcher = Watcher::new(steps_out, trace_out, scenario.expected_requests());
    watcher.tenants = scenario.tenants.clone();
    // A run that is kept, or whose requests are written, needs its rows.
    let run = match (&requests_out, &folder) {
        (None, None) => scenario.simulate_for_report(&mut watcher)?,
        _ => scenario.simulate(&mut watcher)?,
    };
    watcher.finish()?;
    if let Some(writer) = requests_out {
        rows::write_requests(writer, &run.table)?;
    }
    let mut report = scenario.report(&run);
    if !arguments.no_band {
        report.error_band = scenario.error_band(&run)?;
    }
    if let Some(folder) = folder {
        folder.finish(&scenario, &run, &report)?;
    }
    if let (Some(page), Some(kept)) = (page, kept) {
        crate::report::write_page(page, &kept)?;
    }
    match arguments.format {
        Format::Json => output::print_json(&report)?,
        Format::Text => output::print(&table::report(&report))?,
    }
    for warning in &report.warnings {
        output::note(&format!("warning: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Each file is written to for one purpose.
fn check_apart(arguments: &Arguments) -> Result<()> {
    let files = [
        ("--requests-out", &arguments.requests_out),
        ("--steps-out", &arguments.steps_out),
        ("--trace-out", &arguments.trace_out),
        ("--out", &arguments.out),
        ("--report", &arguments.report),
    ];
    for (index, (name, file)) in files.iter().enumerate().filter(|(_, (_, file))| file.is_some()) {
        let same = |other: &Option<PathBuf>| other.as_deref().map(followed) == file.as_deref().map(followed);
        if let Some((earlier, _)) = files[..index].iter().find(|(_, other)| same(other)) {
            bail!("{name}: found the same name as for {earlier}, expected another");
        }
    }
    Ok(())
}

/// What a path names in the end; a link to a file and the file are one.
fn followed(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = || Some(std::fs::canonicalize(folder).ok()?.join(path.file_name()?));
    std::fs::canonicalize(path).ok().or_else(beside).unwrap_or_else(|| path.to_path_buf())
}

/// A run shorter than this shows no progress.
const QUIET: Duration = Duration::from_millis(700);

/// Writes steps and arrivals, and shows progress.
struct Watcher {
    steps_out: Vec<RowWriter>,
    trace_out: Option<WholeFile>,
    tenants: Option<Arc<Tenants>>,
    arrivals: u64,
    failure: Option<anyhow::Error>,
    expected_requests: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
    events: u64,
}

impl Watcher {
    fn new(
        steps_out: Vec<RowWriter>,
        trace_out: Option<WholeFile>,
        expected_requests: Option<u64>,
    ) -> Watcher {
        Watcher {
            steps_out,
            trace_out,
            tenants: None,
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
        self.steps_out.into_iter().try_for_each(RowWriter::finish)?;
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
        !self.steps_out.is_empty()
    }

    fn arrival(&mut self, arrival: &Arrival) {
        let tenant =
            self.tenants.as_ref().and_then(|tenants| tenants.members.get(usize::from(arrival.tenant)));
        if let Some(file) = &mut self.trace_out
            && self.failure.is_none()
            && let Err(error) = write_arrival(file, self.arrivals, arrival, tenant.map(|t| t.name.as_str()))
        {
            self.failure = Some(error.into());
        }
        self.arrivals += 1;
    }

    fn step(&mut self, step: &StepRecord<'_>) {
        if self.steps_out.is_empty() || self.failure.is_some() {
            return;
        }
        let row = StepRow::new(step);
        for writer in &mut self.steps_out {
            if let Err(error) = writer.write(&row) {
                self.failure = Some(error);
            }
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
