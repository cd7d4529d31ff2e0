//! Where the time of a run's steps went: by operator, by what bound it, and how sure it is. Looked at on every
//! sixteenth step of a run, so that it costs little; shares, not sums, are meant to be read.

use super::{ASSUMED_ERROR, ProfiledCost, error_of_sum};
use crate::profile::{Dtype, Family, Operation};
use crate::step::StepShape;
use serde::Serialize;
use std::collections::BTreeMap;

/// One step in this many is looked at.
pub const SAMPLE_EVERY: u64 = 16;

/// A call that takes more than this many times its data-sheet limit is bound by neither rate.
const OVERHEAD_RATIO: f64 = 3.0;

/// What a share of the time was bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Reading and writing GPU memory.
    Memory,
    /// The matrix units.
    Compute,
    /// Links between GPUs.
    Interconnect,
    /// Kernels that take far longer than their work: launch, drain, small sizes.
    KernelOverhead,
    /// The engine on the CPU.
    Host,
}

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// It computes no prompt tokens.
    Decode,
    /// It computes prompt tokens, perhaps with decoding requests.
    Prefill,
}

/// Seconds and work of one kind of step.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    seconds: f64,
    operations: f64,
    bytes: f64,
}

/// Sums over the sampled steps, in seconds unless they say otherwise.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    steps_seen: u64,
    total: f64,
    by_kind: BTreeMap<StepKind, Work>,
    by_bound: BTreeMap<Bound, f64>,
    by_operator: BTreeMap<&'static str, f64>,
    /// Seconds of an operator times the 90th percentile of its kernel's error.
    error_by_operator: BTreeMap<&'static str, f64>,
    operations: f64,
    bytes: f64,
    outside: f64,
    octaves_outside: f64,
    waiting_for_seats: f64,
    waiting_for_blocks: f64,
}

/// Shares of the time of a run's steps, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageReport {
    /// Steps that were looked at.
    pub sampled_steps: u64,
    /// By what bound it, largest first.
    pub by_bound: Vec<(Bound, f64)>,
    /// By operator, largest first; host time is `host`.
    pub by_operator: Vec<(String, f64)>,
    /// Floating-point operations over what the matrix units could do in the same time, at the 16-bit rate.
    pub model_flops_utilization: f64,
    /// Bytes moved over what the memory could move in the same time.
    pub memory_bandwidth_utilization: f64,
    /// The same by kind of step, those that only decode first.
    pub phases: Vec<PhaseUsage>,
    /// Share of the time in calls outside the measured range.
    pub outside_measured_range: f64,
    /// How far outside the worst of them lies, in factors of two.
    pub octaves_outside: f64,
    /// Share of the time in which a request waited because all seats were taken.
    pub waiting_for_seats: f64,
    /// Share of the time in which a request waited because the KV blocks did not suffice.
    pub waiting_for_blocks: f64,
    /// 90 % of step times lie within this share of the prediction, as far as the kernels' held-out errors tell.
    pub step_error_90: f64,
}

/// How one kind of step used the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseUsage {
    /// Which steps.
    pub steps: StepKind,
    /// Their share of the time of all steps.
    pub time_share: f64,
    /// As of all steps.
    pub model_flops_utilization: f64,
    /// As of all steps.
    pub memory_bandwidth_utilization: f64,
}

/// What a step tells beyond its shape.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    /// Whether a request waited.
    pub is_waiting: bool,
    /// Whether all seats were taken.
    pub seats_full: bool,
    /// Whether the token budget was used up.
    pub budget_full: bool,
    /// Whether the engine's time on the CPU passes while the GPU works, as far as that takes (V-42b).
    pub hides_host: bool,
}

impl Usage {
    /// Counts a step; every [`SAMPLE_EVERY`]th is looked at.
    /// `passes` are the target's and a drafter's.
    pub fn see<'a>(
        &mut self,
        passes: impl Iterator<Item = (&'a ProfiledCost, StepShape)>,
        pressure: Pressure,
        host_seconds: f64,
    ) {
        let is_sampled = self.steps_seen.is_multiple_of(SAMPLE_EVERY);
        self.steps_seen += 1;
        if !is_sampled {
            return;
        }
        let before = Work { seconds: self.total, operations: self.operations, bytes: self.bytes };
        let mut has_prompt = None;
        for (cost, shape) in passes {
            // The first pass is the target's.
            has_prompt.get_or_insert(shape.prefill_tokens > 0);
            let Ok(calls) = cost.calls(&shape) else { return };
            for (operator, operation) in calls {
                let Ok(estimate) = cost.estimate(&operation) else { continue };
                let seconds = estimate.seconds * operator.count as f64 * cost.kernel_scale(&shape);
                self.add(operator.name, seconds, cost, &operation, operator.count as f64);
                if !estimate.in_range() {
                    self.outside += seconds;
                    self.octaves_outside = self.octaves_outside.max(estimate.octaves_outside);
                }
            }
        }
        let hidden_seconds = if pressure.hides_host { self.total - before.seconds } else { 0.0 };
        let host_seconds = (host_seconds - hidden_seconds).max(0.0);
        self.total += host_seconds;
        *self.by_bound.entry(Bound::Host).or_default() += host_seconds;
        *self.by_operator.entry("host").or_default() += host_seconds;
        let step_seconds = self.total - before.seconds;
        let kind = if has_prompt == Some(true) { StepKind::Prefill } else { StepKind::Decode };
        let work = self.by_kind.entry(kind).or_default();
        work.seconds += step_seconds;
        work.operations += self.operations - before.operations;
        work.bytes += self.bytes - before.bytes;
        if pressure.is_waiting && pressure.seats_full {
            self.waiting_for_seats += step_seconds;
        } else if pressure.is_waiting && !pressure.budget_full {
            self.waiting_for_blocks += step_seconds;
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        seconds: f64,
        cost: &ProfiledCost,
        operation: &Operation,
        times: f64,
    ) {
        let gpu = &cost.profile().gpu;
        let work = operation.work(gpu);
        let bound = match operation.family() {
            Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => {
                Bound::Interconnect
            }
            Family::ExpertExchange => Bound::Interconnect,
            _ if seconds > OVERHEAD_RATIO * work.light_seconds * times => Bound::KernelOverhead,
            _ if work.compute_seconds > work.memory_seconds => Bound::Compute,
            _ => Bound::Memory,
        };
        self.total += seconds;
        *self.by_bound.entry(bound).or_default() += seconds;
        *self.by_operator.entry(name).or_default() += seconds;
        if bound != Bound::Interconnect {
            let dtype = match operation {
                Operation::Gemm { dtype, .. } | Operation::Moe { dtype, .. } => *dtype,
                _ => Dtype::Bfloat16,
            };
            self.operations += times * work.compute_seconds * gpu.flops_per_second(dtype);
            self.bytes += times * work.memory_seconds * gpu.bytes_per_second;
        }
        let held_out = cost.profile().fit(operation).ok().and_then(|fit| fit.held_out);
        let error = held_out.map_or(ASSUMED_ERROR, |error| error.p90);
        *self.error_by_operator.entry(name).or_default() += seconds * error;
    }

    /// The shares; none before anything was seen.
    pub fn report(&self, cost: &ProfiledCost) -> Option<UsageReport> {
        if self.total <= 0.0 {
            return None;
        }
        let share = |seconds: f64| seconds / self.total;
        let gpu = &cost.profile().gpu;
        let mut by_bound: Vec<_> = self.by_bound.iter().map(|(bound, s)| (*bound, share(*s))).collect();
        by_bound.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut by_operator: Vec<_> =
            self.by_operator.iter().map(|(name, s)| ((*name).to_string(), share(*s))).collect();
        by_operator.sort_by(|a, b| b.1.total_cmp(&a.1));
        let utilization = |operations: f64, bytes: f64, seconds: f64| {
            (operations / seconds / gpu.bfloat16_flops_per_second, bytes / seconds / gpu.bytes_per_second)
        };
        let phase = |(steps, work): (&StepKind, &Work)| {
            let (flops, bandwidth) = utilization(work.operations, work.bytes, work.seconds.max(1e-12));
            PhaseUsage {
                steps: *steps,
                time_share: share(work.seconds),
                model_flops_utilization: flops,
                memory_bandwidth_utilization: bandwidth,
            }
        };
        let (flops, bandwidth) = utilization(self.operations, self.bytes, self.total);
        Some(UsageReport {
            sampled_steps: self.steps_seen.div_ceil(SAMPLE_EVERY),
            by_bound,
            by_operator,
            model_flops_utilization: flops,
            memory_bandwidth_utilization: bandwidth,
            phases: self.by_kind.iter().map(phase).collect(),
            outside_measured_range: share(self.outside),
            octaves_outside: self.octaves_outside,
            waiting_for_seats: share(self.waiting_for_seats),
            waiting_for_blocks: share(self.waiting_for_blocks),
            step_error_90: error_of_sum(self.error_by_operator.values().map(|error| share(*error))),
        })
    }
}
