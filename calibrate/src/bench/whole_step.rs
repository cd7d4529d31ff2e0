//! Whole steps of Llama-3.1-8B on the GPU against what a profile predicts for the same batches.

use kernels::Device;
use kernels::step::{Batch, Model, Sizes, Step};
use kernels::timing::{Effort, median_and_deviation};
use sim::catalogue::find_model;
use sim::cost::operators::{Layout, operators};
use sim::cost::{Context, CudaGraphs, HostTime, ProfiledCost};
use sim::model::{KvDtype, WeightDtype, WeightPlan};
use sim::profile::{CostProfile, Routing};
use sim::step::StepShape;
use sim::{Error, Result};
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

/// One batch, timed and predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimedStep {
    /// The batch.
    pub batch: Batch,
    /// Measured, seconds; the spread of the samples.
    pub measured: (f64, f64),
    /// Predicted, seconds.
    pub predicted: f64,
}

/// All of them.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeSteps(pub Vec<TimedStep>);

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

/// Times every batch; those that do not fit into memory are left out.
///
/// # Errors
/// Weights that do not fit, a kernel that fails, a profile that lacks a kernel.
pub fn whole_steps(device: &Device, profile: &CostProfile) -> Result<WholeSteps> {
    if !device.is_gpu() {
        return Err(Error::new(
            "whole steps of Llama-3.1-8B need a GPU: 16 GB of weights, every layer's own",
        ));
    }
    let failed = |error: kernels::Error| Error::new(error.0);
    let predictor = predictor(profile)?;
    let model = Model::new(device, Sizes::LLAMA_8B).map_err(failed)?;
    let effort = Effort { samples: 15, limit: Duration::from_millis(400), eager: false };
    let mut steps = Vec::new();
    for batch in BATCHES {
        let Ok(step) = Step::new(&model, batch) else { continue };
        let timing = kernels::timing::measure_one(device, &|| step.launch(), effort).map_err(failed)?;
        let predicted = predictor.gpu_seconds(&shape(batch));
        steps.push(TimedStep { batch, measured: (timing.seconds, timing.spread_seconds), predicted });
    }
    Ok(WholeSteps(steps))
}

impl WholeSteps {
    /// A line per batch and the median error.
    pub fn table(&self) -> String {
        let mut text =
            format!("{:<44} {:>10} {:>8} {:>10} {:>8}\n", "batch", "ms", "spread", "predicted", "error");
        let mut errors = Vec::new();
        for TimedStep { batch, measured, predicted } in &self.0 {
            let error = predicted / measured.0 - 1.0;
            errors.push(error.abs());
            let [ms, spread, predicted] = [measured.0, measured.1, *predicted].map(|seconds| seconds * 1e3);
            let batch = format!("{batch:?}");
            text +=
                &format!("{batch:<44} {ms:>10.3} {spread:>8.3} {predicted:>10.3} {:>7.1}%\n", error * 100.0);
        }
        let worst = errors.iter().copied().fold(0.0, f64::max) * 100.0;
        let (median, count) = (median_and_deviation(&errors).0 * 100.0, errors.len());
        text + &format!("{count} batches: median error {median:.1}%, worst {worst:.1}%\n")
    }
}
