//! `servesim fidelity`: predictions beside what real engines measured.

use crate::output::{self, WholeFile};
use anyhow::{Context, Result};
use calibrate::fidelity::{
    Residual, ResidualFit, catalogue_residuals, fidelity, fit_residuals, left_out_pages,
};
use calibrate::truth::{read_all, score};
use sim::scenario::{Calibration, FrontEndSection, HostTimeSection};
use sim::units::Span;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `fidelity`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder with cases_index.csv: one row per published serving run, and the traces that rows name. Or measurements of
    /// `servesim truth`, packed or as the measuring script wrote them: a folder of them or one file
    dir: PathBuf,
    /// Page whose figures are written anew; what stands before its line `## Figures` is kept
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// CSV file to write: every figure of every run beside its predictions
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Fit host time and kernel scale of each engine to the training part first, and write them into this folder; takes
    /// minutes. Without it the calibrations of the catalogue are used. Of measurements of `servesim truth` fits are always made,
    /// and this is where they go.
    #[arg(long, value_name = "FOLDER")]
    refit: Option<PathBuf>,
    /// Only fit, to the training part, leaving out one page after another, and print the errors there; nothing of the
    /// held-out part is simulated, so that decisions can go by this. Takes minutes
    #[arg(long, conflicts_with_all = ["out", "rows", "refit"])]
    training_only: bool,
}

/// Whether it is a file, or a folder with JSON files.
fn has_measurements(path: &Path) -> bool {
    let is_json = |name: &str| name.ends_with(".json") || name.ends_with(".json.gz");
    let Ok(entries) = std::fs::read_dir(path) else { return path.is_file() };
    entries.filter_map(Result::ok).any(|entry| is_json(&entry.file_name().to_string_lossy()))
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.training_only {
        output::print(&left_out_pages(&arguments.dir)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.dir.join("cases_index.csv").exists() && has_measurements(&arguments.dir) {
        let scores = score(read_all(std::slice::from_ref(&arguments.dir))?)?;
        let (page, rows) = (arguments.out.as_deref(), arguments.rows.as_deref());
        crate::truth::answer(&scores, page, rows, arguments.refit.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut residuals = catalogue_residuals()?;
    let mut fits = BTreeMap::new();
    if let Some(folder) = &arguments.refit {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        fits = fit_residuals(&arguments.dir)?;
        fits.retain(|_, fit| fit.loss < fit.loss_before);
        residuals = fits.iter().map(|(name, fit)| (name.clone(), fit.residual)).collect();
    }
    let found = fidelity(&arguments.dir, residuals)?;
    if let Some(folder) = &arguments.refit {
        for (name, fit) in &fits {
            let held_out = found.held_out_words(name);
            write_calibration(folder, name, fit, &held_out)?;
        }
    }
    let figures = found.figures();
    if let Some(path) = &arguments.rows {
        write_whole(path, &found.rows())?;
    }
    match &arguments.out {
        None => output::print(&figures)?,
        Some(path) => {
            output::replace_figures(path, &figures)?;
            output::print(&format!("{}\n", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_calibration(folder: &Path, engine: &str, fit: &ResidualFit, held_out: &str) -> Result<()> {
    let name = engine.to_lowercase().replace(' ', "-");
    let Residual { host, gpu, front_end } = fit.residual;
    let calibration = Calibration {
        name: name.clone(),
        engine: engine.to_string(),
        host_time: HostTimeSection { base: Span(host.base_ns), per_request: Span(host.per_request_ns) },
        decode_scale: gpu.decode_scale,
        prefill_scale: gpu.prefill_scale,
        prefill_launch: gpu.prefill_launch_ns.map(Span),
        matrix_slowdown: gpu.matrix_slowdown,
        front_end: FrontEndSection::of(front_end),
        fitted_on: format!(
            "{} published serving runs of {engine}, the training half of reports/results/fidelity.md (pages by hash)",
            fit.runs
        ),
        held_out: held_out.to_string(),
    };
    write_whole(&folder.join(format!("{name}.yaml")), &calibration.to_yaml())
}

fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(text.as_bytes())?;
    file.finish()
}
