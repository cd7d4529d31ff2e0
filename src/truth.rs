//! `servesim truth`: a vLLM that is measured for this, beside its prediction.

use crate::output::{self, WholeFile};
use anyhow::{Context, Result, bail};
use calibrate::truth::{
    EnginePlan, Machine, Part, Scores, collect, figures, plan, predicted_s, read_all, rows, score,
};
use clap::Subcommand;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `truth`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the workloads to measure: one file per engine
    Plan(Plan),
    /// Puts the results of one engine's workloads into one small file
    Pack(Pack),
    /// Fits to two thirds of the workloads, and says how far predictions of the others are from what was measured
    Score(Score),
}

/// Arguments of `plan`.
#[derive(clap::Args)]
struct Plan {
    /// Folder to write into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// GPU that will be measured; it sizes the workloads
    #[arg(long, required_unless_present = "cpu", conflicts_with = "cpu")]
    gpu: Option<String>,
    /// A CPU of a few cores and a model of 58 million parameters instead
    #[arg(long)]
    cpu: bool,
    /// How long each workload is to last, about
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
}

/// Arguments of `pack`.
#[derive(clap::Args)]
struct Pack {
    /// The plan that was measured
    plan: PathBuf,
    /// Folder with the results of its workloads, ENGINE--WORKLOAD.json; those that are not there are left out
    results: PathBuf,
    /// The machine, the day and the command, in words
    #[arg(long, value_name = "TEXT")]
    origin: String,
    /// File to write; packed when its name ends in .gz
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `score`.
#[derive(clap::Args)]
struct Score {
    /// Files of `pack`, or folders with such files; results of the measuring script too
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Folder for what was fitted, one `engine.calibration` per version of vLLM, or per engine where that is clearly better
    #[arg(long, value_name = "FOLDER")]
    calibrations: Option<PathBuf>,
    /// Only the development part, for whoever still changes something: the untouched third is not looked at
    #[arg(long, conflicts_with = "calibrations")]
    development: bool,
    /// CSV file to write: every figure of every workload beside its predictions
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Page whose figures are written anew; what stands before its line `## Figures` is kept
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Plan(arguments) => run_plan(arguments),
        Command::Pack(arguments) => run_pack(arguments),
        Command::Score(arguments) => run_score(arguments),
    }
}

fn run_pack(arguments: &Pack) -> Result<()> {
    let plan = EnginePlan::read(&arguments.plan)?;
    let measured = collect(&plan, &arguments.results, &arguments.origin)?;
    let is_packed = arguments.out.extension().is_some_and(|ending| ending == "gz");
    write_whole(&arguments.out, &measured.to_bytes(is_packed))?;
    let (packed, planned) = (measured.runs.len(), plan.workloads.len());
    output::print(&format!("{}: {packed} of {planned} workloads\n", arguments.out.display()))
}

fn run_score(arguments: &Score) -> Result<()> {
    let mut measured = read_all(&arguments.files)?;
    if arguments.development {
        for engine in &mut measured {
            engine.runs.retain(|run| run.workload.part() == Part::Development);
        }
    }
    let scores = score(measured)?;
    answer(&scores, arguments.out.as_deref(), arguments.rows.as_deref(), arguments.calibrations.as_deref())
}

/// Writes the figures of a page, every figure, and the calibrations, where they are wanted.
pub fn answer(
    scores: &Scores,
    page: Option<&Path>,
    rows_file: Option<&Path>,
    calibrations: Option<&Path>,
) -> Result<()> {
    let figures = figures(scores);
    let mut written = String::new();
    if let Some(path) = page {
        output::replace_figures(path, &figures)?;
        written += &format!("{}\n", path.display());
    }
    if let Some(path) = rows_file {
        write_whole(path, rows(scores).as_bytes())?;
        written += &format!("{}\n", path.display());
    }
    if let Some(folder) = calibrations {
        written += &write_calibrations(scores, folder)?;
    }
    // Beside figures on standard output, what was written is said elsewhere.
    match page {
        None => {
            if !written.is_empty() {
                output::note(written.trim_end());
            }
            output::print(&figures)
        }
        Some(_) => output::print(&written),
    }
}

fn write_calibrations(scores: &Scores, folder: &Path) -> Result<String> {
    let found = scores.calibrations();
    if found.is_empty() {
        let why = match scores.versions.is_empty() {
            true => "calibrations scale kernels of a GPU, and nothing here ran on one",
            false => "predictions do as well without",
        };
        return Ok(format!("no calibration: {why}\n"));
    }
    let mut names: Vec<&str> = found.iter().map(|calibration| &calibration.name[..]).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("{}: two of the measurements give it: give each engine once", twice[0]);
    }
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut written = String::new();
    for calibration in &found {
        let path = folder.join(format!("{}.yaml", calibration.name));
        write_whole(&path, calibration.to_yaml().as_bytes())?;
        written += &format!("{}: {}\n", path.display(), calibration.held_out);
    }
    Ok(written)
}

fn run_plan(arguments: &Plan) -> Result<()> {
    if !(1.0..=3600.0).contains(&arguments.seconds) {
        bail!("--seconds: found {}, expected 1 to 3600", arguments.seconds);
    }
    let machine = match &arguments.gpu {
        Some(gpu) => Machine::Gpu(gpu.clone()),
        None => Machine::Cpu,
    };
    let plans = plan(&machine, arguments.seconds)?;
    let folder = &arguments.out;
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut written = String::new();
    for plan in &plans {
        let path = folder.join(format!("{}.json", plan.name));
        write_whole(&path, plan.to_json().as_bytes())?;
        let seconds = predicted_s(plan, &machine)?;
        let all: f64 = seconds.iter().sum();
        written += &format!("{}: {} workloads, {all:.0} s\n", path.display(), plan.workloads.len());
        for (workload, seconds) in plan.workloads.iter().zip(seconds) {
            let (name, part, count) = (&workload.name, workload.part().name(), workload.requests.len());
            written += &format!("  {name:<20} {part:<12} {count:>6} requests {seconds:>5.0} s\n");
        }
    }
    output::print(&written)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}
