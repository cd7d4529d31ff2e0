//! `servesim calibrate from-bench`: the user's own benchmark results against the prediction of a scenario.

use crate::output::{self, Format, WholeFile};
use anyhow::{Result, bail};
use calibrate::from_bench::{Bench, compare, read_bench};
use sim::scenario::Scenario;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `from-bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Result files: JSON of `vllm bench serve`, JSON lines of sglang.bench_serving, a report of GuideLLM, a dump of vLLM's
    /// metrics, recordings of `servesim truth`, packed or not, or lines with prompt_tokens, output_tokens, ttft_ms and e2el_ms
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The deployment that was measured: a scenario file, or the name of a ready-made one
    #[arg(long)]
    scenario: String,
    /// Override a key of the scenario, for example --set engine.max_num_seqs=128
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Calibration to write, for `engine: { calibration: FILE }`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let scenario = Scenario::load(&arguments.scenario, &arguments.set)?;
    let mut benches: Vec<Bench> = Vec::new();
    for file in &arguments.files {
        benches.extend(read_bench(file)?);
    }
    let comparison = compare(&scenario, benches)?;
    if let Some(path) = &arguments.out {
        if comparison.values == 0 {
            bail!("--out: {}", comparison.verdict());
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let calibration = comparison.calibration(&name, scenario.engine.preset.name(), &arguments.scenario);
        let mut file = WholeFile::create(path)?;
        file.write_all(calibration.to_yaml().as_bytes())?;
        file.finish()?;
    }
    match arguments.format {
        Format::Text => output::print(&comparison.text()),
        Format::Json => output::print_json(&comparison.json()),
    }
}
