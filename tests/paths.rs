//! The aggregated path against the plain one: every column, sum, gap and step, on random small scenarios and on all
//! tiny ones.

use crate::laws::{Draw, arrivals, config, linear_cost};
use rayon::prelude::*;
use sim::cost::{CostModel, LinearCost};
use sim::identity::TokenRun;
use sim::metrics::Limits;
use sim::replica::{StepPath, StepRecord, StepTotals};
use sim::report::Metrics;
use sim::request::Outcome;
use sim::scheduler::{Policy, SchedulerConfig};
use sim::simulation::{RunObserver, RunResult, Simulation};
use sim::step::{ScheduledRequest, StepShape};
use sim::units::{SimDuration, SimTime};
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

/// A step with all its requests.
#[derive(Debug, PartialEq)]
struct Step {
    replica: u32,
    start: SimTime,
    duration: SimDuration,
    shape: StepShape,
    requests: Vec<(u32, ScheduledRequest)>,
    queues: (u32, u32, u32, u32),
}

/// Keeps every step.
#[derive(Default)]
struct Steps(Vec<Step>);

impl RunObserver for Steps {
    fn step(&mut self, step: &StepRecord<'_>) {
        // Where a scheduler keeps a request is its own affair.
        let entry = |request: ScheduledRequest| (request.id.0, ScheduledRequest { slot: 0, ..request });
        self.0.push(Step {
            replica: step.replica,
            start: step.start,
            duration: step.duration,
            shape: step.shape,
            requests: step.batch.requests().into_iter().map(entry).collect(),
            queues: (step.preempted_requests, step.running_requests, step.waiting_requests, step.free_blocks),
        });
    }
}

/// What the compared scenarios reached.
#[derive(Default)]
struct Reached {
    preemptions: u64,
    hit_tokens: u64,
    preempted_twice: usize,
    steps: u64,
}

impl Reached {
    fn add(&mut self, run: &RunResult) {
        let sum = |f: fn(&StepTotals) -> u64| run.replicas.iter().map(f).sum::<u64>();
        self.preemptions += sum(|r| r.preemptions);
        self.hit_tokens += sum(|r| r.prefix_hit_tokens);
        self.steps += sum(|r| r.steps);
        self.preempted_twice += run.table.preemptions.iter().filter(|n| **n > 1).count();
    }

    fn merge(&mut self, other: &Reached) {
        self.preemptions += other.preemptions;
        self.hit_tokens += other.hit_tokens;
        self.steps += other.steps;
        self.preempted_twice += other.preempted_twice;
    }
}

pub fn is_same(one: &RunResult, two: &RunResult) -> bool {
    one.table == two.table
        && one.replicas == two.replicas
        && one.token_gaps == two.token_gaps
        && (&one.usable_blocks, one.held_blocks, one.end, one.request_ns, &one.routed)
            == (&two.usable_blocks, two.held_blocks, two.end, two.request_ns, &two.routed)
}

/// Linear time on the GPU, and time of the engine on the CPU beside it.
struct WithHost {
    gpu: LinearCost,
    host_ns: u64,
}

impl CostModel for WithHost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        self.gpu.step(shape)
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        SimDuration(self.host_ns * (1 + shape.decode_requests))
    }
}

/// Runs both paths and compares everything; the message says which scenario differs.
fn compare(
    replicas: u32,
    config: SchedulerConfig,
    cost: impl CostModel + 'static,
    arrivals: Vec<Arrival>,
    name: &dyn Fn() -> String,
) -> RunResult {
    assert_eq!(StepPath::best(&config), StepPath::Aggregated, "{}", name());
    let reference = if config.async_scheduling { StepPath::Pipelined } else { StepPath::Plain };
    let cost: Arc<dyn CostModel> = Arc::new(cost);
    let workload = WorkloadGenerator::from_arrivals(arrivals);
    let run = |path| {
        let mut steps = Steps::default();
        let run = Simulation::with_path(replicas, config, &cost, workload.clone(), path).run(&mut steps);
        assert_eq!(run.path, path);
        (run, steps.0)
    };
    let (fast, fast_steps) = run(StepPath::Aggregated);
    let (plain, plain_steps) = run(reference);
    // Unwatched, replicas run on from arrival to arrival.
    let ahead =
        Simulation::with_path(replicas, config, &cost, workload.clone(), StepPath::Aggregated).run(&mut ());
    let same = is_same(&fast, &plain) && is_same(&ahead, &plain) && fast_steps == plain_steps;
    if !same {
        for (index, (fast, plain)) in fast_steps.iter().zip(&plain_steps).enumerate() {
            assert_eq!(fast, plain, "{}: step {index}, aggregated left, plain right", name());
        }
        assert_eq!(fast.table, plain.table, "{}: aggregated left, plain right", name());
        assert_eq!(ahead.table, plain.table, "{}: running ahead left, plain right", name());
        panic!("{}: aggregated {fast:?}\nplain {plain:?}", name());
    }
    fast
}

/// A scenario that the aggregated path accepts, else as the laws draw it.
fn random_case(seed: u64) -> (u32, SchedulerConfig, LinearCost, Vec<Arrival>) {
    let mut draw = Draw(seed);
    let config =
        SchedulerConfig { policy: Policy::Fcfs, long_prefill_token_threshold: 0, ..config(&mut draw) };
    let replicas = if draw.below(4) == 0 { 2 } else { 1 };
    let cost = linear_cost(&mut draw);
    let mut arrivals = arrivals(&mut draw);
    if draw.below(2) == 0 {
        // Requests that share nothing have a cache of their own kind.
        arrivals.iter_mut().for_each(|arrival| arrival.runs.clear());
    }
    (replicas, config, cost, arrivals)
}

#[test]
fn random_scenarios_are_equal_on_both_paths() {
    compare_random(|seed| {
        let (replicas, config, cost, arrivals) = random_case(seed);
        compare(replicas, config, cost, arrivals, &|| format!("seed {seed}"))
    });
}

#[test]
fn random_scenarios_with_asynchronous_scheduling_are_equal_on_both_paths() {
    compare_random(|seed| {
        let (replicas, config, gpu, arrivals) = random_case(seed);
        let config = SchedulerConfig { async_scheduling: true, ..config };
        // From nothing to more than a step on the GPU takes.
        let host_ns = if seed % 3 == 0 { 0 } else { Draw(!seed).below(300) };
        compare(replicas, config, WithHost { gpu, host_ns }, arrivals, &|| format!("seed {seed}"))
    });
}

/// Runs of hundreds of steps in which the same requests decode, cut by arrivals, ends and full caches.
#[test]
fn long_outputs_are_equal_on_both_paths() {
    let reached = (0..200u64).into_par_iter().map(|seed| {
        let (replicas, config, gpu, mut arrivals) = random_case(seed);
        for arrival in &mut arrivals {
            arrival.at = SimTime(arrival.at.0 * 100);
            arrival.output_tokens *= 30;
        }
        let total_blocks = config.total_blocks * 30;
        let config = SchedulerConfig { max_model_len: 2_000, total_blocks, ..config };
        let mut reached = Reached::default();
        for async_scheduling in [false, true] {
            let config = SchedulerConfig { async_scheduling, ..config };
            let cost = WithHost { gpu, host_ns: seed % 4 * 60 };
            reached.add(&compare(replicas, config, cost, arrivals.clone(), &|| format!("seed {seed}")));
        }
        reached
    });
    let reached = reached.reduce(Reached::default, |mut one, other| {
        one.merge(&other);
        one
    });
    println!("{} steps, {} preemptions", reached.steps, reached.preemptions);
    assert!(reached.steps > 500_000 && reached.preemptions > 100);
}

/// `SERVESIM_RANDOM_SCENARIOS=1000000` compares that many instead.
fn compare_random(compare: impl Fn(u64) -> RunResult + Sync) {
    let count =
        std::env::var("SERVESIM_RANDOM_SCENARIOS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_000);
    let one = |seed: u64| {
        let mut reached = Reached::default();
        reached.add(&compare(seed));
        reached
    };
    let reached = (0..count).into_par_iter().map(one).reduce(Reached::default, |mut one, other| {
        one.merge(&other);
        one
    });
    println!(
        "{count} scenarios, {} steps, {} preemptions, {} requests preempted more than once, {} tokens hit",
        reached.steps, reached.preemptions, reached.preempted_twice, reached.hit_tokens
    );
    assert!(reached.preemptions > count && reached.hit_tokens > 10 * count, "the corners are reached");
    assert!(reached.preempted_twice as u64 > count / 10, "the corners are reached");
}

/// Prompts of a tiny request: its length, and whether it shares its tokens with the others.
const PROMPTS: [(u32, bool); 4] = [(1, false), (2, true), (3, true), (4, false)];

/// All scenarios of up to four requests with prompts of 1 to 4 tokens and outputs of 1 to 3, one or three steps apart, in
/// up to three blocks, with every seat limit up to 3 and budgets that cut prompts.
#[test]
fn all_tiny_scenarios_are_equal_on_both_paths() {
    let kinds = PROMPTS.len() as u32 * 3;
    let all = |(requests, mix): (u32, u32)| {
        let (mut reached, mut scenarios) = (Reached::default(), 0u64);
        for blocks in 1..=3u32 {
            for setting in 0..24u32 {
                let config = tiny_config(blocks, setting);
                let arrivals = tiny_arrivals(requests, mix, kinds, setting);
                let cost =
                    LinearCost { base_ns: 10, per_token_ns: 1, per_context_token_ns: 1, ..LinearCost::NONE };
                let name = || format!("{requests} requests, mix {mix}, {blocks} blocks, setting {setting}");
                reached.add(&compare(1, config, cost, arrivals.clone(), &name));
                let config = SchedulerConfig { async_scheduling: true, ..config };
                let cost = WithHost { gpu: cost, host_ns: u64::from(setting % 4) * 2 };
                reached.add(&compare(1, config, cost, arrivals, &name));
                scenarios += 1;
            }
        }
        (reached, scenarios)
    };
    let mixes = (1..=4u32).flat_map(|requests| (0..kinds.pow(requests)).map(move |mix| (requests, mix)));
    let mixes: Vec<(u32, u32)> = mixes.collect();
    let (reached, scenarios) = mixes.into_par_iter().map(all).reduce(
        || (Reached::default(), 0),
        |(mut one, some), (other, more)| {
            one.merge(&other);
            (one, some + more)
        },
    );
    println!(
        "{scenarios} tiny scenarios, {} steps, {} preemptions, {} tokens hit",
        reached.steps, reached.preemptions, reached.hit_tokens
    );
    assert_eq!(scenarios, (12 + 144 + 1_728 + 20_736) * 3 * 24);
    assert!(reached.preemptions > 100_000 && reached.hit_tokens > 100_000);
}

/// Two block sizes, three seat limits, prefix caching off and on, the admission gate off and on.
fn tiny_config(blocks: u32, setting: u32) -> SchedulerConfig {
    let max_num_seqs = 1 + setting / 2 % 3;
    SchedulerConfig {
        block_size: 2 + setting % 2,
        total_blocks: blocks + 1,
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + setting / 2 % 2,
        max_model_len: 8,
        prefix_caching: setting / 6 % 2 == 1,
        long_prefill_cap_spares_single: false,
        reserve_full_prompt: setting / 12 == 0,
        ..SchedulerConfig::VLLM
    }
}

fn tiny_arrivals(requests: u32, mix: u32, kinds: u32, setting: u32) -> Vec<Arrival> {
    let arrival = |index: u32| {
        let kind = mix / kinds.pow(index) % kinds;
        let (prompt_tokens, is_shared) = PROMPTS[(kind / 3) as usize];
        Arrival {
            at: SimTime(u64::from(index) * if setting.is_multiple_of(2) { 12 } else { 40 }),
            prompt_tokens,
            output_tokens: 1 + kind % 3,
            runs: if is_shared { vec![TokenRun { id: 1, tokens: prompt_tokens }] } else { Vec::new() },
            ..Arrival::default()
        }
    };
    (0..requests).map(arrival).collect()
}

/// Settings that need the plain path get it, also when the other is asked for.
#[test]
fn settings_that_the_aggregated_path_does_not_accept_take_the_plain_one() {
    let (_, accepted, cost, requests) = random_case(3);
    let cost: Arc<dyn CostModel> = Arc::new(cost);
    let refused = [
        SchedulerConfig { policy: Policy::Priority, ..accepted },
        SchedulerConfig { long_prefill_token_threshold: 5, ..accepted },
        SchedulerConfig { max_num_batched_tokens: accepted.max_num_seqs - 1, ..accepted },
        SchedulerConfig { chunked_prefill: false, ..accepted },
        SchedulerConfig { block_size: 1 << 20, ..accepted },
    ];
    for config in refused {
        let workload = WorkloadGenerator::from_arrivals(requests.clone());
        let run = Simulation::with_path(1, config, &cost, workload, StepPath::Aggregated).run(&mut ());
        assert_eq!(run.path, StepPath::Plain, "{config:?}");
        assert!(
            run.table
                .outcome
                .iter()
                .all(|outcome| *outcome != Outcome::Unfinished || config.max_num_seqs == 0)
        );
    }
}

/// Without rows the sums are the same, percentiles are within the stated error, and memory depends on the requests that
/// are present at once, or routed at once.
#[test]
fn requests_without_rows_have_the_same_sums() {
    for (prefix_caching, count) in [(false, 30_000u32), (true, 20_000)] {
        let arrivals: Vec<Arrival> = (0..count)
            .map(|i| Arrival {
                at: SimTime(u64::from(i) * 25_000_000 + u64::from(i * i % 7919) * 1_000),
                prompt_tokens: if i % 1000 == 7 { 10_000 } else { 20 + i * 37 % 700 },
                output_tokens: 1 + i * 71 % 200,
                ..Arrival::default()
            })
            .collect();
        let config = SchedulerConfig {
            total_blocks: 1_500,
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            max_model_len: 4_096,
            prefix_caching,
            ..SchedulerConfig::VLLM
        };
        let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
            base_ns: 5_000_000,
            per_token_ns: 20_000,
            per_context_token_ns: 40,
            ..LinearCost::NONE
        });
        let limits = Limits { ttft_ns: Some(20_000_000), ..Limits::default() };
        let workload = WorkloadGenerator::from_arrivals(arrivals);
        let simulation = || Simulation::new(2, config, &cost, workload.clone());
        let rows = simulation().run(&mut ());
        let folded = simulation().fold_rows(limits, u64::from(count)).run(&mut ());
        assert_eq!((rows.check_laws(), folded.check_laws()), (Ok(()), Ok(())));
        assert_eq!(folded.replicas, rows.replicas);
        assert_eq!((folded.end, folded.request_ns, folded.table.len()), (rows.end, rows.request_ns, 0));
        let rows_max = folded.folded.as_ref().unwrap().sums.rows_max;
        assert!(rows_max < 9_000, "{rows_max} rows at once");
        let metrics = |run: &RunResult| Metrics::new(run, 16, prefix_caching, &limits);
        let (rows, folded) = (metrics(&rows), metrics(&folded));
        assert_eq!(
            (
                &folded.requests,
                &folded.throughput,
                &folded.goodput,
                &folded.kv,
                &folded.steps,
                &folded.itl_ms
            ),
            (&rows.requests, &rows.throughput, &rows.goodput, &rows.kv, &rows.steps, &rows.itl_ms)
        );
        assert!(rows.goodput.unwrap().share < 0.99 && rows.requests.rejected > 10);
        let pairs = [
            (folded.ttft_ms, rows.ttft_ms),
            (folded.tpot_ms, rows.tpot_ms),
            (folded.e2el_ms, rows.e2el_ms),
            (folded.queue_ms, rows.queue_ms),
        ];
        for (folded, rows) in pairs.map(|(folded, rows)| (folded.unwrap(), rows.unwrap())) {
            assert_eq!((folded.count, folded.mean, folded.max), (rows.count, rows.mean, rows.max));
            assert!(folded.relative_error > 0.0 && rows.relative_error == 0.0);
            for (folded_ms, exact_ms) in [
                (folded.p50, rows.p50),
                (folded.p90, rows.p90),
                (folded.p95, rows.p95),
                (folded.p99, rows.p99),
            ] {
                let error = (folded_ms - exact_ms).abs();
                assert!(error <= folded.relative_error * exact_ms * 1.000_001, "{folded_ms} for {exact_ms}");
            }
        }
    }
}
