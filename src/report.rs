//! `servesim report`: the page of a finished run.

use crate::output::{self, WholeFile};
use crate::sweep_file;
use anyhow::{Context, Result, bail};
use planner::sweep::Row;
use reports::RunFolder;
use reports::curve::CurvePoint;
use reports::numbers::grouped;
use reports::perfetto::Window;
use reports::run_charts::SloMarks;
use sim::document::Document;
use sim::scenario::ScenarioFile;
use sim::units::Span;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `report`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of a finished run, made by `servesim simulate SCENARIO --out FOLDER`
    run: PathBuf,
    /// Where to write the page [default: report.html in the run's folder]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Draw latency against throughput from this .csv or .jsonl file of `servesim sweep` into the page
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,
    /// Write a trace for the Perfetto UI (ui.perfetto.dev) to this .json file instead of the page
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
    /// Where the trace starts in the run, for example 10s
    #[arg(long, value_name = "TIME", requires = "perfetto")]
    from: Option<String>,
    /// Where the trace ends in the run
    #[arg(long, value_name = "TIME", requires = "perfetto")]
    until: Option<String>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let window = window(arguments)?;
    let run = RunFolder::read(&arguments.run)?;
    if let Some(path) = &arguments.perfetto {
        return write_trace(&run, window, path);
    }
    let curve = arguments.sweep.as_deref().map_or(Ok(Vec::new()), curve)?;
    let path = arguments.html.clone().unwrap_or_else(|| arguments.run.join("report.html"));
    let mut file = WholeFile::create(&path)?;
    file.write_all(reports::page::run_page(&run, &slo_marks(&run)?, &curve).as_bytes())?;
    file.finish()?;
    output::print(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The runs of a sweep that finished something.
fn curve(path: &Path) -> Result<Vec<CurvePoint>> {
    let (columns, rows) = sweep_file::read(path)?;
    let index = |name: &str| {
        let found = columns.iter().position(|column| column.name == name);
        found.with_context(|| format!("{}: has no column `{name}`", path.display()))
    };
    let (throughput, ttft, itl) =
        (index("output_tokens_per_s")?, index("ttft_p99_ms")?, index("itl_p99_ms")?);
    let point = |row: &Row| {
        let number = |index: usize| row.cells.get(index)?.parse::<f64>().ok();
        let (output_tokens_per_s, ttft_p99_ms) = (number(throughput)?, number(ttft)?);
        Some(CurvePoint { output_tokens_per_s, ttft_p99_ms, itl_p99_ms: number(itl)? })
    };
    Ok(rows.iter().filter_map(point).collect())
}

/// The part of the run that a trace shows.
fn window(arguments: &Arguments) -> Result<Window> {
    let time = |name: &str, text: &Option<String>| -> Result<Option<u64>> {
        let Some(text) = text else { return Ok(None) };
        Span::parse(text).map(|span| Some(span.0)).map_err(|error| anyhow::anyhow!("{name}: {error}"))
    };
    let from_ns = time("--from", &arguments.from)?.unwrap_or(Window::WHOLE.from_ns);
    let until_ns = time("--until", &arguments.until)?.unwrap_or(Window::WHOLE.until_ns);
    if until_ns <= from_ns {
        bail!("--until: found {}, expected more than --from {}", Span(until_ns), Span(from_ns));
    }
    Ok(Window { from_ns, until_ns })
}

fn write_trace(run: &RunFolder, window: Window, path: &Path) -> Result<ExitCode> {
    let mut file = WholeFile::create(path)?;
    let counts = reports::perfetto::write_trace(run, window, &mut file)?;
    file.finish()?;
    output::print(&format!(
        "{}: {} steps, {} requests; open it at ui.perfetto.dev\n",
        path.display(),
        grouped(counts.steps),
        grouped(counts.requests)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The limits of the scenario that ran.
fn slo_marks(run: &RunFolder) -> Result<SloMarks> {
    let file: ScenarioFile = Document::parse("scenario.yaml", &run.scenario)?.resolve()?;
    let ms = |span: Option<Span>| span.map(|span| span.0 as f64 / 1e6);
    Ok(SloMarks {
        ttft_ms: ms(file.slo.ttft),
        itl_ms: ms(file.slo.itl),
        tpot_ms: ms(file.slo.tpot),
        e2el_ms: ms(file.slo.e2el),
    })
}
