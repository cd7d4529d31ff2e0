//! `servesim compare`: scenarios or finished runs side by side.

use crate::output::{self, Format};
use crate::progress;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, TableStyle};
use planner::compare::{Comparison, Side, compare};
use planner::seeds::{self, Estimate};
use reports::RunFolder;
use reports::numbers::short;
use reports::run_folder::{SCENARIO_FILE, read_report};
use sim::scenario::{Scenario, ScenarioFile};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `compare`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Two or more of: scenario files, names of ready-made scenarios, folders of finished runs
    #[arg(required = true, num_args = 2..)]
    sides: Vec<String>,
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

/// `12.3 ± 0.4`, or `12.3` for one seed.
pub fn estimate(estimate: Option<&Estimate>) -> String {
    match estimate {
        None => "-".to_string(),
        Some(Estimate { mean, half_width: Some(half) }) => format!("{} ± {}", short(*mean), short(*half)),
        Some(Estimate { mean, half_width: None }) => short(*mean),
    }
}

fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut inputs = Table::new();
    let labels = comparison.labels.iter().map(String::as_str);
    inputs.load_style(TableStyle::new()).set_header(std::iter::once("input").chain(labels.clone()));
    for difference in &comparison.inputs {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        inputs.add_row(std::iter::once(difference.key.clone()).chain(difference.values.iter().map(value)));
    }
    let mut measures = Table::new();
    let changes =
        (1..comparison.labels.len()).map(|side| format!("{} - {}", (b'A' + side as u8) as char, 'A'));
    let header = std::iter::once("metric".to_string()).chain(labels.map(String::from)).chain(changes);
    measures.load_style(TableStyle::new()).set_header(header);
    for measure in &comparison.measures {
        let mut row = vec![measure.name.to_string()];
        row.extend(measure.values.iter().map(|value| estimate(value.as_ref())));
        for (index, difference) in measure.differences.iter().enumerate() {
            let percent =
                measure.percent(index + 1).map_or(String::new(), |percent| format!(" ({percent:+.1} %)"));
            row.push(estimate(difference.as_ref()) + &percent);
        }
        measures.add_row(row);
    }
    for (table, is_measures) in [(&mut inputs, false), (&mut measures, true)] {
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if is_measures && index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let same = comparison.inputs.is_empty();
    let put = |text: &mut String, table: &Table| {
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    };
    if same && comparison.labels.len() == 1 {
        let _ = writeln!(text, "{} over {} seeds", comparison.labels[0], comparison.seeds[0]);
    } else if same {
        let _ = writeln!(text, "The inputs are the same.");
    } else {
        put(&mut text, &inputs);
    }
    let _ = writeln!(text);
    put(&mut text, &measures);
    if comparison.seeds.iter().any(|seeds| *seeds > 1) {
        let _ = writeln!(
            text,
            "\n± is the 95 % interval over {} seeds; differences are taken seed by seed",
            comparison.seeds[0]
        );
    }
    text
}
