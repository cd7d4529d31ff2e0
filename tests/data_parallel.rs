//! Data parallelism inside a replica: ranks of a model with experts step together, copies of a dense model do not. Times
//! are exact, from linear step costs.

use crate::laws::{Draw, arrivals, config, linear_cost};
use sim::cost::{CostModel, LinearCost};
use sim::document::Document;
use sim::profile::Operation;
use sim::replica::{DataParallel, StepPath, StepRecord};
use sim::router::RouterConfig;
use sim::scenario::Scenario;
use sim::scheduler::SchedulerConfig;
use sim::simulation::{EngineSpec, RunObserver, RunResult, Simulation};
use sim::step::StepShape;
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::path::Path;
use std::sync::Arc;

const STEP_NS: u64 = 1_000;
const TOKEN_NS: u64 = 10;

fn roomy() -> SchedulerConfig {
    SchedulerConfig {
        total_blocks: 10_000,
        max_num_seqs: 64,
        max_num_batched_tokens: 1_000,
        max_model_len: 4_000,
        prefix_caching: false,
        ..SchedulerConfig::VLLM
    }
}

fn linear() -> Arc<dyn CostModel> {
    Arc::new(LinearCost {
        base_ns: STEP_NS,
        per_token_ns: TOKEN_NS,
        per_context_token_ns: 0,
        ..LinearCost::NONE
    })
}

fn arrival(at: u64, prompt_tokens: u32, output_tokens: u32) -> Arrival {
    Arrival { at: SimTime(at), prompt_tokens, output_tokens, ..Arrival::default() }
}

/// Equal replicas of several engines each, behind a round-robin router.
fn simulation(
    replicas: usize,
    engines: DataParallel,
    config: SchedulerConfig,
    cost: &Arc<dyn CostModel>,
    workload: WorkloadGenerator,
) -> Simulation {
    let spec = EngineSpec { data_parallel: Some(engines), ..EngineSpec::new(config, cost) };
    let specs = vec![spec; replicas];
    let path = StepPath::best(&config);
    Simulation::with_router(&specs, workload, path, &RouterConfig::RoundRobin(None), 0)
}

fn run(
    ranks: u32,
    is_lockstep: bool,
    config: SchedulerConfig,
    cost: &Arc<dyn CostModel>,
    requests: Vec<Arrival>,
) -> RunResult {
    let workload = WorkloadGenerator::from_arrivals(requests);
    let result = simulation(1, DataParallel { ranks, is_lockstep }, config, cost, workload).run(&mut ());
    assert_eq!(result.check_laws(), Ok(()));
    result
}

/// Steps and dummy steps of each rank.
fn steps(run: &RunResult) -> Vec<(u64, u64)> {
    run.replicas.iter().map(|rank| (rank.steps, rank.dummy_steps)).collect()
}

#[test]
fn v46_idle_ranks_step_along_until_the_sixteenth_step_asks() {
    // One prompt and 19 more tokens are 20 steps of rank 0; the ranks ask each other after steps 1, 16 and 32.
    let result = run(2, true, roomy(), &linear(), vec![arrival(0, 8, 20)]);
    assert_eq!(result.path, StepPath::Lockstep);
    assert_eq!(steps(&result), [(20, 12), (0, 32)]);
    assert_eq!(result.table.last_token[0], SimTime(20 * STEP_NS + (8 + 19) * TOKEN_NS));
    assert_eq!(result.end, SimTime(32 * STEP_NS + (8 + 31) * TOKEN_NS), "a dummy computes one token");
    // What ends with the first step is noticed after it.
    assert_eq!(steps(&run(2, true, roomy(), &linear(), vec![arrival(0, 8, 1)])), [(1, 0), (0, 1)]);
}

#[test]
fn v46_a_request_waits_for_the_dummy_step_in_flight_and_wakes_sleeping_ranks() {
    // Steps of 1,010 ns after the first; the second request comes into the fifth step, a dummy on both ranks.
    let result = run(2, true, roomy(), &linear(), vec![arrival(0, 1, 3), arrival(4_500, 1, 1)]);
    assert_eq!(result.table.first_scheduled[1], SimTime(5 * (STEP_NS + TOKEN_NS)));
    // After step 16 all sleep: a third is scheduled as it comes.
    let late = SimTime(20 * (STEP_NS + TOKEN_NS));
    let result = run(2, true, roomy(), &linear(), vec![arrival(0, 1, 3), arrival(late.0, 1, 1)]);
    assert_eq!(result.table.first_scheduled[1], late);
    assert_eq!(
        steps(&result),
        [(3, 14), (1, 16)],
        "rank 1 gets the second request: one wave of 16, one of 1"
    );
}

#[test]
fn v46_a_common_step_takes_as_long_as_its_slowest_rank() {
    let requests = vec![arrival(0, 900, 1), arrival(0, 30, 1)];
    let common = SimTime(STEP_NS + 900 * TOKEN_NS);
    let together = run(2, true, roomy(), &linear(), requests.clone());
    assert_eq!(together.table.first_token, [common, common]);
    assert_eq!(together.table.replica, [0, 1]);
    // V-45: copies of a dense model wait for nobody and run no dummies.
    let apart = run(2, false, roomy(), &linear(), requests);
    assert_eq!(apart.table.first_token, [common, SimTime(STEP_NS + 30 * TOKEN_NS)]);
    assert_eq!(steps(&apart), [(1, 0), (1, 0)]);
    assert_eq!(apart.path, StepPath::Aggregated);
}

/// The tokens of the group that each step was told.
#[derive(Default)]
struct Groups(Vec<(u64, u64, bool)>);

impl RunObserver for Groups {
    fn step(&mut self, step: &StepRecord<'_>) {
        self.0.push((step.shape.group_tokens, step.shape.group_largest_tokens, step.sets_pace));
    }
}

#[test]
fn v47_every_rank_learns_the_tokens_of_all_and_of_the_largest() {
    let cost = linear();
    let requests = vec![arrival(0, 900, 2), arrival(0, 30, 2)];
    let mut groups = Groups::default();
    let engines = DataParallel { ranks: 4, is_lockstep: true };
    let workload = WorkloadGenerator::from_arrivals(requests);
    simulation(1, engines, roomy(), &cost, workload).run(&mut groups);
    // Two ranks work, two compute a token of nothing; then all compute one token.
    assert_eq!(groups.0, [(932, 900, true), (932, 900, false), (4, 1, true), (4, 1, false)]);
}

/// A scenario of Qwen3-30B-A3B on H100s.
fn qwen(deployment: &str, engine: &str) -> Scenario {
    let text = format!(
        "model: qwen3-30b-a3b\nhardware: {{ gpu: h100-sxm }}\ndeployment: {{ {deployment} }}\n\
         engine: {{ max_model_len: 16384, {engine} }}\n\
         workload: {{ requests: 40, arrivals: {{ poisson: 20/s }}, prompt: {{ constant: 300 }}, output: {{ constant: 30 }} }}\n"
    );
    let document = Document::parse("s.yaml", &text).unwrap();
    Scenario::resolve("s.yaml", &document, Path::new(".")).unwrap()
}

#[test]
fn v47_ranks_are_padded_to_the_captured_size_of_the_largest() {
    let scenario = qwen("data_parallel: 4, expert_parallel: 4", "max_num_seqs: 256");
    let profiled = scenario.pricing.profiled.as_ref().unwrap();
    let rows = |own: u32, largest: u64, all: u64| {
        let mut shape = StepShape::default();
        for _ in 0..own {
            shape.add(1, 500, false, true);
        }
        shape.group_largest_tokens = largest;
        shape.group_tokens = all;
        let calls = profiled.calls(&shape).unwrap();
        let of = |name: &str| calls.iter().find(|(operator, _)| operator.name == name).unwrap().1;
        let Operation::Gemm { m, .. } = of("qkv projection") else { panic!() };
        let Operation::Moe { tokens, experts, .. } = of("experts") else { panic!() };
        let Operation::Collective { bytes, ranks, .. } = of("token dispatch") else { panic!() };
        assert_eq!((experts.expert_ranks, experts.tensor_ranks, experts.inter, ranks), (4, 1, 768, 4));
        assert_eq!(bytes, tokens * 2.0 * 2048.0, "all-gather of 16-bit tokens");
        (m, tokens)
    };
    // 100 tokens take the graph of 104 on every rank.
    assert_eq!(rows(3, 100, 150), (104.0, 416.0));
    // A rank beyond the largest graph keeps all from theirs: nothing is padded.
    assert_eq!(rows(3, 2_000, 2_300), (3.0, 2_300.0));
    // The experts' work is the group's, so a rank alone with its tokens is cheaper than one among busy ranks.
    let alone = StepShape { decode_requests: 8, decode_context_tokens: 800, ..StepShape::default() };
    let among = |group_tokens, group_largest_tokens| {
        scenario.pricing.model.step(&StepShape { group_tokens, group_largest_tokens, ..alone })
    };
    assert!(among(11, 8) < among(400, 200) && among(400, 200) < among(20_000, 8_000));
}

#[test]
fn v48_experts_are_sliced_without_the_flag_and_whole_with_it() {
    let experts = |deployment: &str| {
        let scenario = qwen(deployment, "");
        let rank = scenario.engine.memory.as_ref().unwrap().ranks[0].clone();
        let bytes = |part: &str| rank.parts.iter().find(|p| p.part == part).map_or(0, |p| p.bytes);
        (
            bytes("experts"),
            bytes("attention"),
            rank.experts,
            scenario.gpus(),
            scenario.engine.scheduler.total_blocks,
        )
    };
    let all = 48 * 128 * 3 * 2048 * 768 * 2u64;
    let attention = experts("replicas: 1").1;
    let (sliced, own_attention, whole, gpus, blocks) = experts("data_parallel: 8");
    assert_eq!((sliced, own_attention, whole, gpus), (all / 8, attention, None, 8));
    let (owned, own_attention, whole, gpus, same_blocks) = experts("data_parallel: 8, expert_parallel: 8");
    assert_eq!((owned, own_attention, whole, gpus), (all / 8, attention, Some(16), 8));
    assert_eq!(blocks, same_blocks, "both leave the same room for KV");
    let mixed = experts("tensor_parallel: 2, data_parallel: 4, expert_parallel: 8");
    assert_eq!((mixed.0, mixed.2, mixed.3), (all / 8, Some(16), 8));
    assert!(mixed.1 < attention && mixed.4 > 19 * blocks / 10, "half the attention, half the KV per token");
}

#[test]
fn v48_tensor_parallel_attention_reduces_where_data_parallel_attention_exchanges() {
    let names = |deployment: &str| {
        let scenario = qwen(deployment, "");
        let shape = StepShape {
            decode_requests: 4,
            decode_context_tokens: 800,
            sampled_requests: 4,
            ..StepShape::default()
        };
        let profiled = scenario.pricing.profiled.clone().unwrap();
        let calls = profiled.calls(&shape).unwrap();
        let moving =
            ["token dispatch", "token combine", "feed-forward all-reduce", "data-parallel agreement"];
        moving.map(|name| calls.iter().any(|(operator, _)| operator.name == name))
    };
    assert_eq!(names("tensor_parallel: 4, expert_parallel: 4"), [false, false, true, false]);
    assert_eq!(names("data_parallel: 4, expert_parallel: 4"), [true, true, false, true]);
    assert_eq!(names("tensor_parallel: 2, data_parallel: 2"), [true, true, true, true]);
}

#[test]
fn the_laws_hold_on_random_data_parallel_deployments_and_runs_repeat() {
    let (mut dummies, mut preemptions, mut ranks_used) = (0, 0, 0);
    for seed in 0..6_000 {
        let simulate = || {
            let mut draw = Draw(seed);
            let config = config(&mut draw);
            let replicas = draw.between(1, 2);
            let engines = DataParallel { ranks: draw.between(2, 5), is_lockstep: draw.below(3) > 0 };
            let cost: Arc<dyn CostModel> = Arc::new(linear_cost(&mut draw));
            let workload = WorkloadGenerator::from_arrivals(arrivals(&mut draw));
            simulation(replicas as usize, engines, config, &cost, workload).run(&mut ())
        };
        let run = simulate();
        run.check_laws().unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        dummies += run.replicas.iter().map(|rank| rank.dummy_steps).sum::<u64>();
        preemptions += run.replicas.iter().map(|rank| rank.preemptions).sum::<u64>();
        ranks_used += run.replicas.iter().filter(|rank| rank.steps > 0).count();
        if seed % 50 == 0 {
            assert_eq!(format!("{run:?}"), format!("{:?}", simulate()), "seed {seed}");
        }
    }
    assert!(
        dummies > 50_000 && preemptions > 2_000 && ranks_used > 20_000,
        "{dummies} {preemptions} {ranks_used}"
    );
}

#[test]
fn one_rank_is_one_engine() {
    for seed in 0..2_000 {
        let simulate = |engines: Option<bool>| {
            let mut draw = Draw(seed);
            let config = config(&mut draw);
            let cost = linear();
            let mut requests = arrivals(&mut draw);
            // All within the first step, so that the ranks never fall asleep; not at one instant, where priority has no
            // order.
            (0..).zip(&mut requests).for_each(|(at, request)| request.at = SimTime(at));
            let workload = WorkloadGenerator::from_arrivals(requests);
            let data_parallel = engines.map(|is_lockstep| DataParallel { ranks: 1, is_lockstep });
            let spec = EngineSpec { data_parallel, ..EngineSpec::new(config, &cost) };
            let router = RouterConfig::RoundRobin(None);
            Simulation::with_router(&[spec], workload, StepPath::Plain, &router, 0).run(&mut ()).table
        };
        let plain = format!("{:?}", simulate(None));
        assert_eq!(plain, format!("{:?}", simulate(Some(true))), "seed {seed}");
        assert_eq!(plain, format!("{:?}", simulate(Some(false))), "seed {seed}");
    }
}

#[test]
fn what_the_meter_sees_of_a_group_is_the_rank_that_sets_the_pace() {
    let scenario = qwen("data_parallel: 4, expert_parallel: 4", "");
    let run = scenario.simulate(&mut ()).unwrap();
    let usage = run.usage.as_ref().unwrap();
    let share =
        |name: &str| usage.by_operator.iter().find(|(n, _)| n == name).map_or(0.0, |(_, share)| *share);
    assert!(share("experts") > 0.1 && share("token dispatch") > 0.0 && share("token combine") > 0.0);
    let again = scenario.simulate(&mut ()).unwrap();
    assert_eq!(format!("{run:?}"), format!("{again:?}"), "byte-equal repeats");
}
