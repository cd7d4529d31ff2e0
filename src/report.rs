//! `servesim report`: the page of a finished run.

use crate::output::{self, WholeFile};
use anyhow::Result;
use reports::RunFolder;
use reports::run_charts::SloMarks;
use sim::document::Document;
use sim::scenario::ScenarioFile;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `report`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of a finished run, made by `servesim simulate SCENARIO --out FOLDER`
    run: PathBuf,
    /// Where to write the page [default: report.html in the run's folder]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let run = RunFolder::read(&arguments.run)?;
    let path = arguments.html.clone().unwrap_or_else(|| arguments.run.join("report.html"));
    let mut file = WholeFile::create(&path)?;
    file.write_all(reports::page::run_page(&run, &slo_marks(&run)?).as_bytes())?;
    file.finish()?;
    output::print(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The limits of the scenario that ran.
fn slo_marks(run: &RunFolder) -> Result<SloMarks> {
    let file: ScenarioFile = Document::parse("scenario.yaml", &run.scenario)?.resolve()?;
    let ms = |span: Option<sim::units::Span>| span.map(|span| span.0 as f64 / 1e6);
    Ok(SloMarks {
        ttft_ms: ms(file.slo.ttft),
        itl_ms: ms(file.slo.itl),
        tpot_ms: ms(file.slo.tpot),
        e2el_ms: ms(file.slo.e2el),
    })
}
