//! `servesim check`: a scenario resolved; `servesim schema`: what a scenario may say.

use crate::output::{self, Format};
use anyhow::Result;
use reports::numbers::grouped;
use serde_json::Value;
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

/// Sections and values as YAML would have them; large numbers are grouped, and bytes are in GiB too.
fn indented(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !is_empty(value)) {
        match value {
            Value::Object(_) => text += &format!("{pad}{key}:\n{}", indented(value, depth + 1)),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                text += &format!("{pad}{key}:\n");
                items.iter().for_each(|item| text += &listed(item, depth));
            }
            value => text += &format!("{pad}{key}: {}\n", inline(key, value)),
        }
    }
    text
}

/// An item of a list: on one line when it holds no list or section of its own.
fn listed(item: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    match item.as_object() {
        Some(entries) if entries.values().any(|value| value.is_object() || value.is_array()) => {
            // The dash takes the place of two spaces of the first key.
            indented(item, depth + 1).replacen(&format!("{pad}  "), &format!("{pad}- "), 1)
        }
        Some(entries) => {
            let shown = entries.iter().filter(|(_, value)| !is_empty(value));
            let shown: Vec<String> =
                shown.map(|(key, value)| format!("{key}: {}", inline(key, value))).collect();
            format!("{pad}- {}\n", shown.join(", "))
        }
        None => format!("{pad}- {}\n", inline("", item)),
    }
}

/// What says nothing: no value, no text, an empty list.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
}

fn inline(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| inline("", item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if key.contains("bytes") && bytes >= 1 << 27 => {
                format!("{} ({:.2} GiB)", grouped(bytes), bytes as f64 / f64::from(1 << 30))
            }
            Some(whole) if key != "seed" => grouped(whole),
            None => rounded(number.as_f64().unwrap_or_default()),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A fraction with at most four decimals, where that loses little.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size < 0.01 => value.to_string(),
        _ => format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_string(),
    }
}

/// Prints the JSON schema of a scenario.
pub fn schema() -> Result<ExitCode> {
    output::print_json(&schemars::schema_for!(ScenarioFile))?;
    Ok(ExitCode::SUCCESS)
}
