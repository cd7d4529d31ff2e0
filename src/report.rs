//! `servesim report`: the page of a finished run.

use crate::output::{self, WholeFile};
use crate::place::Place;
use crate::sweep_file;
use anyhow::{Context, Result, bail};
use planner::sweep::Row;
use reports::RunFolder;
use reports::curve::CurvePoint;
use reports::drawing::file_name;
use reports::figures::RunFigures;
use reports::hardware::Hardware;
use reports::numbers::grouped;
use reports::perfetto::Window;
use reports::png::Painter;
use reports::run_charts::SloMarks;
use reports::tables;
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
    /// Draw latency against throughput from this file of `servesim sweep` into the page and the charts
    #[arg(long, value_name = "FILE")]
    sweep: Option<String>,
    /// Write a trace for the Perfetto UI (ui.perfetto.dev) to this .json file; the page then only with --html
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
    /// Write the tables requests.parquet and steps.parquet into this folder; the page then only with --html
    #[arg(long, value_name = "FOLDER")]
    parquet: Option<PathBuf>,
    /// Write the figures as SVG files into this folder; the page then only with --html
    #[arg(long, value_name = "FOLDER")]
    charts: Option<PathBuf>,
    /// Write the figures as PNG too
    #[arg(long, requires = "charts")]
    png: bool,
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
    if arguments.parquet.is_some() {
        reports::parquet::check().context("--parquet")?;
    }
    let painter = arguments.png.then(Painter::new).transpose().context("--png")?;
    let run = RunFolder::read(&arguments.run)?;
    let mut printed = String::new();
    if let Some(path) = &arguments.perfetto {
        printed += &write_trace(&run, window, path)?;
    }
    if let Some(folder) = &arguments.parquet {
        printed += &write_tables(&run, folder)?;
    }
    // The page is the answer when nothing else was asked for.
    let asks_page = arguments.html.is_some() || printed.is_empty() && arguments.charts.is_none();
    if asks_page || arguments.charts.is_some() {
        let slo = slo_marks(&run)?;
        let curve = arguments.sweep.as_deref().map_or(Ok(Vec::new()), curve)?;
        let hardware = Hardware::of(&run.scenario, &arguments.run).map_err(|error| error.to_string());
        if let Some(folder) = &arguments.charts {
            let figures = RunFigures::new(&run, &slo, &curve, hardware.as_ref().ok());
            printed += &write_charts(&figures, folder, painter.as_ref())?;
        }
        if asks_page {
            let path = arguments.html.clone().unwrap_or_else(|| arguments.run.join("report.html"));
            let page = reports::page::run_page(&run, &slo, &curve, hardware.as_ref().map_err(String::as_str));
            write_file(&path, page.as_bytes())?;
            printed += &format!("{}\n", path.display());
        }
    }
    output::print(&printed)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of the run that is kept in `folder`.
pub fn write_page(mut page: WholeFile, folder: &Path) -> Result<()> {
    let run = RunFolder::read(folder)?;
    let hardware = Hardware::of(&run.scenario, folder).map_err(|error| error.to_string());
    let hardware = hardware.as_ref().map_err(String::as_str);
    page.write_all(reports::page::run_page(&run, &slo_marks(&run)?, &[], hardware).as_bytes())?;
    page.finish()
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))
}

/// `requests.parquet` and `steps.parquet`.
fn write_tables(run: &RunFolder, folder: &Path) -> Result<String> {
    make_folder(folder)?;
    let tables = [
        ("requests.parquet", tables::requests(&run.requests), run.requests.len()),
        ("steps.parquet", tables::steps(&run.steps), run.steps.len()),
    ];
    let mut printed = String::new();
    for (name, table, rows) in tables {
        let path = folder.join(name);
        let mut file = WholeFile::create(&path)?;
        reports::parquet::write(&mut file, &table).with_context(|| path.display().to_string())?;
        file.finish()?;
        printed += &format!("{}: {} rows\n", path.display(), grouped(rows as u64));
    }
    Ok(printed)
}

/// One SVG per figure, and with a painter one PNG.
fn write_charts(figures: &RunFigures, folder: &Path, painter: Option<&Painter>) -> Result<String> {
    make_folder(folder)?;
    let mut printed = String::new();
    for figure in figures.all() {
        let drawing = figure.drawing();
        let (name, svg) = (file_name(drawing.title), drawing.file());
        let mut put = |ending: &str, bytes: &[u8]| {
            let path = folder.join(format!("{name}.{ending}"));
            printed += &format!("{}\n", path.display());
            write_file(&path, bytes)
        };
        put("svg", svg.as_bytes())?;
        if let Some(painter) = painter {
            put("png", &painter.png(&svg)?)?;
        }
    }
    Ok(printed)
}

/// The runs of a sweep that finished something.
fn curve(place: &str) -> Result<Vec<CurvePoint>> {
    let (columns, rows) = sweep_file::read(&Place::new(place))?;
    let index = |name: &str| {
        let found = columns.iter().position(|column| column.name == name);
        found.with_context(|| format!("{place}: has no column `{name}`"))
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

fn write_trace(run: &RunFolder, window: Window, path: &Path) -> Result<String> {
    let mut file = WholeFile::create(path)?;
    let counts = reports::perfetto::write_trace(run, window, &mut file)?;
    file.finish()?;
    Ok(format!(
        "{}: {} steps, {} requests; open it at ui.perfetto.dev\n",
        path.display(),
        grouped(counts.steps),
        grouped(counts.requests)
    ))
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
