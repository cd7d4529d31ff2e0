//! Whole steps of Llama-3.1-8B on the GPU against what a profile predicts for the same batches. The times go to a file, so
//! that any profile can be held against them later, without a GPU.

use kernels::Device;
use kernels::step::{Batch, Model, Sizes, Step};
use kernels::timing::{Effort, median_and_deviation, warm_up};
use sim::catalogue::find_model;
use sim::cost::operators::{Layout, operators};
use sim::cost::{Context, CudaGraphs, HostTime, ProfiledCost};
use sim::document::io_message;
use sim::model::{KvDtype, WeightDtype, WeightPlan};
use sim::profile::{CostProfile, Routing};
use sim::step::StepShape;
use sim::{Error, Result};
use std::path::Path;
use std::time::Duration;

/// Batches that are timed: decode batches of sizes that engines capture, and prompts.
pub const BATCHES: [Batch; 17] = [
    Batch::Decode { sequences: 1, context: 512 },
    Batch::Decode { sequences: 1, context: 8192 },
    Batch::Decode { sequences: 8, context: 1024 },
    Batch::Decode { sequences: 16, context: 4096 },
    Batch::Decode { sequences: 32, context: 2048 },
    Batch::Decode { sequences: 64, context: 1024 },
    Batch::Decode { sequences: 64, context: 4096 },
    Batch::Decode { sequences: 128, context: 1024 },
    Batch::Decode { sequences: 128, context: 4096 },
    Batch::Decode { sequences: 256, context: 512 },
    Batch::Decode { sequences: 256, context: 2048 },
    Batch::Prefill { chunks: 1, tokens: 1024 },
    Batch::Prefill { chunks: 1, tokens: 2048 },
    Batch::Prefill { chunks: 1, tokens: 4096 },
    Batch::Prefill { chunks: 1, tokens: 8192 },
    Batch::Prefill { chunks: 4, tokens: 1024 },
    Batch::Prefill { chunks: 16, tokens: 512 },
];

/// Error that a predicted step should keep.
const WITHIN: f64 = 0.05;
/// Columns of the file of times: kind, sequences or chunks, tokens that each has, seconds, spread of the samples.
const HEADER: &str = "batch,count,tokens,seconds,spread_seconds";

/// One batch, timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimedStep {
    /// The batch.
    pub batch: Batch,
    /// Median, seconds.
    pub seconds: f64,
    /// Spread of the samples, seconds.
    pub spread_seconds: f64,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WholeSteps {
    /// Those that were timed.
    pub steps: Vec<TimedStep>,
    /// Those that were not, each with the reason.
    pub left_out: Vec<String>,
}

/// What the profile says for a batch of Llama-3.1-8B on one GPU, host time left out.
///
/// # Errors
/// When the profile lacks a kernel.
pub fn predictor(profile: &CostProfile) -> Result<ProfiledCost> {
    let model = find_model("llama-3.1-8b")?;
    let weights = WeightPlan::of(WeightDtype::Bf16);
    let layout = Layout::tensor(1);
    let list = operators(&model, &weights, KvDtype::Auto, &layout, model.all_layers());
    let context = Context { layout, kv: KvDtype::Auto, routing: Routing::Balanced, load: None };
    ProfiledCost::new(profile.clone(), list, context, CudaGraphs::vllm(256, 16_384), HostTime::NONE)
}

/// The sums of a batch.
pub fn shape(batch: Batch) -> StepShape {
    let mut shape = StepShape::default();
    match batch {
        Batch::Decode { sequences, context } => {
            for _ in 0..sequences {
                shape.add(1, context - 1, false, true);
            }
        }
        Batch::Prefill { chunks, tokens } => {
            for _ in 0..chunks {
                shape.add(tokens, 0, true, true);
            }
        }
    }
    shape
}

/// Times every batch; those that fail, or do not fit into memory, are left out.
///
/// # Errors
/// No GPU, or weights that do not fit.
pub fn whole_steps(device: &Device) -> Result<WholeSteps> {
    if !device.is_gpu() {
        return Err(Error::new(
            "whole steps of Llama-3.1-8B need a GPU: 16 GB of weights, every layer's own",
        ));
    }
    let failed = |error: kernels::Error| Error::new(error.0);
    let model = Model::new(device, Sizes::LLAMA_8B).map_err(failed)?;
    warm_up(device).map_err(failed)?;
    let effort = Effort { samples: 15, limit: Duration::from_millis(400), eager: false };
    let mut all = WholeSteps::default();
    for batch in BATCHES {
        if device.is_lost() {
            all.left_out.push(format!("{batch:?}: the GPU takes no more work from this process"));
            continue;
        }
        let timed = Step::new(&model, batch)
            .and_then(|step| kernels::timing::measure_one(device, &|| step.launch(), effort));
        match timed {
            Ok(timing) => {
                let (seconds, spread_seconds) = (timing.seconds, timing.spread_seconds);
                all.steps.push(TimedStep { batch, seconds, spread_seconds });
            }
            Err(error) => all.left_out.push(format!("{batch:?}: {error}")),
        }
    }
    Ok(all)
}

impl WholeSteps {
    /// The times as CSV.
    pub fn to_csv(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for TimedStep { batch, seconds, spread_seconds } in &self.steps {
            let (kind, count, tokens) = match batch {
                Batch::Decode { sequences, context } => ("decode", sequences, context),
                Batch::Prefill { chunks, tokens } => ("prefill", chunks, tokens),
            };
            text += &format!("{kind},{count},{tokens},{seconds},{spread_seconds}\n");
        }
        text
    }

    /// Reads what [`to_csv`](WholeSteps::to_csv) wrote.
    ///
    /// # Errors
    /// One message with file and line.
    pub fn read(path: &Path) -> Result<WholeSteps> {
        let label = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error::file(&label, io_message(&error)))?;
        let mut lines = text.lines().zip(1_u64..);
        if lines.next().is_none_or(|(header, _)| header != HEADER) {
            return Err(Error::new(format!("expected the header `{HEADER}`")).at(&label, 1, 0));
        }
        let steps: Vec<TimedStep> = lines
            .map(|(line, number)| {
                step_of(line).ok_or_else(|| {
                    let message =
                        format!("found `{line}`, expected decode or prefill and four numbers above 0");
                    Error::new(message).at(&label, number, 0)
                })
            })
            .collect::<Result<_>>()?;
        if steps.is_empty() {
            return Err(Error::file(label, "holds no steps"));
        }
        Ok(WholeSteps { steps, left_out: Vec::new() })
    }

    /// A line per batch with what `profile` predicts, and the median error.
    ///
    /// # Errors
    /// When the profile lacks a kernel.
    pub fn table(&self, profile: &CostProfile) -> Result<String> {
        let predictor = predictor(profile)?;
        let mut text =
            format!("{:<44} {:>10} {:>8} {:>10} {:>8}\n", "batch", "ms", "spread", "predicted", "error");
        let mut errors = Vec::new();
        for TimedStep { batch, seconds, spread_seconds } in &self.steps {
            let predicted = predictor.gpu_seconds(&shape(*batch));
            let error = predicted / seconds - 1.0;
            errors.push(error.abs());
            let [ms, spread, predicted] = [*seconds, *spread_seconds, predicted].map(|seconds| seconds * 1e3);
            let batch = format!("{batch:?}");
            text +=
                &format!("{batch:<44} {ms:>10.3} {spread:>8.3} {predicted:>10.3} {:>7.1}%\n", error * 100.0);
        }
        let worst = errors.iter().copied().fold(0.0, f64::max) * 100.0;
        let (median, count) = (median_and_deviation(&errors).0 * 100.0, errors.len());
        let within = errors.iter().filter(|error| **error <= WITHIN).count();
        text += &format!(
            "{count} batches: median error {median:.1}%, worst {worst:.1}%; {within} within {:.0}%\n",
            WITHIN * 100.0
        );
        for reason in &self.left_out {
            text += &format!("left out: {reason}\n");
        }
        Ok(text)
    }
}

fn step_of(line: &str) -> Option<TimedStep> {
    let cells: Vec<&str> = line.split(',').collect();
    let [kind, count, tokens, seconds, spread] = cells[..] else { return None };
    let whole = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
    let (count, tokens) = (whole(count)?, whole(tokens)?);
    let batch = match kind {
        "decode" => Batch::Decode { sequences: count, context: tokens },
        "prefill" => Batch::Prefill { chunks: count, tokens },
        _ => return None,
    };
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let (seconds, spread_seconds) = (number(seconds).filter(|number| *number > 0.0)?, number(spread)?);
    Some(TimedStep { batch, seconds, spread_seconds })
}
