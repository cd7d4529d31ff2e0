//! `servesim plan`: which deployment carries the traffic within its limits, at what cost.

use crate::output::{self, Format, WholeFile};
use crate::{plan_table, progress};
use anyhow::Result;
use planner::plan::Planner;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `plan`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A scenario file with a `plan:` section, or the name of a ready-made one
    scenario: String,
    /// Override a key of the scenario, for example --set plan.goal.ttft_p99=300ms
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Deployments that the table shows
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    top: usize,
    /// Simulate the best deployment again under this many seeds: how many keep the goal, with 95 % intervals
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    seeds: Option<u32>,
    /// Threads that simulate [default: one per core]; the answer does not depend on it
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// Write the plan as a page for readers to this file: recommendation first, then the evidence
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    progress::set_threads(arguments.threads)?;
    let planner = Planner::load(&arguments.scenario, &arguments.set)?;
    let page = arguments.report.as_deref().map(WholeFile::create).transpose()?;
    let bar = progress::bar(planner.deployments() as u64, "deployments");
    let plan = planner.run(&|| bar.inc(1));
    bar.finish_and_clear();
    let mut plan = plan?;
    if let (Some(seeds), Some(best)) = (arguments.seeds, plan.candidates.first()) {
        plan.confirmation = Some(planner.confirm(best, seeds)?);
    }
    if let Some(mut page) = page {
        page.write_all(reports::plan_page::plan_page(&plan).as_bytes())?;
        page.finish()?;
    }
    match arguments.format {
        Format::Json => output::print_json(&plan)?,
        Format::Text => output::print(&plan_table::plan(&plan, arguments.top))?,
    }
    for warning in plan.warnings() {
        output::note(&format!("warning: {warning}"));
    }
    Ok(if plan.candidates.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
