//! How a run used the hardware: where its step time went, how near it came to the GPU's limits, where the memory is.

use crate::bars::{Bar, Bars};
use crate::charts::{Axis, Chart, Mark, Series};
use crate::numbers::{percent, short};
use crate::run_folder::RunFolder;
use serde_json::Value;
use sim::document::Document;
use sim::error::Result;
use sim::memory::MemoryPlan;
use sim::profile::GpuLimits;
use sim::scenario::Scenario;
use std::path::Path;

/// Operators below this share of the step time are shown together.
const SMALL_SHARE: f64 = 0.005;
/// Shares below this read as nothing.
const NO_SHARE: f64 = 0.0005;
/// A binary gigabyte, in which engines state memory.
const GIB: f64 = (1u64 << 30) as f64;

/// What a run's scenario says of the hardware.
pub struct Hardware {
    /// Limits of the GPU's data sheet.
    pub limits: GpuLimits,
    /// Where the memory of each GPU goes; none where the scenario sets the KV blocks itself.
    pub memory: Option<MemoryPlan>,
}

impl Hardware {
    /// Of the scenario of a run folder. Its workload is not looked at, so that a trace need not be there any more.
    ///
    /// # Errors
    /// A model or GPU of the scenario that is not there any more.
    pub fn of(scenario: &str, folder: &Path) -> Result<Hardware> {
        let mut document = Document::parse("scenario.yaml", scenario)?;
        let one = "{requests: 1, arrivals: {constant: 1/s}, prompt: {constant: 1}, output: {constant: 1}}";
        document.set(&format!("workload={one}"))?;
        let scenario = Scenario::resolve("scenario.yaml", &document, folder)?;
        Ok(Hardware { limits: GpuLimits::of(&scenario.gpu), memory: scenario.engine.memory })
    }
}

/// `[["name", share], ..]` at a pointer of the report, largest first.
fn shares(run: &RunFolder, pointer: &str) -> Vec<(String, f64)> {
    let entry = |entry: &Value| Some((entry.get(0)?.as_str()?.to_string(), entry.get(1)?.as_f64()?));
    run.report.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(entry).collect()
}

fn share_bars(title: &str, note: &str, shares: &[(String, f64)]) -> Option<Bars> {
    let bar = |(label, share): &(String, f64)| Bar {
        label: label.clone(),
        values: vec![share * 100.0],
        text: percent(*share),
    };
    (!shares.is_empty()).then(|| Bars {
        title: title.into(),
        note: note.into(),
        axis: "share of the step time (%)".into(),
        parts: vec!["share".into()],
        bars: shares.iter().map(bar).collect(),
    })
}

/// What a bound of the report means, in words.
fn bound_name(bound: &str) -> &str {
    match bound {
        "memory" => "memory bandwidth",
        "compute" => "matrix units",
        "interconnect" => "links between GPUs",
        "kernel_overhead" => "kernel overhead",
        "host" => "engine on the CPU",
        other => other,
    }
}

/// What bound the steps, largest first: the name in words and its share; empty without a profile.
pub fn bounds(run: &RunFolder) -> Vec<(String, f64)> {
    shares(run, "/usage/by_bound")
        .into_iter()
        .filter(|(_, share)| *share >= NO_SHARE)
        .map(|(name, share)| (bound_name(&name).to_string(), share))
        .collect()
}

/// Bars of the step time by operator and by what bound it; none without a profile.
pub fn step_time(run: &RunFolder) -> Vec<Bars> {
    let all = shares(run, "/usage/by_operator");
    let (mut operators, small): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, share)| *share >= SMALL_SHARE);
    if !small.is_empty() {
        let name = format!("{} others", small.len());
        operators.push((name, small.iter().map(|(_, share)| share).sum()));
    }
    let note = "Of a sample of steps over the whole run. Host: the engine on the CPU while the GPU waits.";
    let bound_note = "Each kernel counts for what would make it faster. Kernel overhead: kernels that take more than \
                      three times what their work needs.";
    let by_operator = share_bars("Where the step time goes", note, &operators);
    let by_bound = share_bars("What bound the steps", bound_note, &bounds(run));
    by_operator.into_iter().chain(by_bound).collect()
}

/// A point of the roofline: operations per byte, and TFLOP/s of one GPU.
fn point(limits: &GpuLimits, flops_share: f64, bytes_share: f64) -> Option<(f64, f64)> {
    let flops_per_s = flops_share * limits.bfloat16_flops_per_second;
    let bytes_per_s = bytes_share * limits.bytes_per_second;
    (flops_per_s > 0.0 && bytes_per_s > 0.0).then(|| (flops_per_s / bytes_per_s, flops_per_s / 1e12))
}

/// Where the run lies below the limits of its GPU (Williams, Waterman and Patterson, "Roofline", 2009); none without a
/// profile. The time counts whole, host time included.
pub fn roofline(run: &RunFolder, hardware: &Hardware) -> Option<Chart> {
    let limits = &hardware.limits;
    let at = |value: &Value| {
        let share = |key: &str| value.get(key)?.as_f64();
        point(limits, share("model_flops_utilization")?, share("memory_bandwidth_utilization")?)
    };
    let whole = at(run.report.get("usage")?)?;
    let phases = run.report.pointer("/usage/phases").and_then(Value::as_array);
    let mut points: Vec<(String, (f64, f64))> = phases
        .into_iter()
        .flatten()
        .filter_map(|phase| {
            let name = match phase.get("steps")?.as_str()? {
                "decode" => "steps that only decode",
                _ => "steps with prompts",
            };
            Some((name.to_string(), at(phase)?))
        })
        .collect();
    points.push(("whole run".to_string(), whole));
    let ridge = limits.bfloat16_flops_per_second / limits.bytes_per_second;
    let xs = || points.iter().map(|(_, point)| point.0).chain([ridge]);
    let (low, high) = (xs().fold(f64::MAX, f64::min) / 4.0, xs().fold(0.0, f64::max) * 4.0);
    let roof = |peak: f64| {
        let bend = peak / limits.bytes_per_second;
        let at = |x: f64| (x, (x * limits.bytes_per_second).min(peak) / 1e12);
        [low, bend, high.max(bend * 2.0)].map(at).to_vec()
    };
    let mut series = vec![Series::line("limit, 16-bit", roof(limits.bfloat16_flops_per_second))];
    if limits.fp8_flops_per_second > limits.bfloat16_flops_per_second {
        series.push(Series::line("limit, 8-bit", roof(limits.fp8_flops_per_second)));
    }
    series.extend(points.into_iter().map(|(name, point)| Series::scatter(name, vec![point])));
    Some(Chart {
        title: "Roofline: how near the GPU's limits".into(),
        note: format!(
            "On the slope of the line memory bandwidth is the limit, on the flat part the matrix units. One GPU does {} \
             operations per byte it reads, {} TFLOP/s.",
            short(whole.0),
            short(whole.1)
        ),
        x: Axis::log("operations per byte of GPU memory moved"),
        y: Axis::log("TFLOP/s of one GPU"),
        series,
        marks: vec![Mark { value: ridge, text: format!("ridge {}", short(ridge)), on_x: true }],
    })
}

/// Names of the parts of [`memory_bar`].
pub const MEMORY_PARTS: [&str; 6] =
    ["weights", "KV cache", "activations", "CUDA graphs", "framework", "left"];

/// The parts of a GPU's memory in GiB; a model that is too large is cut at the end of the memory.
pub fn memory_values(usable_bytes: u64, parts: [u64; 5]) -> Vec<f64> {
    let mut room = usable_bytes;
    let cut = parts.map(|bytes| {
        let taken = bytes.min(room);
        room -= taken;
        taken as f64 / GIB
    });
    cut.into_iter().chain([room as f64 / GIB]).collect()
}

/// The memory of each kind of GPU of the deployment, as one bar each.
pub fn memory_bars(plan: &MemoryPlan) -> Bars {
    let stages = plan.ranks.iter().map(|rank| rank.stage).max().unwrap_or(0) + 1;
    let bar = |rank: &sim::memory::RankMemory| {
        let gpus = if rank.gpus == 1 { "GPU".to_string() } else { format!("each of {} GPUs", rank.gpus) };
        let parts = [
            rank.weight_bytes,
            rank.kv_used_bytes,
            rank.activation_bytes,
            rank.cuda_graph_bytes,
            rank.framework_bytes,
        ];
        Bar {
            label: if stages == 1 { gpus } else { format!("stage {}, {gpus}", rank.stage) },
            values: memory_values(plan.usable_bytes, parts),
            text: format!("{} GiB", short(plan.usable_bytes as f64 / GIB)),
        }
    };
    Bars {
        title: "Memory of a GPU".into(),
        note: format!(
            "Left: kept free by gpu_memory_utilization, or too little for another KV block. {} KV blocks fit.",
            crate::numbers::grouped(u64::from(plan.num_blocks))
        ),
        axis: "GiB".into(),
        parts: MEMORY_PARTS.map(String::from).to_vec(),
        bars: plan.ranks.iter().map(bar).collect(),
    }
}
