//! `servesim check`: a scenario resolved; `servesim schema`: what a scenario may say.

use crate::output::{self, Format};
use anyhow::Result;
use sim::scenario::{Scenario, ScenarioFile};
use std::process::ExitCode;

/// Arguments of `check`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A scenario file, or the name of a ready-made one (`servesim list scenarios`)
    scenario: String,
    /// Override a key of the scenario, for example --set engine.max_num_seqs=128
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scenario = Scenario::load(&arguments.scenario, &arguments.set)?;
    let resolved = scenario.resolved();
    match arguments.format {
        Format::Json => output::print_json(&resolved)?,
        Format::Text => output::print(&indented(&serde_json::to_value(&resolved)?, 0))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Sections and values as YAML would have them.
fn indented(value: &serde_json::Value, depth: usize) -> String {
    let mut text = String::new();
    let pad = "  ".repeat(depth);
    let serde_json::Value::Object(entries) = value else { return text };
    for (key, value) in entries {
        match value {
            serde_json::Value::Object(_) => text += &format!("{pad}{key}:\n{}", indented(value, depth + 1)),
            serde_json::Value::Null => {}
            serde_json::Value::String(value) => text += &format!("{pad}{key}: {value}\n"),
            value => text += &format!("{pad}{key}: {value}\n"),
        }
    }
    text
}

/// Prints the JSON schema of a scenario.
pub fn schema() -> Result<ExitCode> {
    output::print_json(&schemars::schema_for!(ScenarioFile))?;
    Ok(ExitCode::SUCCESS)
}
