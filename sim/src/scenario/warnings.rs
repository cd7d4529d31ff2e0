//! What to keep in mind of a run, each with a remedy.

use super::preset::Limit;
use super::{Group, Scenario};
use crate::cost::slower_experts;
use crate::digits::grouped;
use crate::metrics::{self, Distribution};
use crate::report::Metrics;
use crate::request::{Outcome, RequestId};
use crate::scheduler::{EngineRules, SchedulerConfig};
use crate::simulation::RunResult;

/// Requests below which a 99th percentile rests on fewer than ten requests.
const REQUESTS_FOR_P99: u64 = 1000;

/// What to keep in mind of this run.
pub(super) fn warnings(scenario: &Scenario, run: &RunResult, metrics: &Metrics) -> Vec<String> {
    let mut warnings = Vec::new();
    turned_away(scenario, run, metrics, &mut warnings);
    overloaded(scenario, run, metrics, &mut warnings);
    uncertain(scenario, run, metrics, &mut warnings);
    warnings
}

/// Requests that were turned away, rows that were left out.
fn turned_away(scenario: &Scenario, run: &RunResult, metrics: &Metrics, warnings: &mut Vec<String>) {
    let config = &scenario.engine.scheduler;
    let preset = scenario.engine.preset;
    let counts = &metrics.requests;
    if counts.rejected > 0 {
        let longest = grouped(rejected_tokens(run));
        let tenants = if scenario.tenants.is_some() { ", or less as its tenant's limits say" } else { "" };
        warnings.push(format!(
            "{} of {} requests were rejected: the longest has {longest} tokens, but a request can have {} \
             (engine.{}{tenants}) and all KV blocks together hold {}{}; raise the limit that binds, or cap the \
             workload's lengths",
            grouped(counts.rejected),
            grouped(counts.arrived),
            grouped(u64::from(config.max_model_len)),
            preset.key(Limit::Length),
            grouped(u64::from(metrics.kv.usable_blocks) * u64::from(config.block_size)),
            whole_prompts(config),
        ));
    }
    if counts.throttled > 0 {
        warnings.push(format!(
            "{} of {} requests were throttled by their tenants' limits; let them wait (when_limited: queue), or raise \
             the limit that binds",
            grouped(counts.throttled),
            grouped(counts.arrived)
        ));
    }
    warnings.extend(scenario.workload().notes().iter().cloned());
    let skipped = scenario.skipped_rows();
    if skipped > 0 {
        warnings.push(format!("{skipped} malformed rows of the trace were skipped (on_error: skip)"));
    }
}

/// Load that the deployment cannot carry.
fn overloaded(scenario: &Scenario, run: &RunResult, metrics: &Metrics, warnings: &mut Vec<String>) {
    let preset = scenario.engine.preset;
    let counts = &metrics.requests;
    if is_saturated(run) {
        warnings.push(
            "the deployment could not keep up: requests that arrived late waited far longer than early ones, so \
             latencies grow with the length of the run; lower the rate, add replicas, or read only the throughput"
                .to_string(),
        );
    }
    if metrics.steps.preemptions * 100 > counts.finished && counts.finished > 0 {
        warnings.push(format!(
            "{} preemptions for {} requests: the KV cache is too small for this traffic; lower engine.{}, \
             quantise the KV cache, or add GPUs",
            grouped(metrics.steps.preemptions),
            grouped(counts.finished),
            preset.key(Limit::Seats)
        ));
    }
}

/// What the figures do not know.
fn uncertain(scenario: &Scenario, run: &RunResult, metrics: &Metrics, warnings: &mut Vec<String>) {
    let config = &scenario.engine.scheduler;
    let preset = scenario.engine.preset;
    let counts = &metrics.requests;
    let positions = scenario.model.max_positions;
    if config.max_model_len > positions {
        warnings.push(format!(
            "engine.{} is {}, but {} was made for {} tokens: an engine refuses that unless the model's configuration \
             is changed too; lower it, or be sure that the model can",
            preset.key(Limit::Length),
            grouped(u64::from(config.max_model_len)),
            scenario.model.name,
            grouped(u64::from(positions))
        ));
    }
    if counts.finished > 0 && counts.finished < REQUESTS_FOR_P99 {
        warnings.push(format!(
            "p99 over {} request{} rests on {} of them and moves with the seed; simulate at least {}",
            counts.finished,
            if counts.finished == 1 { "" } else { "s" },
            counts.finished.div_ceil(100),
            grouped(REQUESTS_FOR_P99)
        ));
    }
    if let Some(usage) = run.usage.as_ref().filter(|usage| usage.outside_measured_range > 0.005) {
        warnings.push(format!(
            "{:.1} % of the step time comes from shapes up to {:.1} times larger or smaller than any measured; the \
             profile extrapolates there: measure such shapes, or read those times with care",
            usage.outside_measured_range * 100.0,
            libm::exp2(usage.octaves_outside)
        ));
    }
    if let Some(cost) = &scenario.pricing.profiled
        && let Some((format, ratio)) = slower_experts(cost)
    {
        warnings.push(format!(
            "experts in {format} take {ratio:.1} times as long as in bfloat16 by this profile (64 requests a step): its \
             source timed kernels that were not tuned for them, and a tuned engine is faster; compare with another \
             engine.quantization, or time your own (docs/calibrate.md)"
        ));
    }
    warnings.extend(scenario.groups.iter().find_map(|group| far_apart(scenario, group)));
    if let Some(plan) = &scenario.engine.memory
        && plan.blocks_per_position > 1
    {
        warnings.push(format!(
            "{} has layers with a limited attention span: each block of a sequence is charged for all {} groups of \
             layers, also where the window has passed, so fewer requests fit than on the engine",
            scenario.model.name, plan.blocks_per_position
        ));
    }
}

/// Tensor parallelism over links that no kernel was timed on: more GPUs than a server links, or PCIe alone.
fn far_apart(scenario: &Scenario, group: &Group) -> Option<String> {
    group.pricing.profiled.as_ref()?;
    let deployment = &scenario.file.deployment;
    let engines = deployment.pipeline_parallel.saturating_mul(deployment.data_parallel).max(1);
    let tensor = group.gpus_per_replica / engines;
    let gpu = &group.gpu.name;
    match &group.gpu.interconnect.peer_links {
        Some(links) if tensor > links.gpus => Some(format!(
            "{tensor} GPUs share each layer, but {} links {} of {gpu}: no network between servers is modelled, so the \
             interconnect's share of the time is a lower bound; put pipeline stages between servers",
            links.kind, links.gpus
        )),
        None if tensor > 1 => Some(format!(
            "{gpu} has no links between GPUs but PCIe, over which no collective was timed: small ones are assumed as \
             quick as over NVLink, so the interconnect's share of the time is a lower bound"
        )),
        _ => None,
    }
}

/// What bounds a prompt where it is not cut.
fn whole_prompts(config: &SchedulerConfig) -> String {
    match config.chunked_prefill || config.rules == EngineRules::Vllm {
        true => String::new(),
        false => format!(", and a prompt, which is not cut, at most {}", config.max_num_batched_tokens),
    }
}

fn rejected_tokens(run: &RunResult) -> u64 {
    if let Some(folded) = &run.folded {
        return folded.sums.rejected_tokens_max;
    }
    let table = &run.table;
    let tokens = |i: usize| u64::from(table.prompt_tokens[i]) + u64::from(table.output_tokens[i]);
    table
        .ids()
        .map(RequestId::index)
        .filter(|&i| table.outcome[i] == Outcome::Rejected)
        .map(tokens)
        .max()
        .unwrap_or(0)
}

/// Whether queueing grew over the run: the last quarter of the requests waited, in the median, more than three times as
/// long as the first quarter, and more than a second.
pub fn is_saturated(run: &RunResult) -> bool {
    let is_later = |first: u64, last: u64| last > 1_000_000_000 && last > first.saturating_mul(3);
    if let Some(folded) = &run.folded {
        let median = |durations| Distribution::of_counts(durations).map_or(0, |d| (d.p50 * 1e6) as u64);
        return is_later(median(&folded.early_queue), median(&folded.late_queue));
    }
    let waits: Vec<u64> = metrics::finished(&run.table).map(|id| metrics::queue_ns(&run.table, id)).collect();
    let quarter = waits.len() / 4;
    if quarter < 25 {
        return false;
    }
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        let middle = part.len() / 2;
        *part.select_nth_unstable(middle).1
    };
    let (first, last) = (median(&waits[..quarter]), median(&waits[waits.len() - quarter..]));
    is_later(first, last)
}
