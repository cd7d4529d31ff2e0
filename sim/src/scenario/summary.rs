//! What a scenario says of itself, and the report of its run with provenance and warnings.

use super::preset::Limit;
use super::{CostSection, DeploymentSection, ReplicaGroup, Scenario, SloSection, Speculation};
use crate::cost::{ExpertLoad, UsageReport};
use crate::error::Result;
use crate::fleet::FleetUse;
use crate::memory::MemoryPlan;
use crate::metrics::{self, Distribution};
use crate::model::Placement;
use crate::report::Metrics;
use crate::request::{Outcome, RequestId};
use crate::router::RouterSection;
use crate::scheduler::{EngineRules, Policy, SchedulerConfig};
use crate::simulation::RunResult;
use crate::tenants::{TenantsReport, TenantsSection};
use crate::workload::WorkloadSpec;
use serde::Serialize;
use std::sync::Arc;

/// A scenario with every default filled in.
#[derive(Serialize)]
pub struct Resolved<'a> {
    scenario: &'a str,
    model: ResolvedModel,
    hardware: ResolvedHardware,
    deployment: &'a DeploymentSection,
    replica_groups: &'a [ReplicaGroup],
    router: &'a RouterSection,
    engine: ResolvedEngine<'a>,
    /// Where tokens do not spread evenly over the experts: what that means.
    experts: Option<ResolvedExpertLoad>,
    memory: Option<&'a MemoryPlan>,
    workload: &'a WorkloadSpec,
    tenants: Option<&'a TenantsSection>,
    slo: &'a SloSection,
    cost: &'a CostSection,
    step_times: &'a str,
    seed: u64,
}

#[derive(Serialize)]
struct ResolvedModel {
    name: String,
    source: String,
    licence: String,
    architecture: String,
    layers: u32,
    parameters: u64,
    active_parameters: u64,
    weight_bytes_per_gpu: u64,
    kv_cache_bytes_per_token_and_gpu: u64,
    not_counted: String,
}

#[derive(Serialize)]
struct ResolvedHardware {
    gpu: String,
    source: String,
    gpus: u32,
    memory: String,
    memory_bandwidth: String,
    bf16: String,
    price: Option<String>,
}

#[derive(Serialize)]
struct ResolvedEngine<'a> {
    preset: &'static str,
    block_size: u32,
    num_gpu_blocks: u32,
    kv_cache_tokens: u64,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    enable_prefix_caching: bool,
    enable_chunked_prefill: bool,
    scheduling_policy: Policy,
    long_prefill_token_threshold: u32,
    watermark_blocks: u32,
    scheduler_reserve_full_isl: bool,
    gpu_memory_utilization: f64,
    kv_cache_dtype: &'static str,
    rules: EngineRules,
    #[serde(skip_serializing_if = "Option::is_none")]
    speculative_config: Option<ResolvedSpeculation<'a>>,
}

#[derive(Serialize)]
struct ResolvedSpeculation<'a> {
    method: &'static str,
    num_speculative_tokens: u32,
    parallel_drafting: bool,
    acceptance_by_position: &'a [f64],
    mean_acceptance_length: f64,
    acceptance: &'a str,
}

impl<'a> ResolvedSpeculation<'a> {
    fn new(speculation: &'a Speculation) -> ResolvedSpeculation<'a> {
        ResolvedSpeculation {
            method: speculation.method.name(),
            num_speculative_tokens: speculation.drafts,
            parallel_drafting: speculation.in_parallel,
            acceptance_by_position: speculation.acceptance.chances(),
            mean_acceptance_length: speculation.acceptance.expected_tokens(),
            acceptance: &speculation.acceptance_source,
        }
    }
}

/// How unevenly the experts are used, averaged over their layers.
#[derive(Serialize)]
struct ResolvedExpertLoad {
    /// GPUs that a token's experts are on, on average.
    gpus_per_token: f64,
    /// Tokens that the busiest of them gets, over an even share.
    busiest_receiver: f64,
    by_tokens: Vec<LoadAt>,
    /// Where popularity drifts: the busiest GPU's expert tokens of 4,096 over an even share, epoch by epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    busiest_gpu_by_epoch: Vec<f64>,
}

/// Loads of a step of so many tokens on all data-parallel ranks together.
#[derive(Serialize)]
struct LoadAt {
    tokens: u32,
    /// The busiest GPU's expert tokens over an even share.
    busiest_gpu: f64,
    /// Most distinct experts of a layer that a GPU reads.
    experts_touched: f64,
}

impl ResolvedExpertLoad {
    fn new(load: &ExpertLoad, later: &[Arc<ExpertLoad>]) -> ResolvedExpertLoad {
        let at = |tokens: u32| LoadAt {
            tokens,
            busiest_gpu: load.even_tokens(f64::from(tokens)) / f64::from(tokens),
            experts_touched: load.touched(f64::from(tokens)),
        };
        ResolvedExpertLoad {
            gpus_per_token: load.ranks_per_token,
            busiest_receiver: load.busiest_receiver,
            by_tokens: Vec::from([1, 16, 256, 4096, 65_536].map(at)),
            busiest_gpu_by_epoch: match later {
                [] => Vec::new(),
                later => {
                    let all = std::iter::once(load).chain(later.iter().map(|load| &**load));
                    all.map(|load| load.even_tokens(4096.0) / 4096.0).collect()
                }
            },
        }
    }
}

impl<'a> Resolved<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Resolved<'a> {
        let Scenario { model, gpu, engine, file, .. } = scenario;
        let ranks = file.deployment.tensor_parallel;
        let parallel = super::experts::parallelism(file, model);
        let placement = Placement {
            tensor_parallel: ranks,
            expert_parallel: parallel.expert,
            expert_slices: parallel.expert_slices(),
            layers: model.all_layers(),
        };
        let largest_share = parallel.expert_shares(model).first().and_then(|share| share.experts);
        let weights = model.weight_bytes_with_experts(&engine.weights, &placement, largest_share);
        let counts = model.parameter_counts();
        let s = &engine.scheduler;
        Resolved {
            scenario: &scenario.label,
            model: ResolvedModel {
                name: model.name.clone(),
                source: model.source.clone(),
                licence: model.licence.clone(),
                architecture: model.architecture.clone(),
                layers: model.layers(),
                parameters: counts.total(),
                active_parameters: counts.active(),
                weight_bytes_per_gpu: weights.total(),
                kv_cache_bytes_per_token_and_gpu: model
                    .kv_bytes_per_token(engine.kv, ranks, model.all_layers())
                    .unwrap_or(0),
                not_counted: model.not_counted().join(", "),
            },
            hardware: ResolvedHardware {
                gpu: gpu.name.clone(),
                source: gpu.source.clone(),
                gpus: scenario.gpus(),
                memory: gpu.memory.to_string(),
                memory_bandwidth: gpu.memory_bandwidth.to_string(),
                bf16: gpu.compute.bf16.to_string(),
                price: scenario.gpu_price().map(|price| price.to_string()),
            },
            deployment: &file.deployment,
            replica_groups: &file.replica_groups,
            router: &file.router,
            engine: ResolvedEngine {
                preset: engine.preset.name(),
                block_size: s.block_size,
                num_gpu_blocks: s.total_blocks,
                kv_cache_tokens: u64::from(s.total_blocks.saturating_sub(1)) * u64::from(s.block_size),
                max_num_seqs: s.max_num_seqs,
                max_num_batched_tokens: s.max_num_batched_tokens,
                max_model_len: s.max_model_len,
                enable_prefix_caching: s.prefix_caching,
                enable_chunked_prefill: s.chunked_prefill,
                scheduling_policy: s.policy,
                long_prefill_token_threshold: s.long_prefill_token_threshold,
                watermark_blocks: s.watermark_blocks,
                scheduler_reserve_full_isl: s.reserve_full_prompt,
                gpu_memory_utilization: engine.gpu_memory_utilization,
                kv_cache_dtype: engine.kv.name(),
                speculative_config: engine.speculation.as_ref().map(ResolvedSpeculation::new),
                rules: s.rules,
            },
            experts: scenario
                .pricing
                .expert_load
                .as_deref()
                .map(|load| ResolvedExpertLoad::new(load, &scenario.pricing.later_loads)),
            memory: engine.memory.as_ref(),
            workload: &file.workload,
            tenants: file.tenants.as_ref(),
            slo: &file.slo,
            cost: &file.cost,
            step_times: &scenario.pricing.provenance,
            seed: file.seed,
        }
    }
}

/// What the deployment costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Money {
    /// All GPUs.
    pub usd_per_hour: f64,
    /// At the throughput of this run; none when nothing was generated.
    pub usd_per_million_output_tokens: Option<f64>,
}

/// The report of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the program.
    pub servesim: &'static str,
    /// The scenario's name or file.
    pub scenario: String,
    /// The model.
    pub model: String,
    /// The GPU.
    pub gpu: String,
    /// GPUs of the whole deployment.
    pub gpus: u32,
    /// Engines behind the router.
    pub replicas: u32,
    /// Engine and version.
    pub engine: &'static str,
    /// Seed of every draw.
    pub seed: u64,
    /// Where the step times come from.
    pub step_times: String,
    /// What the run says.
    pub metrics: Metrics,
    /// With more than one replica or rank: what each did.
    pub fleet: Option<FleetUse>,
    /// With tenants: what it says of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<TenantsReport>,
    /// With a price: what it costs.
    pub money: Option<Money>,
    /// With a profile: where the time of the steps went.
    pub usage: Option<UsageReport>,
    /// With a profile: how the results move within the error of the step times.
    pub error_band: Option<ErrorBand>,
    /// What to keep in mind, each with a remedy.
    pub warnings: Vec<String>,
}

/// Results when every step is as fast and as slow as the 90 % error of step times allows: `[fast, slow]`, from two more
/// runs of the same scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBand {
    /// 90 % of step times lie within this share of the prediction, as far as the kernels' held-out errors tell.
    pub step_error_90: f64,
    /// Tokens generated per second.
    pub output_tokens_per_s: [f64; 2],
    /// Median time to first token, in ms.
    pub ttft_ms_p50: [f64; 2],
    /// 99th percentile of the time to first token, in ms.
    pub ttft_ms_p99: [f64; 2],
    /// Mean gap between tokens, in ms.
    pub itl_ms_mean: [f64; 2],
    /// 99th percentile of the gaps, in ms.
    pub itl_ms_p99: [f64; 2],
    /// Mean time to last token, in ms.
    pub e2el_ms_mean: [f64; 2],
}

impl ErrorBand {
    /// Runs the scenario twice more; none without a profile.
    pub(super) fn new(scenario: &Scenario, run: &RunResult) -> Result<Option<ErrorBand>> {
        let Some(usage) = &run.usage else { return Ok(None) };
        let error = usage.step_error_90;
        let config = &scenario.engine.scheduler;
        let metrics = |factor: f64| -> Result<Metrics> {
            let run = scenario.simulate_scaled((1000.0 * factor).round() as u64)?;
            Ok(Metrics::new(&run, config.block_size, config.prefix_caching, &scenario.limits))
        };
        let (fast, slow) = (metrics((1.0 - error).max(0.05))?, metrics(1.0 + error)?);
        let both =
            |value: fn(&Metrics) -> Option<f64>| [&fast, &slow].map(|metrics| value(metrics).unwrap_or(0.0));
        Ok(Some(ErrorBand {
            step_error_90: error,
            output_tokens_per_s: both(|m| Some(m.throughput.output_tokens_per_s)),
            ttft_ms_p50: both(|m| m.ttft_ms.map(|d| d.p50)),
            ttft_ms_p99: both(|m| m.ttft_ms.map(|d| d.p99)),
            itl_ms_mean: both(|m| m.itl_ms.map(|d| d.mean)),
            itl_ms_p99: both(|m| m.itl_ms.map(|d| d.p99)),
            e2el_ms_mean: both(|m| m.e2el_ms.map(|d| d.mean)),
        }))
    }
}

impl Report {
    pub(super) fn new(scenario: &Scenario, run: &RunResult) -> Report {
        let config = &scenario.engine.scheduler;
        let mut metrics = Metrics::new(run, config.block_size, config.prefix_caching, &scenario.limits);
        let tenants = match (&scenario.tenants, &run.tenants) {
            (Some(tenants), Some(Ok(totals))) => Some(TenantsReport::new(tenants, totals, run)),
            _ => None,
        };
        if let Some(tenants) = &tenants {
            // Each tenant has its own SLO.
            metrics.goodput = tenants.goodput();
        }
        let money = scenario.usd_per_hour().map(|usd_per_hour| {
            let tokens_per_s = metrics.throughput.output_tokens_per_s;
            let per_million = usd_per_hour / 3600.0 / tokens_per_s * 1e6;
            Money { usd_per_hour, usd_per_million_output_tokens: (tokens_per_s > 0.0).then_some(per_million) }
        });
        Report {
            servesim: env!("CARGO_PKG_VERSION"),
            scenario: scenario.label.clone(),
            model: scenario.model.name.clone(),
            gpu: scenario.gpu.name.clone(),
            gpus: scenario.gpus(),
            replicas: scenario.replicas(),
            engine: scenario.engine.preset.name(),
            seed: scenario.file.seed,
            step_times: scenario.pricing.provenance.clone(),
            warnings: warnings(scenario, run, &metrics),
            fleet: FleetUse::of(scenario, run),
            metrics,
            tenants,
            money,
            usage: run.usage.clone(),
            error_band: None,
        }
    }
}

/// Requests below which a 99th percentile rests on fewer than ten requests.
const REQUESTS_FOR_P99: u64 = 1000;

fn warnings(scenario: &Scenario, run: &RunResult, metrics: &Metrics) -> Vec<String> {
    let mut warnings = Vec::new();
    let config = &scenario.engine.scheduler;
    let preset = scenario.engine.preset;
    let counts = &metrics.requests;
    if counts.rejected > 0 {
        let longest = rejected_tokens(run);
        let tenants = if scenario.tenants.is_some() { ", or less as its tenant's limits say" } else { "" };
        warnings.push(format!(
            "{} of {} requests were rejected: the longest has {longest} tokens, but a request can have {} \
             (engine.{}{tenants}) and all KV blocks together hold {}{}; raise the limit that binds, or cap the \
             workload's lengths",
            counts.rejected,
            counts.arrived,
            config.max_model_len,
            preset.key(Limit::Length),
            u64::from(metrics.kv.usable_blocks) * u64::from(config.block_size),
            whole_prompts(config),
        ));
    }
    if counts.throttled > 0 {
        warnings.push(format!(
            "{} of {} requests were throttled by their tenants' limits; let them wait (when_limited: queue), or raise \
             the limit that binds",
            counts.throttled, counts.arrived
        ));
    }
    warnings.extend(scenario.workload().notes().iter().cloned());
    let skipped = scenario.skipped_rows();
    if skipped > 0 {
        warnings.push(format!("{skipped} malformed rows of the trace were skipped (on_error: skip)"));
    }
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
            metrics.steps.preemptions,
            counts.finished,
            preset.key(Limit::Seats)
        ));
    }
    if counts.finished > 0 && counts.finished < REQUESTS_FOR_P99 {
        warnings.push(format!(
            "p99 over {} requests rests on {} of them and moves with the seed; simulate at least {REQUESTS_FOR_P99}",
            counts.finished,
            counts.finished.div_ceil(100)
        ));
    }
    if let Some(usage) = run.usage.as_ref().filter(|usage| usage.outside_measured_range > 0.005) {
        warnings.push(format!(
            "{:.1} % of the step time lies outside what was measured, up to {:.1} times too large or too small; the \
             profile extrapolates there, so measure such shapes or read those times with care",
            usage.outside_measured_range * 100.0,
            libm::exp2(usage.octaves_outside)
        ));
    }
    if let Some(plan) = &scenario.engine.memory
        && plan.blocks_per_position > 1
    {
        warnings.push(format!(
            "{} has layers with a limited attention span: each block of a sequence is charged for all {} groups of \
             layers, also where the window has passed, so fewer requests fit than on the engine",
            scenario.model.name, plan.blocks_per_position
        ));
    }
    warnings
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
