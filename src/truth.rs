//! `servesim truth`: a vLLM that is measured for this, beside its prediction.

use crate::output::{self, WholeFile};
use anyhow::{Context, Result, bail};
use calibrate::truth::{EnginePlan, Machine, Measured, collect, figures, plan, score};
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
    /// Files of `pack`, or folders with such files
    #[arg(required = true)]
    files: Vec<PathBuf>,
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
    let mut scores = Vec::new();
    for path in measured_files(&arguments.files)? {
        scores.push(score(Measured::read(&path)?)?);
    }
    let figures = figures(&scores);
    match &arguments.out {
        None => output::print(&figures),
        Some(path) => {
            output::replace_figures(path, &figures)?;
            output::print(&format!("{}\n", path.display()))
        }
    }
}

/// The files, and those in the folders in order of their names.
fn measured_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries =
            std::fs::read_dir(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let file = entry?.path();
            let name = file.to_string_lossy();
            if name.ends_with(".json") || name.ends_with(".json.gz") {
                found.push(file);
            }
        }
        if found.is_empty() {
            bail!(
                "{}: has no .json or .json.gz files; expected some that `servesim truth pack` wrote",
                path.display()
            );
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
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
        written += &format!("{}: {} workloads\n", path.display(), plan.workloads.len());
        for workload in &plan.workloads {
            written += &format!(
                "  {:<20} {:<12} {:>6} requests\n",
                workload.name,
                workload.part().name(),
                workload.requests.len()
            );
        }
    }
    output::print(&written)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}
