//! Host memory and disks behind the prefix caches: small examples by hand, laws on random deployments, what tiers without
//! limits must equal, and what is refused. One file per engine, and here what they share.

mod sglang;
mod trtllm;
mod vllm;

use crate::cli::refusal;
use crate::laws::{Draw, arrivals, config, linear_cost};
use crate::paths::is_same;
use sim::cost::{CostModel, LinearCost};
use sim::identity::TokenRun;
use sim::offload::{Eviction, OffloadConfig, TierConfig, WritePolicy};
use sim::scheduler::{EngineRules, Policy, SchedulerConfig};
use sim::simulation::{RunResult, Simulation};
use sim::units::{SimDuration, SimTime};
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

/// A tier with one byte per ns and 50 ns.
fn tier(chunks: u32) -> TierConfig {
    TierConfig {
        chunks,
        read_bytes_per_s: 1_000_000_000,
        write_bytes_per_s: 1_000_000_000,
        latency: SimDuration(50),
        eviction: Eviction::Lru,
    }
}

/// Tiers for blocks of 400 bytes.
fn offload(host: u32, nvme: Option<u32>, write: WritePolicy) -> OffloadConfig {
    OffloadConfig {
        host: tier(host),
        nvme: nvme.map(tier),
        write,
        chunk_blocks: 1,
        block_bytes: 400,
        layers: 10,
    }
}

/// Blocks of four tokens, and room for `usable_blocks`.
fn engine(rules: EngineRules, usable_blocks: u32, offload: OffloadConfig) -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        total_blocks: usable_blocks + 1,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_model_len: 64,
        offload: Some(offload),
        rules,
        ..SchedulerConfig::VLLM
    }
}

/// A request of `tokens` prompt tokens named `content` for one token.
fn request(at: u64, content: u64, tokens: u32) -> Arrival {
    Arrival {
        at: SimTime(at),
        prompt_tokens: tokens,
        output_tokens: 1,
        runs: vec![TokenRun { id: content, tokens }],
        ..Arrival::default()
    }
}

/// Steps of 1,000 ns and 10 ns per token.
fn run(config: SchedulerConfig, arrivals: &[Arrival]) -> RunResult {
    let cost: Arc<dyn CostModel> =
        Arc::new(LinearCost { base_ns: 1_000, per_token_ns: 10, ..LinearCost::NONE });
    let workload = WorkloadGenerator::from_arrivals(arrivals.to_vec());
    let run = Simulation::new(1, config, &cost, workload).run(&mut ());
    run.check_laws().unwrap();
    run
}

/// Start of the first step, first token and cached tokens of a request.
fn row(run: &RunResult, index: usize) -> (u64, u64, u32) {
    let table = &run.table;
    (table.first_scheduled[index].0, table.first_token[index].0, table.cached_tokens[index])
}

/// A random SGLang or TensorRT-LLM engine.
fn with(rules: fn(&mut Draw) -> EngineRules) -> impl Fn(&mut Draw, &mut SchedulerConfig) {
    move |draw, config| {
        config.policy = Policy::Fcfs;
        config.rules = rules(draw);
        config.max_num_batched_tokens = config.max_num_batched_tokens.max(config.block_size);
        config.watermark_blocks = 0;
        let policies = match config.rules {
            EngineRules::Sglang(_) => vec![WritePolicy::Through, WritePolicy::Back, WritePolicy::Selective],
            _ => vec![WritePolicy::Back],
        };
        let write = policies[draw.below(policies.len() as u64) as usize];
        config.offload = config.offload.map(|tiers| OffloadConfig { write, ..tiers });
    }
}

/// Random tiers for a random deployment.
fn random(draw: &mut Draw) -> OffloadConfig {
    let mut random_tier = |most| TierConfig {
        chunks: draw.between(1, most),
        read_bytes_per_s: 1 + draw.below(3_000_000_000),
        write_bytes_per_s: 1 + draw.below(3_000_000_000),
        latency: SimDuration(draw.below(500)),
        eviction: if draw.below(2) == 0 { Eviction::Lru } else { Eviction::Arc },
    };
    let (host, nvme) = (random_tier(60), random_tier(200));
    OffloadConfig {
        host,
        nvme: (draw.below(2) == 0).then_some(nvme),
        write: WritePolicy::Through,
        chunk_blocks: draw.between(1, 3),
        block_bytes: 1 + draw.below(500),
        layers: draw.between(1, 5),
    }
}

fn random_run(seed: u64, rules: impl Fn(&mut Draw, &mut SchedulerConfig)) -> RunResult {
    let mut draw = Draw(seed);
    let mut config = SchedulerConfig { prefix_caching: true, ..config(&mut draw) };
    config.async_scheduling = draw.below(2) == 0;
    config.offload = Some(random(&mut draw));
    rules(&mut draw, &mut config);
    let cost: Arc<dyn CostModel> = Arc::new(linear_cost(&mut draw));
    let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
    Simulation::new(draw.between(1, 2), config, &cost, workload).run(&mut ())
}

/// Every run keeps the laws, and repeated it is the same.
fn check_random(seeds: u64, rules: impl Fn(&mut Draw, &mut SchedulerConfig)) {
    let (mut loads, mut from_nvme, mut evicted, mut refused, mut preemptions) = (0, 0, 0, 0, 0);
    for seed in 0..seeds {
        let run = random_run(seed, &rules);
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        for totals in &run.replicas {
            let tiers = &totals.offload;
            for tier in [tiers.host, tiers.nvme] {
                assert!(tier.peak_bytes <= tier.capacity_bytes, "seed {seed}");
                assert!(tier.evicted_bytes <= tier.stored_bytes, "seed {seed}");
            }
            assert!(tiers.host.hit_tokens + tiers.nvme.hit_tokens <= totals.prefix_hit_tokens, "seed {seed}");
            loads += tiers.loads;
            from_nvme += tiers.nvme.hit_tokens;
            evicted += tiers.host.evicted_bytes;
            refused += tiers.refused_chunks;
            preemptions += totals.preemptions;
        }
        if seed % 8 == 0 {
            let again = random_run(seed, &rules);
            assert!(is_same(&run, &again) && run.replicas == again.replicas, "seed {seed}");
        }
    }
    println!(
        "{loads} loads, {from_nvme} tokens from NVMe, {evicted} bytes evicted, {refused} refused, {preemptions}"
    );
    assert!([loads, from_nvme, evicted, preemptions].iter().all(|count| *count > seeds / 20));
}

/// Where the GPU has room for everything, tiers are written and never read: every request has its times.
fn check_no_effect(rules: impl Fn(&mut Draw, &mut SchedulerConfig)) {
    for seed in 0..1_500 {
        let run = |has_tiers: bool| {
            random_run(seed, |draw, config| {
                rules(draw, config);
                config.total_blocks = 20_000;
                config.watermark_blocks = 0;
                config.offload = config.offload.filter(|_| has_tiers);
            })
        };
        let (with, without) = (run(true), run(false));
        assert_eq!(with.replicas.iter().map(|totals| totals.offload.loads).sum::<u64>(), 0, "seed {seed}");
        assert!(is_same_table(&with, &without), "seed {seed}");
    }
}

fn is_same_table(one: &RunResult, two: &RunResult) -> bool {
    let times = |run: &RunResult| {
        let table = &run.table;
        (
            table.first_scheduled.clone(),
            table.first_token.clone(),
            table.last_token.clone(),
            table.cached_tokens.clone(),
        )
    };
    let steps = |run: &RunResult| -> Vec<(u64, SimDuration, u64)> {
        run.replicas.iter().map(|totals| (totals.steps, totals.busy, totals.prefix_hit_tokens)).collect()
    };
    times(one) == times(two) && steps(one) == steps(two)
}

/// One request at a time: a small GPU before an endless host finds as much as an endless GPU, request by request.
fn check_endless_host(rules: impl Fn(&mut Draw, &mut SchedulerConfig)) {
    let mut hits = 0;
    for seed in 0..2_000 {
        let run = |is_small: bool| {
            random_run(seed, |draw, config| {
                rules(draw, config);
                config.policy = Policy::Fcfs;
                config.max_num_seqs = 1;
                config.watermark_blocks = 0;
                // The longest request fits, and little more.
                config.total_blocks = if is_small { 130 / config.block_size + 6 } else { 20_000 };
                let endless = TierConfig {
                    chunks: 1 << 20,
                    read_bytes_per_s: 1 << 60,
                    write_bytes_per_s: 1 << 60,
                    latency: SimDuration(0),
                    eviction: Eviction::Lru,
                };
                let tiers = config.offload.filter(|_| is_small);
                config.offload =
                    tiers.map(|tiers| OffloadConfig { host: endless, nvme: None, chunk_blocks: 1, ..tiers });
            })
        };
        let (small, endless) = (run(true), run(false));
        assert_eq!(small.table.cached_tokens, endless.table.cached_tokens, "seed {seed}");
        hits += small.replicas.iter().map(|totals| totals.offload.host.hit_tokens).sum::<u64>();
    }
    assert!(hits > 1_000, "the host gave {hits} tokens");
}

fn scenario(engine: &str, rest: &str) -> String {
    format!(
        "model: llama-3.1-8b\nhardware: {{ gpu: h100 }}\nengine:\n  {engine}\n{rest}workload:\n  requests: 10\n  \
         arrivals: {{ poisson: 1/s }}\n  prompt: {{ constant: 100 }}\n  output: {{ constant: 10 }}\n"
    )
}

#[test]
fn tiers_that_cannot_be_are_refused() {
    let host = "kv_offload: { host: { capacity: 64GiB } }";
    for (engine, rest, place, words) in [
        (
            "kv_offload: { host: { capacity: 1MiB } }",
            "",
            "engine.kv_offload.host.capacity",
            "takes 2097152 bytes",
        ),
        (
            "kv_offload: { chunk_blocks: 4, host: { capacity: 1GiB }, nvme: { capacity: 8MB } }",
            "",
            "engine.kv_offload.nvme.capacity",
            "at least 8388608 bytes",
        ),
        ("kv_offload: { host: { capacity: 0B } }", "", "host.capacity", "less than a chunk"),
        ("kv_offload: { chunk_blocks: 0, host: { capacity: 1GiB } }", "", "chunk_blocks", "expected 1 to"),
        (
            "kv_offload: { host: { capacity: 1GiB, read_bandwidth: 0GB/s } }",
            "",
            "host.read_bandwidth",
            "more than nothing",
        ),
        ("kv_offload: { nvme: { capacity: 1TiB } }", "", "kv_offload", "host"),
        (
            "kv_offload: { write: back, host: { capacity: 1GiB } }",
            "",
            "kv_offload.write",
            "knows through only",
        ),
        (
            "kv_offload: { host: { capacity: 1GiB } }\n  enable_prefix_caching: false",
            "",
            "engine.kv_offload",
            "prefix caching is off",
        ),
        (
            "preset: tgi@3.3.7\n  kv_offload: { host: { capacity: 1GiB } }",
            "",
            "engine.kv_offload",
            "is a setting of vllm, sglang, tensorrt-llm",
        ),
        (
            "preset: sarathi\n  kv_offload: { host: { capacity: 1GiB } }",
            "",
            "engine.kv_offload",
            "has nothing like it",
        ),
        (
            "preset: tensorrt-llm@1.3\n  kv_offload: { write: through, host: { capacity: 1GiB } }",
            "",
            "kv_offload.write",
            "knows back only",
        ),
        (
            "preset: sglang@0.5.23\n  kv_offload: { host: { capacity: 1GiB, eviction: arc } }",
            "",
            "host.eviction",
            "vLLM's",
        ),
        (
            host,
            "deployment: { pipeline_parallel: 2 }\n",
            "deployment.pipeline_parallel",
            "one stage and one rank",
        ),
        (host, "deployment: { data_parallel: 2 }\n", "deployment.data_parallel", "one stage and one rank"),
        (
            "kv_offload: { host: { capacity: 1GiB } }\n  speculative_config: { method: ngram, num_speculative_tokens: 2, acceptance: { rate: 0.5 } }",
            "",
            "engine.speculative_config",
            "not simulated together",
        ),
    ] {
        let message = refusal(&[("s.yaml", &scenario(engine, rest))], &["simulate", "s.yaml"]);
        assert!(message.contains(place) && message.contains(words), "{engine}: {message}");
        assert!(message.contains("s.yaml:"), "{message}");
    }
}
