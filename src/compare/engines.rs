//! `servesim compare --engines`: one scenario on several engines. Settings that mean the same are carried over under the
//! name that each engine has for them, and what an engine does not have is said.

use super::{Arguments, put, tables};
use crate::output::{self, Format};
use anyhow::{Result, anyhow, bail};
use planner::compare::{Comparison, Side, compare};
use planner::seeds;
use serde::Serialize;
use sim::scenario::{EnginePreset, Scenario, ScenarioFile};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

/// The newest of every engine.
const ALL: [EnginePreset; 7] = [
    EnginePreset::Vllm033,
    EnginePreset::Sglang,
    EnginePreset::TrtLlm,
    EnginePreset::Tgi,
    EnginePreset::Orca,
    EnginePreset::Sarathi,
    EnginePreset::Static,
];

/// The answer.
#[derive(Serialize)]
struct Answer {
    comparison: Comparison,
    /// By engine: settings of the scenario that it does not have.
    left_out: BTreeMap<&'static str, Vec<String>>,
    /// By engine: why it cannot run the scenario.
    refused: BTreeMap<&'static str, String>,
}

/// Runs the scenario on each engine.
pub fn run(arguments: &Arguments, engines: &str) -> Result<ExitCode> {
    let [scenario] = arguments.sides.as_slice() else {
        bail!("--engines: found {} scenarios, expected one", arguments.sides.len());
    };
    let presets = presets(engines)?;
    let (document, _) = Scenario::document(scenario, &arguments.set)?;
    let file: ScenarioFile = document.resolve()?;
    // The scenario must be right as it stands, before it is written for others.
    Scenario::load(scenario, &arguments.set)?;
    let (mut sides, mut left_out, mut refused) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for preset in presets {
        // A scenario of one version of an engine is not rewritten for it.
        let translation = preset.translate(&file.engine);
        if !translation.left_out.is_empty() {
            left_out.insert(preset.name(), translation.left_out);
        }
        let mut set = arguments.set.clone();
        set.push(format!("engine={}", translation.engine));
        match seeds::reports(scenario, &set, arguments.seeds) {
            Ok(reports) => {
                let scenario = super::scenario(scenario, &set)?;
                sides.push(Side { label: preset.name().to_string(), scenario, reports });
            }
            Err(error) => {
                refused.insert(preset.name(), error.message().to_string());
            }
        }
    }
    if sides.is_empty() {
        let reasons: Vec<String> = refused.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        return Err(anyhow!("no engine can run this scenario: {}", reasons.join("; ")));
    }
    let answer = Answer { comparison: compare(&sides), left_out, refused };
    match arguments.format {
        Format::Json => output::print_json(&answer)?,
        Format::Text => output::print(&text(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn presets(engines: &str) -> Result<Vec<EnginePreset>> {
    if engines == "all" {
        return Ok(ALL.to_vec());
    }
    let mut presets: Vec<EnginePreset> = Vec::new();
    for name in engines.split(',').map(str::trim) {
        let Some(preset) = EnginePreset::parse(name) else {
            let known: Vec<&str> = EnginePreset::ALL.iter().map(|preset| preset.name()).collect();
            bail!("--engines: found `{name}`, expected all or some of {}", known.join(", "));
        };
        if presets.contains(&preset) {
            bail!("--engines: found {} twice", preset.name());
        }
        presets.push(preset);
    }
    Ok(presets)
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    put(&mut text, &tables(&answer.comparison, false).1);
    let _ = writeln!(text);
    for (engine, keys) in &answer.left_out {
        let _ = writeln!(text, "{engine} has no {}: left out", keys.join(", "));
    }
    for (engine, reason) in &answer.refused {
        let _ = writeln!(text, "{engine} cannot run this scenario: {reason}");
    }
    let _ = writeln!(
        text,
        "What is not carried over is each engine's own default; `servesim list engines` says how far each is verified."
    );
    text
}
