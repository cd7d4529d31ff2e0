//! Host memory and disks behind the prefix caches: small examples by hand, laws on random deployments, what tiers without
//! limits must equal, and what is refused.

use crate::cli::refusal;
use crate::engines;
use crate::laws::{Draw, arrivals, config};
use crate::paths::is_same;
use sim::cost::{CostModel, LinearCost};
use sim::identity::TokenRun;
use sim::offload::{Eviction, OffloadConfig, TierConfig, WritePolicy};
use sim::replica::StepPath;
use sim::scheduler::engines::{CapacityPolicy, ChunkingPolicy, SchedulePolicy, SglangRules, TrtLlmRules};
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

/// Four blocks on the GPU: 2 takes the place of 1, whose three blocks come back from the host in 50 + 1,200 ns. Meanwhile
/// another request runs; without it the engine waits for the load.
#[test]
fn v60_a_load_takes_its_bytes_and_lets_others_go_on() {
    let config = engine(EngineRules::Vllm, 4, offload(100, None, WritePolicy::Through));
    let mut arrivals = vec![request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)];
    let alone = run(config, &arrivals);
    assert_eq!([row(&alone, 0), row(&alone, 1)], [(0, 1_130, 0), (2_400, 3_530, 0)]);
    assert_eq!(row(&alone, 2), (6_250, 7_260, 12));
    let totals = alone.replicas[0].offload;
    assert_eq!((totals.loads, totals.wait_ns, totals.host.hit_tokens), (1, 1_250, 12));
    assert_eq!(
        (totals.host.stored_bytes, totals.host.loaded_bytes, totals.host.peak_bytes),
        (2_400, 1_200, 2_400)
    );
    let [to_host, to_gpu, ..] = totals.links;
    assert_eq!((to_host.busy_ns, to_gpu.busy_ns), (2_500, 1_250));
    assert_eq!(alone.path, StepPath::Plain);
    assert_eq!(alone.table.loaded_tokens, [0, 0, 12]);

    arrivals.push(request(5_100, 3, 2));
    let beside = run(config, &arrivals);
    assert_eq!(row(&beside, 3), (5_100, 6_120, 0));
    assert_eq!(row(&beside, 2), (6_250, 7_260, 12));
}

/// A store occupies its blocks: the second request needs them and waits for the end of the store at 1,130 + 1,250.
#[test]
fn v60_blocks_stay_until_they_are_stored() {
    let config = engine(EngineRules::Vllm, 4, offload(100, None, WritePolicy::Through));
    let both = run(config, &[request(0, 1, 13), request(100, 2, 13)]);
    assert_eq!(row(&both, 1), (2_380, 3_510, 0));
}

/// Two requests for what only the host has: it is loaded once, and the second finds it on the GPU.
#[test]
fn v60_what_is_on_its_way_is_not_loaded_twice() {
    let config = engine(EngineRules::Vllm, 6, offload(100, None, WritePolicy::Through));
    let others = request(2_400, 2, 21);
    let both = run(config, &[request(0, 1, 13), others, request(9_000, 1, 13), request(9_100, 1, 13)]);
    assert_eq!(both.replicas[0].offload.loads, 1);
    assert_eq!([row(&both, 2), row(&both, 3)], [(10_250, 11_270, 12), (10_250, 11_270, 12)]);
}

/// From NVMe a load takes both ways, one after the other: 50 + 1,200 ns each.
#[test]
fn a_load_from_nvme_comes_through_the_host() {
    let config = engine(EngineRules::Vllm, 4, offload(3, Some(100), WritePolicy::Through));
    let arrivals = [request(0, 1, 13), request(2_400, 2, 13), request(9_000, 1, 13)];
    let all = run(config, &arrivals);
    assert_eq!(row(&all, 2), (11_500, 12_510, 12));
    let totals = all.replicas[0].offload;
    assert_eq!((totals.host.hit_tokens, totals.nvme.hit_tokens, totals.wait_ns), (0, 12, 2_500));
    assert_eq!(totals.nvme.stored_bytes, 2_400, "what 2 and what came back displaced");
}

/// A chunk of two blocks is stored and loaded whole.
#[test]
fn v60_chunks_of_several_blocks_move_together() {
    let chunks = OffloadConfig { chunk_blocks: 2, ..offload(100, None, WritePolicy::Through) };
    let config = engine(EngineRules::Vllm, 4, chunks);
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    // Of three full blocks, the first two are a chunk: 50 + 800 ns.
    assert_eq!(row(&all, 2), (5_850, 5_850 + 1_050, 8));
    assert_eq!(all.replicas[0].offload.host.stored_bytes, 1_600);
}

fn sglang() -> EngineRules {
    EngineRules::Sglang(SglangRules {
        policy: SchedulePolicy::Fcfs,
        chunked_prefill_tokens: Some(64),
        max_prefill_tokens: 64,
        mixed_chunk: false,
        conservativeness_per_mille: 300,
    })
}

fn trtllm(priority: u8) -> EngineRules {
    EngineRules::TrtLlm(TrtLlmRules {
        capacity: CapacityPolicy::GuaranteedNoEvict,
        chunking: ChunkingPolicy::FirstComeFirstServed,
        partial_reuse: true,
        prompt_priority: priority,
        decode_priority: priority,
    })
}

/// Six pages, of which a prompt of four takes the other's three. Written when computed, they come back in 50 + 1,200 ns
/// while one token is computed in 1,010 ns and ten layers: the load and the last layer, 1,250 + 101 ns.
#[test]
fn s17_a_load_comes_under_the_step_layer_by_layer() {
    let config = engine(sglang(), 6, offload(100, None, WritePolicy::Through));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 3_530, 0)]);
    assert_eq!(row(&all, 2), (5_000, 6_351, 12));
    let totals = all.replicas[0].offload;
    assert_eq!((totals.host.stored_bytes, totals.wait_ns, totals.host.hit_tokens), (2_400, 341, 12));
}

/// Written back when their place is needed, the pages delay the step that takes it: 1,250 ns before the prompt of 2, and
/// again before the third request's last page, beside its load.
#[test]
fn s17_written_back_pages_delay_the_step_that_takes_their_place() {
    let config = engine(sglang(), 6, offload(100, None, WritePolicy::Back));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 4_780, 0)]);
    assert_eq!(row(&all, 2), (5_000, 7_260, 12));
}

/// Selective: what is computed once is not written, what is found again is.
#[test]
fn s17_selective_writes_what_comes_twice() {
    let config = engine(sglang(), 12, offload(100, None, WritePolicy::Selective));
    let all = run(config, &[request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)]);
    assert_eq!(row(&all, 2), (5_000, 6_010, 12), "found on the GPU");
    assert_eq!(all.replicas[0].offload.host.stored_bytes, 1_200);
}

/// Four blocks, and what leaves them is copied before the step: 1,250 ns. The blocks of the first request come back before
/// its step, beside the copy of the second's.
#[test]
fn t18_blocks_are_offloaded_when_evicted_and_onboarded_before_use() {
    let config = engine(trtllm(35), 4, offload(100, None, WritePolicy::Back));
    let arrivals = [request(0, 1, 13), request(2_400, 2, 13), request(5_000, 1, 13)];
    let all = run(config, &arrivals);
    assert_eq!([row(&all, 0), row(&all, 1)], [(0, 1_130, 0), (2_400, 4_780, 0)]);
    assert_eq!(row(&all, 2), (5_000, 7_260, 12));
    assert_eq!(all.replicas[0].offload.host.hit_tokens, 12);
    // Of little worth, they are dropped.
    let dropped = run(engine(trtllm(29), 4, offload(100, None, WritePolicy::Back)), &arrivals);
    assert_eq!([row(&dropped, 1), row(&dropped, 2)], [(2_400, 3_530, 0), (5_000, 6_130, 0)]);
    assert_eq!(dropped.replicas[0].offload.host.stored_bytes, 0);
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

#[test]
fn s17_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(4_000, with(engines::sglang));
}

#[test]
fn t18_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(4_000, with(engines::trtllm));
}

#[test]
fn s17_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(with(engines::sglang));
}

#[test]
fn t18_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(with(engines::trtllm));
}

#[test]
fn s17_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|draw, config| {
        with(engines::sglang)(draw, config);
        // Others would let requests pass that have more on the GPU.
        if let EngineRules::Sglang(rules) = &mut config.rules {
            rules.policy = SchedulePolicy::Fcfs;
        }
        config.offload = config.offload.map(|tiers| OffloadConfig { write: WritePolicy::Through, ..tiers });
    });
}

#[test]
fn t18_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|draw, config| {
        with(engines::trtllm)(draw, config);
        // Parts of blocks are found on the GPU only.
        if let EngineRules::TrtLlm(rules) = &mut config.rules {
            rules.partial_reuse = false;
        }
    });
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
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
        base_ns: 1 + draw.below(500),
        per_token_ns: draw.below(20),
        per_context_token_ns: draw.below(3),
        ..LinearCost::NONE
    });
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

#[test]
fn v60_the_laws_hold_on_random_deployments_with_tiers() {
    check_random(10_000, |_, _| {});
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

#[test]
fn v60_tiers_change_nothing_where_the_gpu_holds_everything() {
    check_no_effect(|_, _| {});
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

#[test]
fn v60_an_endless_host_finds_as_much_as_an_endless_gpu() {
    check_endless_host(|_, _| {});
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
