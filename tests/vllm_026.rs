//! The simulator against vLLM 0.26.0's scheduler on 14 workloads: every step, every request, every nanosecond.

use crate::recordings::{Entries, folder, names, read_gz};
use serde::Deserialize;
use sim::cost::{CostModel, LinearCost};
use sim::identity::TokenRun;
use sim::replica::{StepPath, StepRecord};
use sim::scheduler::{Policy, SchedulerConfig};
use sim::simulation::{RunObserver, Simulation};
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::sync::Arc;

#[derive(Deserialize)]
struct Case {
    engine: Engine,
    cost: Cost,
    hash_block_tokens: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Engine {
    block_size: u32,
    num_blocks: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    prefix_caching: bool,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    long_prefill_token_threshold: u32,
    #[serde(default)]
    watermark: f64,
    #[serde(default = "yes")]
    reserve_full_isl: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Cost {
    base_ns: u64,
    per_token_ns: u64,
    per_context_token_ns: u64,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    arrival_ns: u64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Step {
    start_ns: u64,
    duration_ns: u64,
    scheduled: Entries,
    running: u32,
    waiting: u32,
    free_blocks: u32,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Outcome {
    id: String,
    arrival_ns: u64,
    first_scheduled_ns: u64,
    first_token_ns: u64,
    finish_ns: u64,
    preemptions: u32,
    cached_tokens: u32,
    max_itl_ns: u64,
    output_tokens: u32,
}

/// Collects the steps in the recording's form.
struct Steps<'a> {
    ids: &'a [String],
    steps: Vec<Step>,
}

impl RunObserver for Steps<'_> {
    fn step(&mut self, step: &StepRecord<'_>) {
        let entries = step.batch.requests();
        self.steps.push(Step {
            start_ns: step.start.0,
            duration_ns: step.duration.0,
            scheduled: Entries(entries.iter().map(|r| (self.ids[r.id.index()].clone(), r.tokens)).collect()),
            running: step.running_requests,
            waiting: step.waiting_requests,
            free_blocks: step.free_blocks,
        });
    }
}

fn lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn config(engine: &Engine) -> SchedulerConfig {
    SchedulerConfig {
        policy: engine.policy,
        block_size: engine.block_size,
        total_blocks: engine.num_blocks,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_model_len: engine.max_model_len,
        prefix_caching: engine.prefix_caching,
        long_prefill_token_threshold: engine.long_prefill_token_threshold,
        long_prefill_cap_spares_single: false,
        watermark_blocks: (engine.watermark * f64::from(engine.num_blocks)) as u32,
        reserve_full_prompt: engine.reserve_full_isl,
        ..SchedulerConfig::VLLM
    }
}

fn arrivals(requests: &[Request], run_tokens: u32) -> Vec<Arrival> {
    let arrival = |request: &Request| {
        let run = |(index, &id): (usize, &u64)| TokenRun {
            id,
            tokens: run_tokens.min(request.input_length - index as u32 * run_tokens),
        };
        Arrival {
            at: SimTime(request.arrival_ns),
            prompt_tokens: request.input_length,
            output_tokens: request.output_length,
            priority: request.priority,
            runs: request.hash_ids.iter().enumerate().map(run).collect(),
            ..Arrival::default()
        }
    };
    requests.iter().map(arrival).collect()
}

/// Replays one recorded workload and compares everything; gives the path taken and the number of steps and requests compared.
fn replay(name: &str, path: StepPath) -> (StepPath, usize, usize) {
    let folder = folder("vllm-0.26").join(name);
    let read = |file: &str| read_gz(&folder.join(file));
    let case: Case =
        serde_json::from_str(&std::fs::read_to_string(folder.join("case.json")).unwrap()).unwrap();
    let requests: Vec<Request> = lines(&read("requests.jsonl.gz"));
    let ids: Vec<String> = requests.iter().map(|r| r.id.clone()).collect();
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
        base_ns: case.cost.base_ns,
        per_token_ns: case.cost.per_token_ns,
        per_context_token_ns: case.cost.per_context_token_ns,
        ..LinearCost::NONE
    });
    let workload = WorkloadGenerator::from_arrivals(arrivals(&requests, case.hash_block_tokens));
    let mut seen = Steps { ids: &ids, steps: Vec::new() };
    let result = Simulation::with_path(1, config(&case.engine), &cost, workload, path).run(&mut seen);
    result.check_laws().unwrap();

    let expected: Vec<Step> = lines(&read("expected_steps.jsonl.gz"));
    for (index, (seen, expected)) in seen.steps.iter().zip(&expected).enumerate() {
        assert_eq!(seen, expected, "{name}: step {index}");
    }
    assert_eq!(seen.steps.len(), expected.len(), "{name}: number of steps");
    let expected: Vec<Outcome> = lines(&read("expected_requests.jsonl.gz"));
    let table = &result.table;
    for (i, expected) in expected.iter().enumerate() {
        let seen = Outcome {
            id: ids[i].clone(),
            arrival_ns: table.arrival[i].0,
            first_scheduled_ns: table.first_scheduled[i].0,
            first_token_ns: table.first_token[i].0,
            finish_ns: table.last_token[i].0,
            preemptions: table.preemptions[i],
            cached_tokens: table.cached_tokens[i],
            max_itl_ns: table.max_gap_ns[i],
            output_tokens: table.generated_tokens[i],
        };
        assert_eq!(&seen, expected, "{name}: request {i}");
    }
    assert_eq!(table.len(), expected.len(), "{name}: number of requests");
    (result.path, seen.steps.len(), table.len())
}

#[test]
fn all_recorded_workloads_agree_exactly() {
    let names = names(&folder("vllm-0.26"));
    assert_eq!(names.len(), 14, "the recordings are all there");
    for path in [StepPath::Plain, StepPath::Aggregated] {
        let compared: Vec<_> = names.iter().map(|name| replay(name, path)).collect();
        let steps: usize = compared.iter().map(|c| c.1).sum();
        assert!(steps > 30_000, "{steps} steps compared");
        // Priorities and a cap on long prompts need the plain path.
        let as_asked = compared.iter().filter(|c| c.0 == path).count();
        assert_eq!(as_asked, if path == StepPath::Plain { 14 } else { 12 });
    }
}
