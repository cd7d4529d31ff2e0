//! A scenario with every default filled in, as `servesim check` shows it.

use super::{
    CostSection, DeploymentSection, Engine, Offload, ReplicaGroup, Scenario, SloSection, Speculation,
};
use crate::cost::ExpertLoad;
use crate::memory::MemoryPlan;
use crate::model::Placement;
use crate::offload::{Eviction, TierConfig, WritePolicy};
use crate::router::RouterSection;
use crate::scheduler::{EngineRules, Policy};
use crate::tenants::TenantsSection;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_offload: Option<ResolvedOffload<'a>>,
}

/// The tiers beside the GPU; what a replica has.
#[derive(Serialize)]
struct ResolvedOffload<'a> {
    write: WritePolicy,
    chunk_blocks: u32,
    chunk_bytes: u64,
    host: ResolvedTier,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvme: Option<ResolvedTier>,
    source: &'a str,
}

#[derive(Serialize)]
struct ResolvedTier {
    chunks: u32,
    tokens: u64,
    bytes: u64,
    read_bytes_per_s: u64,
    write_bytes_per_s: u64,
    latency_ns: u64,
    eviction: Eviction,
}

impl<'a> ResolvedOffload<'a> {
    fn new(offload: &'a Offload, block_size: u32) -> ResolvedOffload<'a> {
        let config = &offload.config;
        let chunk_tokens = u64::from(config.chunk_blocks) * u64::from(block_size);
        let tier = |tier: &TierConfig| ResolvedTier {
            chunks: tier.chunks,
            tokens: u64::from(tier.chunks) * chunk_tokens,
            bytes: u64::from(tier.chunks) * config.chunk_bytes(),
            read_bytes_per_s: tier.read_bytes_per_s,
            write_bytes_per_s: tier.write_bytes_per_s,
            latency_ns: tier.latency.0,
            eviction: tier.eviction,
        };
        ResolvedOffload {
            write: config.write,
            chunk_blocks: config.chunk_blocks,
            chunk_bytes: config.chunk_bytes(),
            host: tier(&config.host),
            nvme: config.nvme.as_ref().map(tier),
            source: &offload.source,
        }
    }
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

impl ResolvedModel {
    fn new(scenario: &Scenario) -> ResolvedModel {
        let Scenario { model, engine, file, .. } = scenario;
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
        ResolvedModel {
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
        }
    }
}

impl<'a> ResolvedEngine<'a> {
    fn new(engine: &'a Engine) -> ResolvedEngine<'a> {
        let s = &engine.scheduler;
        ResolvedEngine {
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
            kv_offload: engine.offload.as_ref().map(|offload| ResolvedOffload::new(offload, s.block_size)),
            rules: s.rules,
        }
    }
}

impl<'a> Resolved<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Resolved<'a> {
        let Scenario { gpu, engine, file, .. } = scenario;
        Resolved {
            scenario: &scenario.label,
            model: ResolvedModel::new(scenario),
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
            engine: ResolvedEngine::new(engine),
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
