//! `servesim list`: what is in the catalogue.

use crate::output::{self, Format};
use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, TableStyle};
use reports::numbers::grouped;
use serde_json::{Value, json};
use sim::catalogue;
use sim::document::Document;
use sim::gpu::GpuSpec;
use sim::model::{KvDtype, ModelSpec};
use sim::profile::CostProfile;
use sim::scenario::{Calibration, EnginePreset};
use std::process::ExitCode;

/// Arguments of `list`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to list; without it, how many of each there are
    #[arg(value_enum)]
    kind: Option<Kind>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Models,
    Gpus,
    Profiles,
    Calibrations,
    Scenarios,
    Engines,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (header, rows): (&[&str], Vec<Vec<Value>>) = match arguments.kind {
        None => (&["list", "entries", "what"], kinds()),
        Some(Kind::Models) => (
            &[
                "name",
                "parameters_billion",
                "active_billion",
                "kv_bytes_per_token_bf16",
                "max_positions",
                "licence",
            ],
            models()?,
        ),
        Some(Kind::Gpus) => {
            (&["name", "memory", "memory_bandwidth", "bf16", "fp8", "tdp", "source"], gpus()?)
        }
        Some(Kind::Profiles) => (&["name", "gpu", "measured_with", "source"], profiles()?),
        Some(Kind::Calibrations) => (&["name", "engine", "fitted_on", "held_out"], calibrations()?),
        Some(Kind::Scenarios) => (&["name", "description"], described(&catalogue::scenarios())?),
        Some(Kind::Engines) => (
            &["name", "description"],
            EnginePreset::ALL.map(|preset| vec![json!(preset.name()), json!(preset.description())]).into(),
        ),
    };
    match arguments.format {
        Format::Json => {
            let object = |row: Vec<Value>| -> Value {
                header.iter().map(|key| (*key).to_string()).zip(row).collect::<serde_json::Map<_, _>>().into()
            };
            output::print_json(&rows.into_iter().map(object).collect::<Vec<_>>())?;
        }
        Format::Text => output::print(&text(header, &rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(header: &[&str], rows: &[Vec<Value>]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header.iter().map(|key| key.replace('_', " ")));
    for row in rows {
        table.add_row(row.iter().map(|value| match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.as_u64().map_or_else(|| format!("{number:.1}"), grouped),
            Value::Null => "-".to_string(),
            other => other.to_string(),
        }));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if rows.iter().all(|row| row[index].is_number()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

/// The kinds, with how many there are of each.
fn kinds() -> Vec<Vec<Value>> {
    let kinds = [
        ("models", catalogue::models().len(), "models by name, for `model:` and `memory --model`"),
        ("gpus", catalogue::gpus().len(), "GPUs by name, for `hardware.gpu:` and `memory --gpu`"),
        ("engines", EnginePreset::ALL.len(), "engines and versions, for `engine.preset:`"),
        (
            "scenarios",
            catalogue::scenarios().len(),
            "ready-made scenarios, for `simulate`, `plan`, `sweep`, `compare`",
        ),
        (
            "profiles",
            catalogue::profiles().len(),
            "kernel times fitted from measurements, for `cost: {profile: ...}`",
        ),
        (
            "calibrations",
            catalogue::calibrations().len(),
            "corrections fitted to served runs, for `engine.calibration:`",
        ),
    ];
    kinds.map(|(kind, count, what)| vec![json!(kind), json!(count), json!(what)]).into()
}

/// The profiles: which GPU, with which software, by whom.
fn profiles() -> Result<Vec<Vec<Value>>> {
    let row = |entry: catalogue::Entry| -> Result<Vec<Value>> {
        let profile = CostProfile::parse(entry.name, entry.text)?;
        Ok(vec![
            json!(entry.name),
            json!(profile.gpu.name),
            json!(profile.software),
            json!(profile.attribution),
        ])
    };
    catalogue::profiles().into_iter().map(row).collect()
}

fn models() -> Result<Vec<Vec<Value>>> {
    let row = |entry: catalogue::Entry| -> Result<Vec<Value>> {
        let model = ModelSpec::from_catalogue_yaml(entry.text, entry.name)?;
        let counts = model.parameter_counts();
        let billions = |count: u64| json!((count as f64 / 1e8).round() / 10.0);
        Ok(vec![
            json!(model.name),
            billions(counts.total()),
            billions(counts.active()),
            json!(model.kv_bytes_per_token(KvDtype::Bf16, 1, model.all_layers())?),
            json!(model.max_positions),
            json!(model.licence),
        ])
    };
    catalogue::models().into_iter().map(row).collect()
}

fn gpus() -> Result<Vec<Vec<Value>>> {
    let row = |entry: catalogue::Entry| -> Result<Vec<Value>> {
        let gpu = GpuSpec::from_yaml(entry.text, entry.name)?;
        Ok(vec![
            json!(gpu.name),
            json!(gpu.memory.to_string()),
            json!(gpu.memory_bandwidth.to_string()),
            json!(gpu.compute.bf16.to_string()),
            gpu.compute.fp8.map_or(Value::Null, |rate| json!(rate.to_string())),
            json!(gpu.tdp.to_string()),
            json!(gpu.source),
        ])
    };
    catalogue::gpus().into_iter().map(row).collect()
}

fn calibrations() -> Result<Vec<Vec<Value>>> {
    let row = |entry: catalogue::Entry| -> Result<Vec<Value>> {
        let calibration = Calibration::parse(entry.name, entry.text)?;
        Ok(vec![
            json!(calibration.name),
            json!(calibration.engine),
            json!(calibration.fitted_on),
            json!(calibration.held_out),
        ])
    };
    catalogue::calibrations().into_iter().map(row).collect()
}

/// Name and the `description` key of each entry.
fn described(entries: &[catalogue::Entry]) -> Result<Vec<Vec<Value>>> {
    #[derive(serde::Deserialize)]
    struct Described {
        #[serde(default)]
        description: String,
    }
    let row = |entry: &catalogue::Entry| -> Result<Vec<Value>> {
        let described: Described = Document::parse(entry.name, entry.text)?.resolve()?;
        Ok(vec![json!(entry.name), json!(described.description)])
    };
    entries.iter().map(row).collect()
}
