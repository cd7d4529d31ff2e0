//! `servesim calibrate`: from measured kernel times to a cost profile.

use crate::calibrate_bench;
use crate::output::{self, Format, WholeFile};
use anyhow::{Context, Result};
use calibrate::beside::beside_base;
use calibrate::check::check_profile;
use calibrate::coverage::coverage;
use calibrate::holdout::HoldOut;
use calibrate::import::{Engine, import_aiconfigurator};
use calibrate::measurement::MeasurementTable;
use calibrate::plot::plots;
use calibrate::profile::{find_profile, fit_profile_over};
use calibrate::report::{check_json, check_text, cross_validated_text, row_counts};
use calibrate::vidur::import_vidur;
use clap::{Subcommand, ValueEnum};
use sim::catalogue::find_gpu;
use sim::profile::{CostProfile, Family, GpuLimits, KernelFit};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `calibrate`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Someone's kernel timings as a measurement file
    #[command(subcommand)]
    Import(Import),
    /// Times the kernels on this machine's GPU, on the shapes that models need, within a time budget
    Bench(calibrate_bench::Arguments),
    /// A profile from a measurement file, a part of which is held out to state the error
    Fit(Fit),
    /// The errors of a profile on the measurements that its fit never saw
    Check(Check),
    /// Own benchmark results against a scenario's prediction, and the calibration that they carry
    FromBench(crate::from_bench::Arguments),
    /// One picture per kernel family: measured points, fitted curves, limits of the data sheet
    Plot(Plot),
}

#[derive(Subcommand)]
enum Import {
    /// Rows of NVIDIA AIConfigurator's collectors: CSV, or Parquet as in its wheel (with the feature `parquet`)
    Aiconfigurator {
        /// Folder with the files: systems/data of the unpacked wheel, or CSV files named SYSTEM__FAMILY__SOFTWARE__TABLE
        dir: PathBuf,
        /// GPU whose files are read, as their names begin: h100_sxm or h200_sxm
        #[arg(long)]
        system: String,
        /// Engine whose kernels are wanted
        #[arg(long, value_enum)]
        engine: EngineName,
        /// Measurement file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// mlp.csv and attention.csv of microsoft/vidur's profiler
    Vidur {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// GPU of the catalogue that they were measured on
        #[arg(long)]
        gpu: String,
        /// Measurement file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    Vllm,
    Trtllm,
}

/// Arguments of `fit`.
#[derive(clap::Args)]
struct Fit {
    /// Measurement file
    measurements: PathBuf,
    /// Name of the profile
    #[arg(long)]
    name: String,
    /// GPU of the catalogue that the rows were measured on
    #[arg(long)]
    gpu: String,
    /// Sources and licences of the figures; without it the sources that the rows name
    #[arg(long)]
    attribution: Option<String>,
    /// Profile whose figures stay for what was not measured (collectives on one GPU, for example)
    #[arg(long, value_name = "PROFILE")]
    base: Option<String>,
    /// Profile to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `check`.
#[derive(clap::Args)]
struct Check {
    /// Profile
    profile: PathBuf,
    /// Measurement file that it was fitted from
    measurements: PathBuf,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Arguments of `plot`.
#[derive(clap::Args)]
struct Plot {
    /// Profile
    profile: PathBuf,
    /// Measurement file
    measurements: PathBuf,
    /// Folder for the pictures; it is made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::Import(import) => run_import(import)?,
        Command::Bench(arguments) => return calibrate_bench::run(arguments),
        Command::Fit(arguments) => run_fit(arguments)?,
        Command::Check(arguments) => run_check(arguments)?,
        Command::Plot(arguments) => run_plot(arguments)?,
        Command::FromBench(arguments) => crate::from_bench::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_import(import: &Import) -> Result<()> {
    let (table, left_out, out) = match import {
        Import::Aiconfigurator { dir, system, engine, out } => {
            let gpu = GpuLimits::of(&find_gpu(&system.replace('_', "-"))?);
            let engine = match engine {
                EngineName::Vllm => Engine::Vllm,
                EngineName::Trtllm => Engine::TensorRtLlm,
            };
            let import = import_aiconfigurator(dir, system, engine, &gpu, reports::parquet::read)?;
            (import.table, import.left_out, out)
        }
        Import::Vidur { files, gpu, out } => {
            let gpu = find_gpu(gpu)?;
            let mut table = MeasurementTable::default();
            for file in files {
                import_vidur(file, &gpu.name, &mut table)?;
            }
            (table, Vec::new(), out)
        }
    };
    write_whole(out, &table.to_csv()?)?;
    for (reason, count) in &left_out {
        output::note(&format!("left out {count} rows, {reason}"));
    }
    output::print(&row_counts(&table))
}

fn run_fit(arguments: &Fit) -> Result<()> {
    let gpu = GpuLimits::of(&find_gpu(&arguments.gpu)?);
    let table = MeasurementTable::read(&arguments.measurements)?;
    let base = arguments.base.as_deref().map(find_profile).transpose()?;
    let attribution = arguments.attribution.clone().unwrap_or_else(|| match &base {
        Some(base) => format!("{}; what they lack: {}", table.attribution(), base.attribution),
        None => table.attribution(),
    });
    let file = WholeFile::create(&arguments.out)?;
    let (name, hold_out) = (&arguments.name, HoldOut::WholeShapes);
    let (profile, checks) = fit_profile_over(name, &gpu, &attribution, &table, hold_out, base.as_ref())?;
    finish(file, profile.to_yaml().as_bytes(), &arguments.out)?;
    let mut text = check_text(&check_profile(&profile, &table)?, &[]) + &cross_validated_text(&checks);
    if let Some(base) = &base {
        text += &beside_base(&table, base);
        text += &kept_from(base, &table, &profile);
    }
    output::print(&text)
}

/// The families that the rows do not have, and variants of the others, which stay as the base has them.
fn kept_from(base: &CostProfile, table: &MeasurementTable, profile: &CostProfile) -> String {
    let measured: BTreeSet<(Family, String)> =
        table.rows.iter().map(|row| (row.operation.family(), row.operation.variant())).collect();
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for (family, fits) in &profile.families {
        if measured.iter().all(|(own, _)| own != family) {
            whole.push(family.name().to_string());
            continue;
        }
        // Some number types are derived from measured ones.
        let is_of_base = |fit: &&KernelFit| {
            let mut before = base.families.get(family).into_iter().flatten();
            !measured.contains(&(*family, fit.variant.clone()))
                && before.any(|other| other.variant == fit.variant && other.form == fit.form)
        };
        let kept: Vec<&str> = fits.iter().filter(is_of_base).map(|fit| fit.variant.as_str()).collect();
        match kept[..] {
            [] => {}
            [_] | [_, _] => parts.push(format!("{} {}", family.name(), kept.join(" and "))),
            _ => parts.push(format!("{} {} variants", family.name(), kept.len())),
        }
    }
    let line = |what: &str, names: Vec<String>| match names.is_empty() {
        true => String::new(),
        false => format!("{what}, as {} has them: {}\n", base.name, names.join(", ")),
    };
    line("not measured", whole) + &line("of other families not measured", parts)
}

fn run_check(arguments: &Check) -> Result<()> {
    let profile = CostProfile::read(&arguments.profile)?;
    let table = MeasurementTable::read(&arguments.measurements)?;
    let errors = check_profile(&profile, &table)?;
    let coverage = coverage(&profile, &table, STEPS)?;
    match arguments.format {
        Format::Text => output::print(&check_text(&errors, &coverage)),
        Format::Json => output::print_json(&check_json(&errors, &coverage)),
    }
}

/// Steps of each kind that the error band is tried on.
const STEPS: u32 = 20_000;

fn run_plot(arguments: &Plot) -> Result<()> {
    let profile = CostProfile::read(&arguments.profile)?;
    let table = MeasurementTable::read(&arguments.measurements)?;
    let plots = plots(&profile, &table)?;
    let folder = &arguments.out;
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut written = String::new();
    for plot in &plots {
        let path = folder.join(format!("{}.svg", plot.family.name()));
        write_whole(&path, plot.svg.as_bytes())?;
        written += &format!("{}\n", path.display());
    }
    output::print(&written)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    finish(WholeFile::create(path)?, bytes, path)
}

fn finish(mut file: WholeFile, bytes: &[u8], path: &Path) -> Result<()> {
    file.write_all(bytes).with_context(|| format!("{}: cannot be written", path.display()))?;
    file.finish()
}
