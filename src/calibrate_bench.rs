//! `servesim calibrate bench`: kernels timed on this machine.

use crate::output::{self, WholeFile};
use crate::progress::bar;
use anyhow::{Context, Result, bail};
use calibrate::bench::calls::expected_seconds;
use calibrate::bench::ceilings::{ceilings, table};
use calibrate::bench::collectives;
use calibrate::bench::plan::{ModelSlices, PlannedCall, plan};
use calibrate::bench::run::{BenchReport, ROWS_FILE, bench, family_counts};
use calibrate::bench::timer::Timer;
use calibrate::bench::whole_step::{WholeSteps, whole_steps};
use calibrate::profile::find_profile;
use kernels::Device;
use kernels::check::{Outcome, check_all};
use kernels::collectives::Collectives;
use kernels::device::Order;
use sim::units::Span;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Arguments of `calibrate bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Number of the GPU, from 0
    #[arg(long, default_value_t = 0)]
    gpu: u32,
    /// Where times come from: `gpu`, `cpu` (the emulator: whether kernels work, not how fast they are), or
    /// `recorded:` and a measurement file or a profile
    #[arg(long, default_value = "gpu")]
    device: String,
    /// Time that measuring may take
    #[arg(long, default_value = "10min")]
    budget: String,
    /// Models whose shapes are timed, each with tensor-parallel degrees, as in `llama-3.1-70b:2/4`
    #[arg(long, value_delimiter = ',', value_name = "MODEL[:DEGREES]")]
    models: Vec<String>,
    /// Measures also when another process computes on the GPU
    #[arg(long)]
    anyway: bool,
    /// Sizes of the groups of GPUs whose collectives are timed, as in `2,4,8`; without it those that there are GPUs for
    #[arg(long, value_delimiter = ',', value_name = "GPUS")]
    ranks: Vec<u32>,
    /// Folder for the rows; a run that was stopped goes on in its folder
    #[arg(long, value_name = "DIR", required_unless_present_any = ["check", "ceilings", "dry_run", "whole_step"])]
    out: Option<PathBuf>,
    /// Prints what would be timed, and times nothing
    #[arg(long)]
    dry_run: bool,
    /// Checks every kernel against its reference on random inputs instead; exit code 1 when one is wrong
    #[arg(long)]
    check: bool,
    /// With --check: only this kernel, such as decode or prefill
    #[arg(long, value_name = "KERNEL", requires = "check")]
    only: Option<String>,
    /// Seed of those inputs; without it the time
    #[arg(long)]
    seed: Option<u64>,
    /// Prints what memory, matrix units and the kernels reach on a few large calls instead
    #[arg(long)]
    ceilings: bool,
    /// Times whole steps of Llama-3.1-8B against what this profile predicts instead; with --out their times go to
    /// steps.csv in the folder, which `--device recorded:DIR/steps.csv` holds against another profile later
    #[arg(long, value_name = "PROFILE")]
    whole_step: Option<String>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.check {
        return check(arguments);
    }
    if arguments.ceilings {
        let device = device(arguments)?;
        let found = ceilings(&device);
        if let (Err(error), true) = (&found, device.is_hung()) {
            end_hung(&error.to_string());
        }
        let (found, failures) = found?;
        for failure in failures {
            output::note(&format!("left out: {failure}"));
        }
        output::print(&table(&found))?;
        if device.is_hung() {
            end_hung("a kernel that never ends");
        }
        output::print(&match Collectives::open() {
            Ok(all) => collectives::table(&all),
            Err(reason) => format!("collectives were not measured: {reason}\n"),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(profile) = &arguments.whole_step {
        whole_step(arguments, profile)?;
        return Ok(ExitCode::SUCCESS);
    }
    let models = match arguments.models.is_empty() {
        true => ModelSlices::default_set(),
        false => {
            let parsed: Result<Vec<_>, String> =
                arguments.models.iter().map(|text| ModelSlices::parse(text)).collect();
            parsed.map_err(|message| anyhow::anyhow!("--models: {message}"))?
        }
    };
    let budget = Span::parse(&arguments.budget).map_err(|message| anyhow::anyhow!("--budget: {message}"))?;
    let budget = Duration::from_nanos(budget.0);
    if let Some(odd) = arguments.ranks.iter().find(|ranks| **ranks < 2) {
        bail!("--ranks: found {odd}, expected groups of two or more GPUs");
    }
    if arguments.dry_run {
        let calls = plan(&models, &arguments.ranks)?;
        output::print(&planned(&calls, kernels::device::gpu_count()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(folder) = &arguments.out else { bail!("--out: missing, give a folder for the rows") };
    // Models are looked up before the GPU is opened.
    plan(&models, &[])?;
    let timer = timer(arguments)?;
    let ranks = if arguments.ranks.is_empty() { timer.group_sizes() } else { arguments.ranks.clone() };
    let calls = plan(&models, &ranks)?;
    let bar = bar(calls.len() as u64, "calls");
    let report = bench(&calls, &timer, folder, budget, |done, _| bar.set_position(done as u64));
    if let (Err(error), true) = (&report, timer.is_hung()) {
        end_hung(&error.to_string());
    }
    let report = report?;
    bar.finish_and_clear();
    if let Some(failure) = &report.first_failure {
        output::note(&format!("a call failed and was left out: {failure}"));
    }
    output::print(&written(&report, &timer, &folder.join(ROWS_FILE).display().to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends a process whose GPU works without end: an ordinary end would wait for it.
fn end_hung(message: &str) -> ! {
    output::note(&format!("servesim: {message}; this process ends at once, since the driver would wait"));
    std::process::abort()
}

fn device(arguments: &Arguments) -> Result<Device> {
    Ok(match arguments.device.as_str() {
        "gpu" => Device::cuda(arguments.gpu)?,
        "cpu" => Device::emulated(Order::ALL[0])?,
        other => bail!("--device: found `{other}`, expected gpu or cpu here"),
    })
}

fn timer(arguments: &Arguments) -> Result<Timer> {
    Ok(match arguments.device.split_once(':') {
        None if arguments.device == "gpu" => Timer::gpu(arguments.gpu, arguments.anyway)?,
        None if arguments.device == "cpu" => Timer::emulator()?,
        Some(("recorded", name)) => Timer::recorded(name)?,
        _ => bail!("--device: found `{}`, expected gpu, cpu or recorded:FILE", arguments.device),
    })
}

fn whole_step(arguments: &Arguments, profile: &str) -> Result<()> {
    let profile = find_profile(profile)?;
    let (steps, is_hung) = match arguments.device.strip_prefix("recorded:") {
        Some(file) if Path::new(file).extension().is_none_or(|extension| extension != "csv") => {
            bail!(
                "--device: found recorded:{file}, but whole steps need a GPU, or the steps.csv of another time"
            )
        }
        Some(file) => (WholeSteps::read(Path::new(file))?, false),
        None => {
            let device = device(arguments)?;
            let steps = whole_steps(&device);
            if let (Err(error), true) = (&steps, device.is_hung()) {
                end_hung(&error.to_string());
            }
            (steps?, device.is_hung())
        }
    };
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        let path = folder.join("steps.csv");
        let mut file = WholeFile::create(&path)?;
        file.write_all(steps.to_csv().as_bytes())
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        file.finish()?;
    }
    output::print(&steps.table(&profile)?)?;
    if is_hung {
        end_hung("a step that never ends");
    }
    Ok(())
}

fn is_collective(call: &PlannedCall) -> bool {
    matches!(call.operation, sim::profile::Operation::Collective { .. })
}

/// Calls by family, and collectives of as many GPUs as there are.
fn planned(calls: &[PlannedCall], gpus: u32) -> String {
    let mut text = String::new();
    for (family, count) in family_counts(calls) {
        text += &format!("{:<18} {count:>6} calls\n", family.name());
    }
    text += &format!("{:<18} {:>6} calls, most informative first\n", "all", calls.len());
    let on_one_gpu = calls.iter().filter(|call| !is_collective(call)).copied().collect::<Vec<_>>();
    let minutes = expected_seconds(&on_one_gpu) / 60.0;
    text += &format!("about {minutes:.0} minutes on an H200 without collectives, by its data sheet\n");
    if on_one_gpu.len() == calls.len() {
        text += &match gpus {
            0 | 1 => format!(
                "collectives need two or more GPUs, the driver here sees {gpus}; --ranks 2,4,8 shows what they would add\n"
            ),
            _ => format!("and collectives over groups of up to {gpus} GPUs, which --ranks 2,4,8 shows\n"),
        };
    }
    text
}

fn written(report: &BenchReport, timer: &Timer, rows: &str) -> String {
    let origin = timer.origin();
    let mut text = format!("{}, {}\n", origin.gpu, origin.software);
    for (family, count) in &report.families {
        text += &format!("{family:<18} {count:>6} rows\n");
    }
    let BenchReport { planned, resumed, timed, left_out, .. } = report;
    text += &format!("{timed} calls timed, {resumed} from before, {left_out} left out, of {planned}\n");
    for kind in &report.broken_kinds {
        text += &format!("left out: {kind}, since calls of it ended the process\n");
    }
    if report.out_of_time {
        text += "the time was used up: the same command goes on\n";
    }
    if let Some(note) = timer.collectives_note() {
        text += &format!("{note}\n");
    }
    text + &format!(
        "next: servesim calibrate fit {rows} --name NAME --gpu GPU --base PROFILE --out FILE\n\
         (--base names the profile whose figures stay for what was not measured)\n"
    )
}

fn print_outcome(outcome: &Outcome) {
    let verdict = if outcome.passed() { "ok   " } else { "WRONG" };
    let Outcome { kernel, case, error, worst, tolerance, .. } = outcome;
    println!("{verdict} {kernel:<18} {error:.1e} of {tolerance:.0e}, worst {worst:.1e}  {case}");
}

fn check(arguments: &Arguments) -> Result<ExitCode> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    let seed = arguments.seed.unwrap_or_else(clock);
    let device = device(arguments)?;
    output::print(&format!("{}, {}, seed {seed}\n", device.info.name, device.info.software))?;
    let only = arguments.only.as_deref();
    let mut outcomes = match only {
        Some("collectives") => Vec::new(),
        _ => check_all(&device, seed, only, print_outcome)?,
    };
    if only.is_none_or(|only| only == "collectives") {
        let opened = match device.is_gpu() {
            true => Collectives::open(),
            false => Err(kernels::Error("the emulator is one device".to_string())),
        };
        match opened {
            Ok(all) => {
                let found = all.check(seed)?;
                found.iter().for_each(print_outcome);
                outcomes.extend(found);
            }
            Err(reason) => output::print(&format!("collectives were not checked: {reason}\n"))?,
        }
    }
    let wrong = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    output::print(&format!("{} cases, {wrong} wrong\n", outcomes.len()))?;
    if device.is_hung() {
        end_hung("a kernel that never ends");
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
