//! Where the time of a run's steps went: by operator, by what bound it, and how sure it is. Looked at after the run, on
//! the steps that each replica kept ([`StepSamples`](crate::replica::StepSamples)); shares, not sums, are meant to be read.

use super::{ASSUMED_ERROR, ProfiledCost, error_of_sum};
use crate::error::Result;
use crate::profile::{CostProfile, Dtype, Estimate, Family, KernelFit, Operation, Provenance};
use crate::replica::{SampledStep, StepTotals};
use crate::scenario::{DraftPricing, Pricing};
use crate::scheduler::SchedulerConfig;
use crate::step::StepShape;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// A call that takes more than this many times what its operations and bytes take at the data sheet's rates is bound by
/// neither.
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

/// Requests of the step at which formats are compared.
const COMPARED_REQUESTS: u64 = 64;
/// Context of each of them, in tokens.
const COMPARED_CONTEXT: u64 = 1024;
/// From this many times the 16-bit time on a narrower format is worth a warning.
const SLOWER: f64 = 1.2;

/// Where the profile prices experts in a narrower format higher than in 16 bits, as kernels are that its source did not
/// tune: the format's name and how many times as long the experts of a step of 64 requests take. Nothing of a GPU's own rows.
pub fn slower_experts(cost: &ProfiledCost) -> Option<(&'static str, f64)> {
    let shape = StepShape {
        decode_requests: COMPARED_REQUESTS,
        decode_context_tokens: COMPARED_REQUESTS * COMPARED_CONTEXT,
        sampled_requests: COMPARED_REQUESTS,
        ..StepShape::default()
    };
    cost.calls(&shape).ok()?.into_iter().find_map(|(_, operation)| {
        let Operation::Moe { tokens, experts, dtype, routing, touched } = operation else { return None };
        if matches!(cost.profile().fit(&operation).ok()?.provenance, Provenance::Measured) {
            return None;
        }
        let seconds = |dtype| {
            let operation = Operation::Moe { tokens, experts, dtype, routing, touched };
            cost.profile().evaluate(&operation).ok().map(|estimate| estimate.seconds)
        };
        let ratio = seconds(dtype)? / seconds(Dtype::Bfloat16)?;
        (ratio >= SLOWER).then(|| (dtype.name(), ratio))
    })
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
struct Usage {
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

/// Engines that were priced by one profile.
pub struct UsagePart<'a> {
    /// Which of the run's.
    pub engines: Range<usize>,
    /// Their limits.
    pub config: SchedulerConfig,
    /// What priced them.
    pub pricing: &'a Pricing,
}

/// A profile with the fits of its operators, and what calls cost that depend on their rows alone: many steps have the same.
struct Fitted<'a> {
    cost: &'a ProfiledCost,
    fits: Vec<Option<&'a KernelFit>>,
    /// By number of the operator and the bits of the rows.
    known: FxHashMap<(usize, u64), Option<Estimate>>,
}

impl<'a> Fitted<'a> {
    fn new(cost: &'a ProfiledCost) -> Fitted<'a> {
        Fitted { cost, fits: cost.fits(), known: FxHashMap::default() }
    }

    fn estimate(&mut self, number: usize, rows: Option<f64>, operation: &Operation) -> Option<Estimate> {
        let fit = self.fits.get(number).copied().flatten();
        let estimate = || self.cost.estimate_by(fit, operation).ok();
        match rows {
            Some(rows) => *self.known.entry((number, rows.to_bits())).or_insert_with(estimate),
            None => estimate(),
        }
    }
}

impl Usage {
    /// Looks at a step that stands for `weight` others: the target's pass, and a drafter's.
    fn see(&mut self, part: &UsagePart<'_>, fitted: &mut [Fitted<'_>], step: &SampledStep, weight: f64) {
        let Some(target) = part.pricing.profiled_at(step.shape.epoch) else { return };
        let before = Work { seconds: self.total, operations: self.operations, bytes: self.bytes };
        let drafting = part.pricing.drafting.iter().flat_map(|drafting| drafting.passes(&step.shape));
        for (cost, shape) in std::iter::once((target, step.shape)).chain(drafting) {
            let Some(fitted) = fitted.iter_mut().find(|known| std::ptr::eq(known.cost, cost)) else {
                return;
            };
            if self.see_pass(fitted, &shape, weight).is_err() {
                return;
            }
        }
        // With asynchronous scheduling it passes while the GPU works, as far as that takes (V-42b).
        let hidden_seconds = if part.config.async_scheduling { self.total - before.seconds } else { 0.0 };
        let host_seconds = part.pricing.model.host(&step.shape).seconds() * weight;
        let host_seconds = (host_seconds - hidden_seconds).max(0.0);
        self.total += host_seconds;
        *self.by_bound.entry(Bound::Host).or_default() += host_seconds;
        *self.by_operator.entry("host").or_default() += host_seconds;
        let step_seconds = self.total - before.seconds;
        let kind = if step.shape.prefill_tokens > 0 { StepKind::Prefill } else { StepKind::Decode };
        let work = self.by_kind.entry(kind).or_default();
        work.seconds += step_seconds;
        work.operations += self.operations - before.operations;
        work.bytes += self.bytes - before.bytes;
        let budget_full = step.shape.new_tokens() >= u64::from(part.config.max_num_batched_tokens);
        if step.waiting_requests > 0 && step.running_requests >= part.config.max_num_seqs {
            self.waiting_for_seats += step_seconds;
        } else if step.waiting_requests > 0 && !budget_full {
            self.waiting_for_blocks += step_seconds;
        }
    }

    /// Looks at one pass of a step.
    fn see_pass(&mut self, fitted: &mut Fitted<'_>, shape: &StepShape, weight: f64) -> Result<()> {
        let cost = fitted.cost;
        for (number, rows, operation) in cost.numbered_calls(shape)? {
            let Some(estimate) = fitted.estimate(number, rows, &operation) else { continue };
            let (operator, fit) = (&cost.operators()[number], fitted.fits.get(number).copied().flatten());
            let times = operator.count as f64 * weight;
            let once = cost.serving_seconds(&operation, estimate.seconds);
            let seconds = once * times * cost.kernel_scale(shape);
            let fit = fit.or_else(|| cost.profile().fit(&operation).ok());
            self.add(operator.name, seconds, cost.profile(), fit, &operation, times);
            if !estimate.in_range() {
                self.outside += seconds;
                self.octaves_outside = self.octaves_outside.max(estimate.octaves_outside);
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: &'static str,
        seconds: f64,
        profile: &CostProfile,
        fit: Option<&KernelFit>,
        operation: &Operation,
        times: f64,
    ) {
        let gpu = &profile.gpu;
        let work = operation.work(gpu);
        let bound = match operation.family() {
            Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => {
                Bound::Interconnect
            }
            Family::ExpertExchange => Bound::Interconnect,
            // The limit that no call beats leaves out experts that tokens may share; these were read.
            _ if seconds > OVERHEAD_RATIO * work.light_seconds.max(work.memory_seconds) * times => {
                Bound::KernelOverhead
            }
            _ if work.compute_seconds > work.memory_seconds => Bound::Compute,
            _ => Bound::Memory,
        };
        self.total += seconds;
        *self.by_bound.entry(bound).or_default() += seconds;
        *self.by_operator.entry(name).or_default() += seconds;
        if bound != Bound::Interconnect {
            self.operations += times * work.operations;
            self.bytes += times * work.memory_seconds * gpu.bytes_per_second;
        }
        let held_out = fit.and_then(|fit| fit.held_out);
        let error = held_out.map_or(ASSUMED_ERROR, |error| error.p90);
        *self.error_by_operator.entry(name).or_default() += seconds * error;
    }

    /// Adds what was seen of other replicas. Rates of use are kept as seconds of a GPU that is used fully.
    fn merge(&mut self, other: &Usage) {
        self.total += other.total;
        for (kind, work) in &other.by_kind {
            let sum = self.by_kind.entry(*kind).or_default();
            sum.seconds += work.seconds;
            sum.operations += work.operations;
            sum.bytes += work.bytes;
        }
        for (bound, seconds) in &other.by_bound {
            *self.by_bound.entry(*bound).or_default() += seconds;
        }
        for (operator, seconds) in &other.by_operator {
            *self.by_operator.entry(operator).or_default() += seconds;
        }
        for (operator, seconds) in &other.error_by_operator {
            *self.error_by_operator.entry(operator).or_default() += seconds;
        }
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.outside += other.outside;
        self.octaves_outside = self.octaves_outside.max(other.octaves_outside);
        self.waiting_for_seats += other.waiting_for_seats;
        self.waiting_for_blocks += other.waiting_for_blocks;
    }
}

impl UsageReport {
    /// The shares over the steps that `replicas` kept; none where no profile priced any.
    pub fn of_run(replicas: &[StepTotals], parts: &[UsagePart<'_>]) -> Option<UsageReport> {
        let mut all = Usage::default();
        let mut sampled_steps = 0;
        for part in parts {
            let mut own = Usage::default();
            let Some(target) = part.pricing.profiled.as_deref() else { continue };
            let drafters = part.pricing.drafting.iter().flat_map(DraftPricing::profiles);
            let mut fitted: Vec<Fitted<'_>> =
                part.pricing.profiled_by_epoch().chain(drafters).map(Fitted::new).collect();
            for (weight, step) in replicas[part.engines.clone()].iter().flat_map(|r| r.samples.steps()) {
                sampled_steps += 1;
                own.see(part, &mut fitted, step, weight as f64);
            }
            let gpu = &target.profile().gpu;
            own.operations /= gpu.bfloat16_flops_per_second;
            own.bytes /= gpu.bytes_per_second;
            for work in own.by_kind.values_mut() {
                work.operations /= gpu.bfloat16_flops_per_second;
                work.bytes /= gpu.bytes_per_second;
            }
            all.merge(&own);
        }
        (all.total > 0.0).then(|| all.report(sampled_steps))
    }
}

impl Usage {
    /// The shares.
    fn report(&self, sampled_steps: u64) -> UsageReport {
        let share = |seconds: f64| seconds / self.total;
        let mut by_bound: Vec<_> = self.by_bound.iter().map(|(bound, s)| (*bound, share(*s))).collect();
        by_bound.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut by_operator: Vec<_> =
            self.by_operator.iter().map(|(name, s)| ((*name).to_string(), share(*s))).collect();
        by_operator.sort_by(|a, b| b.1.total_cmp(&a.1));
        let phase = |(steps, work): (&StepKind, &Work)| PhaseUsage {
            steps: *steps,
            time_share: share(work.seconds),
            model_flops_utilization: work.operations / work.seconds.max(1e-12),
            memory_bandwidth_utilization: work.bytes / work.seconds.max(1e-12),
        };
        UsageReport {
            sampled_steps,
            by_bound,
            by_operator,
            model_flops_utilization: share(self.operations),
            memory_bandwidth_utilization: share(self.bytes),
            phases: self.by_kind.iter().map(phase).collect(),
            outside_measured_range: share(self.outside),
            octaves_outside: self.octaves_outside,
            waiting_for_seats: share(self.waiting_for_seats),
            waiting_for_blocks: share(self.waiting_for_blocks),
            step_error_90: error_of_sum(self.error_by_operator.values().map(|error| share(*error))),
        }
    }
}
