//! servesim: what an LLM serving deployment will do, before the hardware is bought.
//!
//! One file per command: parse arguments, call a library, print. Standard output is the answer and deterministic;
//! progress and warnings go to standard error. Exit 0: done; 1: the answer is "no"; 2: bad input.
#![forbid(unsafe_code)]

mod calibrate;
mod calibrate_bench;
mod check;
mod compare;
mod fidelity;
mod from_bench;
mod list;
mod memory;
mod output;
mod place;
mod plan;
mod plan_table;
mod progress;
#[cfg(feature = "object-store")]
mod remote;
#[cfg(not(feature = "object-store"))]
#[path = "no_remote.rs"]
mod remote;
mod replica_table;
mod report;
mod rows;
mod run_output;
mod simulate;
mod sweep;
mod sweep_file;
mod sweep_table;
mod table;
mod tenant_table;
#[cfg(feature = "tokens")]
mod tokens;
#[cfg(not(feature = "tokens"))]
#[path = "no_tokens.rs"]
mod tokens;
mod truth;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Simulates LLM serving: TTFT, ITL, throughput, goodput, memory and cost of a model, a GPU, an engine and a traffic.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to try first.
const EXAMPLES: &str = "Examples:
  servesim simulate quickstart
  servesim simulate my.yaml --set engine.max_num_seqs=128 --out run
  servesim report run
  servesim plan plan-70b --set plan.space.gpu=[h200-sxm] --report plan.html
  servesim memory --model llama-3.1-70b --gpu h100-sxm --tp 4 --kv fp8
  servesim list scenarios";

#[derive(Subcommand)]
enum Command {
    /// What will this deployment do under this traffic
    Simulate(simulate::Arguments),
    /// The cheapest deployment that keeps the goal under the traffic, or the highest rate that each one holds
    Plan(plan::Arguments),
    /// One run per combination of values, in parallel, resumable, in shards
    Sweep(sweep::Arguments),
    /// Scenarios or finished runs side by side: what differs going in and coming out
    Compare(compare::Arguments),
    /// The page of a finished run: charts, tables, provenance; a trace for the Perfetto UI
    Report(report::Arguments),
    /// A scenario resolved: every default filled in, every number checked
    Check(check::Arguments),
    /// What is in the catalogue: models, gpus, profiles, calibrations, scenarios, engines
    List(list::Arguments),
    /// Where every byte of GPU memory goes, and what fits
    Memory(Box<memory::Arguments>),
    /// How many tokens texts are, by file and language (in builds with the feature `tokens`)
    Tokens(tokens::Arguments),
    /// Kernel timings to a cost profile: import, fit, check, plot; own benchmark results to a calibration: from-bench
    Calibrate(calibrate::Arguments),
    /// Predictions beside what real engines measured in published runs that no fit has seen
    Fidelity(fidelity::Arguments),
    /// Measure an engine of your own and score the predictions: workloads to run, their results, the errors
    Truth(truth::Arguments),
    /// The JSON schema of a scenario, for editors
    Schema,
    /// Completions of commands and options for a shell, to standard output
    Completions {
        /// Which shell: `servesim completions bash > ~/.local/share/bash-completion/completions/servesim`
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Fidelity(arguments) => fidelity::run(&arguments),
        Command::Truth(arguments) => truth::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Schema => check::schema(),
        Command::Completions { shell } => completions(shell),
        Command::Memory(arguments) => memory::run(&arguments),
        Command::Tokens(arguments) => tokens::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("servesim: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Completions for a shell.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "servesim", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has seen enough, such as `head`, is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
