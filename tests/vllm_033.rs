//! The scheduler against vLLM 0.33.0's on 11 synchronous scenarios: queues, tokens, hits, preemptions, free blocks.

use crate::recordings::{Entries, folder, names, read_gz};
use serde::Deserialize;
use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scheduler::{NewRequest, Policy, Scheduler, SchedulerConfig};
use sim::step::ScheduledBatch;
use sim::units::SimTime;

#[derive(Deserialize)]
struct Recording {
    config: Config,
    requests: Vec<Request>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    budget: u32,
    #[serde(default = "sixteen")]
    max_seqs: u32,
    num_blocks: u32,
    #[serde(default = "sixteen")]
    bs: u32,
    #[serde(default = "default_length")]
    max_len: u32,
    #[serde(default)]
    thr: u32,
    #[serde(default = "yes")]
    prefix: bool,
    #[serde(default)]
    policy: Policy,
}

fn sixteen() -> u32 {
    16
}

fn default_length() -> u32 {
    8192
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Request {
    id: String,
    arrive: u64,
    segs: Vec<(u64, u32)>,
    max_tokens: u32,
    #[serde(default)]
    stop_at: Option<u32>,
    #[serde(default)]
    prio: i32,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Step {
    step: u64,
    scheduled: Entries,
    samples: Vec<String>,
    #[serde(default)]
    admitted_cached: Entries,
    #[serde(default)]
    preempted: Vec<String>,
    running: Vec<String>,
    waiting: Vec<String>,
    free: u32,
    #[serde(default)]
    finished_after: Vec<String>,
}

/// Generated token g is the same in all requests.
const OUTPUT_RUN: u64 = u64::MAX;

fn replay(recording: &Recording) -> Vec<Step> {
    let config = &recording.config;
    let mut scheduler = Scheduler::new(SchedulerConfig {
        policy: config.policy,
        block_size: config.bs,
        total_blocks: config.num_blocks,
        max_num_seqs: config.max_seqs,
        max_num_batched_tokens: config.budget,
        max_model_len: config.max_len,
        prefix_caching: config.prefix,
        chunked_prefill: true,
        long_prefill_token_threshold: config.thr,
        long_prefill_cap_spares_single: true,
        watermark_blocks: 0,
        reserve_full_prompt: true,
    });
    let name = |id: &RequestId| recording.requests[id.index()].id.clone();
    let (mut steps, mut batch, mut finished) = (Vec::new(), ScheduledBatch::default(), Vec::new());
    let mut next_arrival = 0;
    for iteration in 0.. {
        while let Some(request) = recording.requests.get(next_arrival).filter(|r| r.arrive == iteration) {
            enqueue(&mut scheduler, next_arrival, request);
            next_arrival += 1;
        }
        if scheduler.is_idle() && next_arrival == recording.requests.len() {
            break;
        }
        scheduler.form_batch(&mut batch);
        if batch.requests.is_empty() {
            continue;
        }
        let mut step = Step {
            step: iteration,
            scheduled: Entries(batch.requests.iter().map(|r| (name(&r.id), r.tokens)).collect()),
            samples: batch.requests.iter().filter(|r| r.samples).map(|r| name(&r.id)).collect(),
            admitted_cached: Entries(batch.admitted.iter().map(|a| (name(&a.id), a.cached_tokens)).collect()),
            preempted: batch.preempted.iter().map(name).collect(),
            running: scheduler.running_ids().map(|id| name(&id)).collect(),
            waiting: scheduler.waiting_ids().map(|id| name(&id)).collect(),
            free: scheduler.pool().free_blocks(),
            finished_after: Vec::new(),
        };
        finished.clear();
        scheduler.complete(&batch, &mut finished);
        step.finished_after = finished.iter().map(name).collect();
        step.finished_after.sort(); // the recording lists them by name
        steps.push(step);
    }
    steps
}

fn enqueue(scheduler: &mut Scheduler, index: usize, request: &Request) {
    let runs: Vec<TokenRun> = request.segs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
    let prompt_tokens = runs.iter().map(|run| run.tokens).sum();
    let asked = request.stop_at.map_or(request.max_tokens, |stop| stop.min(request.max_tokens));
    let output_tokens =
        scheduler.admissible_output_tokens(prompt_tokens, asked).expect("it was admitted there");
    scheduler.enqueue(&NewRequest {
        id: RequestId(index as u32),
        arrival: SimTime(request.arrive),
        priority: request.prio,
        prompt_tokens,
        output_tokens,
        runs: &runs,
        output_run: Some(OUTPUT_RUN),
    });
}

#[test]
fn all_synchronous_recordings_agree_exactly() {
    let folder = folder("vllm-0.33");
    let names = names(&folder);
    assert_eq!(names.len(), 11, "the recordings are all there");
    for name in names {
        let recording: Recording = serde_json::from_str(&read_gz(&folder.join(&name))).unwrap();
        let seen = replay(&recording);
        for (seen, expected) in seen.iter().zip(&recording.steps) {
            assert_eq!(seen, expected, "{name}");
        }
        assert_eq!(seen.len(), recording.steps.len(), "{name}: number of steps");
    }
}
