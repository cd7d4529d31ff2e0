//! The engines beside vLLM: the laws of every run on random small deployments, byte-equal repeats, and how the engines
//! differ from each other on one traffic.

use crate::laws::{Draw, arrivals, config, linear_cost};
use sim::cost::{CostModel, LinearCost};
use sim::replica::{StepPath, StepRecord};
use sim::request::Outcome;
use sim::scheduler::engines::{
    CapacityPolicy, ChunkingPolicy, LiteratureRules, SchedulePolicy, SglangRules, TgiRules, TrtLlmRules,
};
use sim::scheduler::{EngineRules, Policy, SchedulerConfig};
use sim::simulation::{RunObserver, RunResult, Simulation};
use sim::step::StepShape;
use sim::units::{SimDuration, SimTime};
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

pub fn sglang(draw: &mut Draw) -> EngineRules {
    let policies =
        [SchedulePolicy::Fcfs, SchedulePolicy::Lpm, SchedulePolicy::DfsWeight, SchedulePolicy::Lof];
    EngineRules::Sglang(SglangRules {
        policy: policies[draw.below(4) as usize],
        chunked_prefill_tokens: (draw.below(3) > 0).then(|| draw.between(8, 40)),
        max_prefill_tokens: draw.between(8, 80),
        mixed_chunk: draw.below(2) == 0,
        conservativeness_per_mille: draw.between(0, 1400),
    })
}

pub fn trtllm(draw: &mut Draw) -> EngineRules {
    EngineRules::TrtLlm(TrtLlmRules {
        capacity: [CapacityPolicy::GuaranteedNoEvict, CapacityPolicy::MaxUtilization][draw.below(2) as usize],
        chunking: [ChunkingPolicy::FirstComeFirstServed, ChunkingPolicy::EqualProgress]
            [draw.below(2) as usize],
        partial_reuse: draw.below(2) == 0,
        prompt_priority: 35,
        decode_priority: draw.between(30, 40) as u8,
    })
}

fn tgi(draw: &mut Draw) -> EngineRules {
    EngineRules::Tgi(TgiRules {
        max_waiting_tokens: draw.between(1, 20),
        waiting_served_per_mille: draw.between(0, 1500),
    })
}

const LITERATURE: [LiteratureRules; 3] =
    [LiteratureRules::Static, LiteratureRules::Orca, LiteratureRules::Sarathi];

/// Host time and step time, so that steps in flight overlap.
struct WithHost(LinearCost, u64);

impl CostModel for WithHost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        self.0.step(shape)
    }
    fn host(&self, _: &StepShape) -> SimDuration {
        SimDuration(self.1)
    }
}

/// Checks what holds in every step of every engine.
struct StepLaws {
    usable_blocks: u32,
    max_num_seqs: u32,
}

impl RunObserver for StepLaws {
    fn step(&mut self, step: &StepRecord<'_>) {
        assert!(step.free_blocks <= self.usable_blocks);
        let requests = step.batch.requests();
        assert!(requests.len() as u32 <= self.max_num_seqs, "seats");
        let mut ids: Vec<u32> = requests.iter().map(|entry| entry.id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), requests.len(), "a request runs once in a step");
        assert!(requests.iter().all(|entry| entry.tokens > 0));
    }
}

fn run(seed: u64, rules: fn(&mut Draw) -> EngineRules) -> RunResult {
    let mut draw = Draw(seed);
    let plain = config(&mut draw);
    let rules = rules(&mut draw);
    let may_overlap = matches!(rules, EngineRules::Sglang(_) | EngineRules::TrtLlm(_));
    let config = SchedulerConfig {
        policy: Policy::Fcfs,
        rules,
        async_scheduling: may_overlap && draw.below(2) == 0,
        chunked_prefill: draw.below(2) == 0,
        // A prompt is cut at blocks, so a step holds at least one.
        max_num_batched_tokens: plain.max_num_batched_tokens.max(plain.block_size),
        watermark_blocks: draw.between(0, 2),
        ..plain
    };
    let linear = linear_cost(&mut draw);
    let cost: Arc<dyn CostModel> = Arc::new(WithHost(linear, draw.below(300)));
    let mut laws =
        StepLaws { usable_blocks: config.total_blocks.saturating_sub(1), max_num_seqs: config.max_num_seqs };
    let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
    let run = Simulation::new(1, config, &cost, workload).run(&mut laws);
    run.check_laws().unwrap_or_else(|law| panic!("seed {seed}, {config:?}: {law}"));
    let expected = if config.async_scheduling { StepPath::Pipelined } else { StepPath::Plain };
    assert_eq!(run.path, expected);
    run
}

/// Runs many, and gives preemptions, hit tokens and finished requests. `SERVESIM_RANDOM_SCENARIOS=1000000` runs that many
/// instead.
fn many(rules: fn(&mut Draw) -> EngineRules) -> (u64, u64, usize) {
    let count = std::env::var("SERVESIM_RANDOM_SCENARIOS").ok().and_then(|n| n.parse().ok()).unwrap_or(8_000);
    let (mut preemptions, mut hits, mut finished) = (0, 0, 0);
    for seed in 0..count {
        let run = run(seed, rules);
        preemptions += run.replicas[0].preemptions;
        hits += run.replicas[0].prefix_hit_tokens;
        finished += run.table.outcome.iter().filter(|o| **o == Outcome::Finished).count();
    }
    (preemptions, hits, finished)
}

#[test]
fn sglang_keeps_the_laws_on_random_deployments() {
    let (preemptions, hits, finished) = many(sglang);
    assert!(preemptions > 500 && hits > 40_000 && finished > 50_000, "{preemptions} {hits} {finished}");
}

#[test]
fn tensorrt_llm_keeps_the_laws_on_random_deployments() {
    let (preemptions, hits, finished) = many(trtllm);
    assert!(preemptions > 500 && hits > 40_000 && finished > 50_000, "{preemptions} {hits} {finished}");
}

#[test]
fn tgi_keeps_the_laws_on_random_deployments() {
    let (preemptions, hits, finished) = many(tgi);
    assert!(preemptions == 0 && hits > 40_000 && finished > 50_000, "{preemptions} {hits} {finished}");
}

#[test]
fn schedulers_of_the_literature_keep_the_laws_on_random_deployments() {
    let (preemptions, hits, finished) =
        many(|draw| EngineRules::Literature(LITERATURE[draw.below(3) as usize]));
    assert!(preemptions > 1_000 && hits == 0 && finished > 20_000, "{preemptions} {hits} {finished}");
}

#[test]
fn a_repeated_run_is_equal_in_every_engine() {
    for rules in [sglang, trtllm, tgi] {
        for seed in 0..200 {
            let (one, two) = (run(seed, rules), run(seed, rules));
            assert_eq!((one.table, one.replicas, one.end), (two.table, two.replicas, two.end));
        }
    }
}

/// One traffic for all engines: long prompts among short ones, answers of very different lengths, little memory.
fn side_by_side(rules: EngineRules, change: impl Fn(&mut SchedulerConfig)) -> RunResult {
    let mut draw = Draw(5);
    let mut now = 0;
    let arrivals: Vec<Arrival> = (0..400)
        .map(|index| {
            now += draw.below(60_000_000);
            let prompt_tokens = if index % 8 == 0 { 3_000 } else { draw.between(20, 200) };
            Arrival {
                at: SimTime(now),
                prompt_tokens,
                output_tokens: draw.between(5, 300),
                ..Arrival::default()
            }
        })
        .collect();
    let mut config = SchedulerConfig {
        total_blocks: 1_001,
        max_num_seqs: 64,
        max_num_batched_tokens: 4_096,
        max_model_len: 4_096,
        prefix_caching: false,
        rules,
        ..SchedulerConfig::VLLM
    };
    change(&mut config);
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
        base_ns: 8_000_000,
        per_token_ns: 40_000,
        per_context_token_ns: 100,
        ..LinearCost::NONE
    });
    let run = Simulation::new(1, config, &cost, WorkloadGenerator::from_arrivals(arrivals)).run(&mut ());
    assert_eq!(run.check_laws(), Ok(()));
    assert!(run.table.outcome.iter().all(|outcome| *outcome == Outcome::Finished));
    run
}

fn mean_ttft_ns(run: &RunResult) -> u64 {
    let sum: u64 = run.table.ids().map(|id| sim::metrics::ttft_ns(&run.table, id)).sum();
    sum / run.table.len() as u64
}

fn largest_gap_ns(run: &RunResult) -> u64 {
    run.table.max_gap_ns.iter().copied().max().unwrap()
}

/// The engines differ on one traffic in the ways that their rules predict.
#[test]
fn the_engines_differ_as_their_rules_say() {
    let same = |_: &mut SchedulerConfig| {};
    let sglang = |mixed_chunk| {
        let rules = SglangRules {
            policy: SchedulePolicy::Fcfs,
            chunked_prefill_tokens: Some(4_096),
            max_prefill_tokens: 16_384,
            mixed_chunk,
            conservativeness_per_mille: 300,
        };
        side_by_side(EngineRules::Sglang(rules), |config| config.block_size = 16)
    };
    let trtllm = |capacity| {
        let rules = TrtLlmRules {
            capacity,
            chunking: ChunkingPolicy::FirstComeFirstServed,
            partial_reuse: true,
            prompt_priority: 35,
            decode_priority: 35,
        };
        side_by_side(EngineRules::TrtLlm(rules), same)
    };
    let tgi = side_by_side(
        EngineRules::Tgi(TgiRules { max_waiting_tokens: 20, waiting_served_per_mille: 300 }),
        same,
    );
    let literature = |rules| side_by_side(EngineRules::Literature(rules), same);
    let sarathi = side_by_side(EngineRules::Literature(LiteratureRules::Sarathi), |config| {
        config.max_num_batched_tokens = 256;
        config.watermark_blocks = 10;
    });
    let (orca, fixed) = (literature(LiteratureRules::Orca), literature(LiteratureRules::Static));
    let vllm = side_by_side(EngineRules::Vllm, same);
    let preemptions = |run: &RunResult| run.replicas[0].preemptions;

    // S-2, O-4: a prompt stops SGLang's decodes for a whole step; Sarathi's wait for no more than its budget.
    let pure = sglang(false);
    let step_ns = |tokens: u64| 8_000_000 + tokens * 40_000 + 16_000 * 100;
    assert!(largest_gap_ns(&pure) > step_ns(3_000), "{}", largest_gap_ns(&pure));
    let budget_bound = step_ns(256);
    let unpreempted = sarathi.table.ids().filter(|id| sarathi.table.preemptions[id.index()] == 0);
    let sarathi_gap = unpreempted.map(|id| sarathi.table.max_gap_ns[id.index()]).max().unwrap();
    assert!(sarathi_gap <= budget_bound, "{sarathi_gap} > {budget_bound}");
    // S-2: with mixed chunks decodes go on beside prompts.
    let p99 = |run: &RunResult| sim::metrics::Distribution::of_counts(&run.token_gaps).unwrap().p99;
    assert!(p99(&sglang(true)) <= p99(&pure), "{} {}", p99(&sglang(true)), p99(&pure));
    // T-4, T-6, G-3: guarantees preempt nobody; the others use memory more fully and pay with preemptions.
    let (safe, full) = (trtllm(CapacityPolicy::GuaranteedNoEvict), trtllm(CapacityPolicy::MaxUtilization));
    assert_eq!((preemptions(&safe), preemptions(&tgi), preemptions(&orca)), (0, 0, 0));
    let thrown_out = [&full, &pure, &vllm].map(preemptions);
    assert!(thrown_out.iter().all(|count| *count > 0), "{thrown_out:?}");
    assert!(full.replicas[0].batch_requests_max > safe.replicas[0].batch_requests_max);
    // O-1: a static batch waits for its longest member: of three answers of 5 to 300 tokens that is 226 in the mean, of
    // one 152, so on the same memory the traffic takes about half as long again as with Orca.
    let ratio = fixed.end.0 as f64 / orca.end.0 as f64;
    assert!((1.2..1.8).contains(&ratio), "{ratio}");
    assert!(mean_ttft_ns(&fixed) > mean_ttft_ns(&orca));
    // O-2: reserving the greatest length leaves most of the memory empty, so fewer requests run at once than paged.
    let ahead_share =
        |run: &RunResult| run.replicas[0].ahead_block_ns as f64 / run.replicas[0].block_ns as f64;
    let shares = [&orca, &tgi, &sarathi, &vllm].map(ahead_share);
    assert!(shares[0] > 0.5 && shares[1] > 0.01 && shares[1] < shares[0] && shares[3] == 0.0, "{shares:?}");
    let batches = [&orca, &vllm].map(|run| run.replicas[0].batch_requests_max);
    assert!(2 * batches[0] < batches[1], "{batches:?}");
    let ttfts = [&orca, &vllm].map(mean_ttft_ns);
    assert!(ttfts[0] > 2 * ttfts[1], "{ttfts:?}");
}
