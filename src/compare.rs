//! `servesim compare`: scenarios or finished runs side by side.

use crate::output::{self, Format};
use crate::progress;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, TableStyle};
use planner::compare::{Comparison, Side, compare};
use planner::seeds::{self, Estimate};
use reports::RunFolder;
use reports::numbers::{counted, grouped, short};
use reports::run_folder::{SCENARIO_FILE, read_report};
use sim::scenario::{Scenario, ScenarioFile};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

mod engines;

/// Arguments of `compare`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Two or more of: scenario files, names of ready-made scenarios, folders of finished runs; with --engines one
    /// scenario
    #[arg(required = true, num_args = 1..=9)]
    sides: Vec<String>,
    /// Simulate one scenario on several engines: `all`, or names such as `vllm,sglang`
    #[arg(long, value_name = "ENGINES")]
    engines: Option<String>,
    /// Override a key of every scenario (not of finished runs)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Simulate each scenario under this many seeds; gives 95 % intervals
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    seeds: u32,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Threads that simulate [default: one per core]; the answer does not depend on it
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    progress::set_threads(arguments.threads)?;
    if let Some(engines) = &arguments.engines {
        return engines::run(arguments, engines);
    }
    if arguments.sides.len() < 2 {
        bail!("found one scenario, expected two or more, or one with --engines");
    }
    if !arguments.set.is_empty() && arguments.sides.iter().all(|side| Path::new(side).is_dir()) {
        bail!(
            "--set: changes scenarios, but all sides are finished runs; give their {SCENARIO_FILE} to simulate them anew"
        );
    }
    let sides = arguments.sides.iter().map(|side| load(side, arguments)).collect::<Result<Vec<Side>>>()?;
    let comparison = compare(&sides);
    match arguments.format {
        Format::Json => output::print_json(&comparison)?,
        Format::Text => output::print(&text(&comparison))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A finished run as it is, or a scenario that is simulated now.
fn load(side: &str, arguments: &Arguments) -> Result<Side> {
    let path = Path::new(side);
    if !path.is_dir() {
        let scenario = scenario(side, &arguments.set)?;
        let reports = seeds::reports(side, &arguments.set, arguments.seeds)?;
        return Ok(Side { label: side.to_string(), scenario, reports });
    }
    if arguments.seeds > 1 && RunFolder::is_run(path) {
        let scenario_file = path.join(SCENARIO_FILE);
        bail!(
            "{side}: is a finished run of one seed; give {} to simulate it under more",
            scenario_file.display()
        );
    }
    let report = read_report(path)?;
    let scenario = scenario(&path.join(SCENARIO_FILE).display().to_string(), &[])?;
    Ok(Side { label: side.to_string(), scenario, reports: vec![report] })
}

fn scenario(name_or_path: &str, set: &[String]) -> Result<serde_json::Value> {
    let (document, _) = Scenario::document(name_or_path, set)?;
    Ok(serde_json::to_value(document.resolve::<ScenarioFile>()?)?)
}

/// One scenario under several seeds.
pub fn over_seeds(name_or_path: &str, set: &[String], seeds: u32, format: Format) -> Result<ExitCode> {
    let scenario = scenario(name_or_path, set)?;
    let reports = seeds::reports(name_or_path, set, seeds)?;
    let comparison = compare(&[Side { label: name_or_path.to_string(), scenario, reports }]);
    match format {
        Format::Json => output::print_json(&comparison)?,
        Format::Text => output::print(&text(&comparison))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A smaller half width reads as 0.000.
const SHOWN_HALF_WIDTH: f64 = 0.0005;

/// `12.3 ± 0.4`, or `12.3` for one seed and where all seeds agree.
pub fn estimate(estimate: Option<&Estimate>) -> String {
    let number = |value: f64| match value {
        whole if whole.fract() == 0.0 && (0.0..1e15).contains(&whole) => grouped(whole as u64),
        other => short(other),
    };
    match estimate {
        None => "-".to_string(),
        Some(Estimate { mean, half_width: Some(half) }) if *half >= SHOWN_HALF_WIDTH => {
            format!("{} ± {}", short(*mean), short(*half))
        }
        Some(Estimate { mean, .. }) => number(*mean),
    }
}

/// Longest value of an input that the text shows; JSON has it whole.
const VALUE_LETTERS: usize = 60;

fn cut(text: &str) -> String {
    if text.chars().count() <= VALUE_LETTERS {
        return text.to_string();
    }
    text.chars().take(VALUE_LETTERS - 3).collect::<String>() + "..."
}

fn letter(side: usize) -> char {
    char::from(b'A'.saturating_add(u8::try_from(side).unwrap_or(25)))
}

/// The inputs that differ, and the metrics with their differences.
fn tables(comparison: &Comparison, with_changes: bool) -> (Table, Table) {
    let labels = || {
        let label = |(side, label): (usize, &String)| format!("{}: {}", letter(side), cut(label));
        comparison.labels.iter().enumerate().map(label)
    };
    let mut inputs = Table::new();
    inputs.load_style(TableStyle::new()).set_header(std::iter::once("input".to_string()).chain(labels()));
    for difference in comparison.inputs.iter().filter(|difference| difference.key != "description") {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "-".into(), cut);
        inputs.add_row(std::iter::once(difference.key.clone()).chain(difference.values.iter().map(value)));
    }
    let mut measures = Table::new();
    let changes = (1..if with_changes { comparison.labels.len() } else { 0 })
        .map(|side| format!("{} - A", letter(side)));
    let header = std::iter::once("metric".to_string()).chain(labels()).chain(changes);
    measures.load_style(TableStyle::new()).set_header(header);
    for measure in &comparison.measures {
        let mut row = vec![measure.name.to_string()];
        row.extend(measure.values.iter().map(|value| estimate(value.as_ref())));
        for (index, difference) in measure.differences.iter().enumerate().filter(|_| with_changes) {
            let percent =
                measure.percent(index + 1).map_or(String::new(), |percent| format!(" ({percent:+.1} %)"));
            row.push(estimate(difference.as_ref()) + &percent);
        }
        measures.add_row(row);
    }
    for column in inputs.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for (index, column) in measures.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (inputs, measures)
}

fn put(text: &mut String, table: &Table) {
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn text(comparison: &Comparison) -> String {
    let (inputs, measures) = tables(comparison, true);
    let mut text = String::new();
    if comparison.labels.len() == 1 {
        let _ =
            writeln!(text, "{} over {}", comparison.labels[0], counted(comparison.seeds[0] as u64, "seed"));
    } else if comparison.inputs.is_empty() {
        let _ = writeln!(text, "The inputs are the same.");
    } else {
        put(&mut text, &inputs);
    }
    let _ = writeln!(text);
    put(&mut text, &measures);
    if let Some(most) = comparison.seeds.iter().max().filter(|seeds| **seeds > 1) {
        let _ =
            writeln!(text, "\n± is the 95 % interval over {most} seeds; differences are taken seed by seed");
    }
    text
}
