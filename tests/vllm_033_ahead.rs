//! The scheduler against vLLM 0.33.0's where more than one token is in the air: 11 asynchronous scenarios with two steps
//! in flight, and 5 speculative ones.

use crate::recordings::{Entries, folder, names, read_gz};
use serde::Deserialize;
use sim::identity::TokenRun;
use sim::request::RequestId;
use sim::scheduler::{NewRequest, Policy, SchedulerConfig, VllmScheduler};
use sim::step::{ScheduledBatch, ScheduledRequest};
use sim::units::SimTime;
use std::collections::VecDeque;

#[derive(Deserialize)]
struct Recording {
    config: Config,
    #[serde(default = "one")]
    pipeline_depth: usize,
    requests: Vec<Request>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    budget: u32,
    max_seqs: u32,
    num_blocks: u32,
    bs: u32,
    max_len: u32,
    thr: u32,
    prefix: bool,
    policy: Policy,
    async_: bool,
    spec_k: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            budget: 0,
            max_seqs: 16,
            num_blocks: 0,
            bs: 16,
            max_len: 8192,
            thr: 0,
            prefix: true,
            policy: Policy::Fcfs,
            async_: false,
            spec_k: 0,
        }
    }
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
#[serde(deny_unknown_fields)]
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
    #[serde(default)]
    drafts: Entries,
    #[serde(default)]
    accepted: Entries,
    #[serde(default)]
    outputs_after: Entries,
}

/// Generated token g is the same in all requests.
const OUTPUT_RUN: u64 = u64::MAX;

struct Replay<'a> {
    recording: &'a Recording,
    scheduler: VllmScheduler,
    in_flight: VecDeque<(usize, ScheduledBatch)>,
    steps: Vec<Step>,
    /// Sampling steps and output tokens of each request so far.
    sampled: Vec<u32>,
    outputs: Vec<u32>,
}

impl<'a> Replay<'a> {
    fn new(recording: &'a Recording) -> Replay<'a> {
        let config = &recording.config;
        let scheduler = VllmScheduler::new(SchedulerConfig {
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
            async_scheduling: config.async_,
            draft_tokens: config.spec_k,
            lookahead_tokens: 0,
            rules: sim::scheduler::EngineRules::Vllm,
        });
        let requests = recording.requests.len();
        Replay {
            recording,
            scheduler,
            in_flight: VecDeque::new(),
            steps: Vec::new(),
            sampled: vec![0; requests],
            outputs: vec![0; requests],
        }
    }

    fn name(&self, id: RequestId) -> String {
        self.recording.requests[id.index()].id.clone()
    }

    fn enqueue(&mut self, index: usize) {
        let request = &self.recording.requests[index];
        let runs: Vec<TokenRun> = request.segs.iter().map(|&(id, tokens)| TokenRun { id, tokens }).collect();
        let prompt_tokens = runs.iter().map(|run| run.tokens).sum();
        let asked = request.stop_at.map_or(request.max_tokens, |stop| stop.min(request.max_tokens));
        let output_tokens =
            self.scheduler.admissible_output_tokens(prompt_tokens, asked).expect("admitted there");
        self.scheduler.enqueue(&NewRequest {
            id: RequestId(index as u32),
            arrival: SimTime(request.arrive),
            priority: request.prio,
            prompt_tokens,
            output_tokens,
            max_output_tokens: request.max_tokens,
            runs: &runs,
            output_run: Some(OUTPUT_RUN),
        });
    }

    fn schedule(&mut self, iteration: u64) -> bool {
        let mut batch = ScheduledBatch::default();
        self.scheduler.form_batch(&mut batch);
        if batch.requests.is_empty() {
            return false;
        }
        let entries = |pairs: Vec<(RequestId, u32)>| {
            Entries(pairs.into_iter().map(|(id, count)| (self.name(id), count)).collect())
        };
        let requests = || batch.requests.iter();
        self.steps.push(Step {
            step: iteration,
            scheduled: entries(requests().map(|r| (r.id, r.tokens)).collect()),
            samples: requests().filter(|r| r.samples).map(|r| self.name(r.id)).collect(),
            admitted_cached: entries(batch.admitted.iter().map(|a| (a.id, a.cached_tokens)).collect()),
            preempted: batch.preempted.iter().map(|id| self.name(*id)).collect(),
            running: self.scheduler.running_ids().map(|id| self.name(id)).collect(),
            waiting: self.scheduler.waiting_ids().map(|id| self.name(id)).collect(),
            free: self.scheduler.pool().free_blocks(),
            finished_after: Vec::new(),
            drafts: entries(requests().filter(|r| r.drafts > 0).map(|r| (r.id, r.drafts)).collect()),
            accepted: Entries::default(),
            outputs_after: Entries::default(),
        });
        self.in_flight.push_back((self.steps.len() - 1, batch));
        true
    }

    /// The recording's stand-in for a model: how many of the drafts hold in the request's `n`-th sampling step.
    fn accepted(&mut self, entry: &ScheduledRequest) -> u32 {
        let name = self.name(entry.id);
        let n = &mut self.sampled[entry.id.index()];
        *n += 1;
        (*n * 5 + name.len() as u32 + name[1..].parse::<u32>().unwrap()) % (entry.drafts + 1)
    }

    /// Processes the oldest result; what it finished belongs to the step recorded in this iteration.
    fn process(&mut self, recorded_now: bool) {
        let Some((_, batch)) = self.in_flight.pop_front() else { return };
        let mut accepted = Vec::new();
        let mut emissions = Vec::new();
        let mut scheduler = std::mem::replace(&mut self.scheduler, VllmScheduler::new(tiny()));
        scheduler.complete_with(
            &batch,
            |entry| {
                let count = self.accepted(entry);
                accepted.push((entry.id, count));
                count
            },
            |emission| emissions.push(emission),
        );
        self.scheduler = scheduler;
        let mut finished: Vec<String> =
            emissions.iter().filter(|e| e.is_finished).map(|e| self.name(e.id)).collect();
        finished.sort();
        let speculative = self.recording.config.spec_k > 0;
        let mut outputs = Vec::new();
        for emission in &emissions {
            self.outputs[emission.id.index()] += emission.tokens;
            outputs.push((self.name(emission.id), self.outputs[emission.id.index()]));
        }
        let accepted = accepted.into_iter().map(|(id, count)| (self.name(id), count)).collect();
        // An iteration that scheduled nothing is not recorded: what it finished stands at the step before.
        if let Some(step) = self.steps.last_mut() {
            step.finished_after.extend(finished);
            if speculative && recorded_now {
                step.accepted = Entries(accepted);
                step.outputs_after = Entries(outputs);
            }
        }
    }

    fn run(mut self) -> Vec<Step> {
        let mut next_arrival = 0;
        for iteration in 0.. {
            while self.recording.requests.get(next_arrival).is_some_and(|r| r.arrive == iteration) {
                self.enqueue(next_arrival);
                next_arrival += 1;
            }
            let is_done = self.scheduler.is_idle() && self.in_flight.is_empty();
            if is_done && next_arrival == self.recording.requests.len() {
                break;
            }
            let recorded = self.schedule(iteration);
            if self.in_flight.len() >= self.recording.pipeline_depth || !recorded {
                self.process(recorded);
            }
        }
        self.steps
    }
}

fn tiny() -> SchedulerConfig {
    SchedulerConfig {
        policy: Policy::Fcfs,
        block_size: 1,
        total_blocks: 2,
        max_num_seqs: 1,
        max_num_batched_tokens: 1,
        max_model_len: 1,
        prefix_caching: false,
        chunked_prefill: true,
        long_prefill_token_threshold: 0,
        long_prefill_cap_spares_single: true,
        watermark_blocks: 0,
        reserve_full_prompt: true,
        async_scheduling: false,
        draft_tokens: 0,
        lookahead_tokens: 0,
        rules: sim::scheduler::EngineRules::Vllm,
    }
}

fn compare(version: &str, count: usize) {
    let folder = folder(version);
    let names = names(&folder);
    assert_eq!(names.len(), count, "the recordings are all there");
    for name in names {
        let recording: Recording = serde_json::from_str(&read_gz(&folder.join(&name))).unwrap();
        let seen = Replay::new(&recording).run();
        for (seen, expected) in seen.iter().zip(&recording.steps) {
            assert_eq!(seen, expected, "{name}");
        }
        assert_eq!(seen.len(), recording.steps.len(), "{name}: number of steps");
    }
}

#[test]
fn all_asynchronous_recordings_agree_exactly() {
    compare("vllm-0.33-async", 11);
}

#[test]
fn all_speculative_recordings_agree_exactly() {
    compare("vllm-0.33-speculative", 5);
}

fn one() -> usize {
    1
}
