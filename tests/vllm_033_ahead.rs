//! The scheduler against vLLM 0.33.0's where more than one token is in the air: 11 asynchronous scenarios with two steps
//! in flight, and 5 speculative ones.

use crate::recordings::vllm_033::Recording;
use crate::recordings::{Entries, folder, names, read_gz};
use serde::Deserialize;
use sim::request::RequestId;
use sim::scheduler::Scheduler;
use sim::step::{ScheduledBatch, ScheduledRequest};
use std::collections::VecDeque;

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

/// The recording's stand-in for a model: how many of the drafts hold in the request's `n`-th sampling step.
fn accepted_drafts(name: &str, n: u32, entry: &ScheduledRequest) -> u32 {
    (n * 5 + name.len() as u32 + name[1..].parse::<u32>().unwrap()) % (entry.drafts + 1)
}

struct Replay<'a> {
    recording: &'a Recording<Step>,
    scheduler: Scheduler,
    in_flight: VecDeque<(usize, ScheduledBatch)>,
    steps: Vec<Step>,
    /// Sampling steps and output tokens of each request so far.
    sampled: Vec<u32>,
    outputs: Vec<u32>,
}

impl<'a> Replay<'a> {
    fn new(recording: &'a Recording<Step>) -> Replay<'a> {
        let scheduler = Scheduler::new(recording.config.scheduler());
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
        let config = self.recording.config.scheduler();
        self.recording.requests[index].enqueue(index, &config, |request| self.scheduler.enqueue(request));
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
        let names = |ids: Vec<RequestId>| ids.into_iter().map(|id| self.name(id)).collect();
        let requests = || batch.requests.iter();
        self.steps.push(Step {
            step: iteration,
            scheduled: entries(requests().map(|r| (r.id, r.tokens)).collect()),
            samples: requests().filter(|r| r.samples).map(|r| self.name(r.id)).collect(),
            admitted_cached: entries(batch.admitted.iter().map(|a| (a.id, a.cached_tokens)).collect()),
            preempted: batch.preempted.iter().map(|id| self.name(*id)).collect(),
            running: names(self.scheduler.running_ids()),
            waiting: names(self.scheduler.waiting_ids()),
            free: self.scheduler.free_blocks(),
            finished_after: Vec::new(),
            drafts: entries(requests().filter(|r| r.drafts > 0).map(|r| (r.id, r.drafts)).collect()),
            accepted: Entries::default(),
            outputs_after: Entries::default(),
        });
        self.in_flight.push_back((self.steps.len() - 1, batch));
        true
    }

    /// Processes the oldest result; what it finished belongs to the step recorded in this iteration.
    fn process(&mut self, recorded_now: bool) {
        let Some((_, batch)) = self.in_flight.pop_front() else { return };
        let mut accepted = Vec::new();
        let mut emissions = Vec::new();
        let (requests, sampled) = (&self.recording.requests, &mut self.sampled);
        self.scheduler.complete_with(
            &batch,
            |entry| {
                let index = entry.id.index();
                sampled[index] += 1;
                let count = accepted_drafts(&requests[index].id, sampled[index], entry);
                accepted.push((entry.id, count));
                count
            },
            |emission| emissions.push(emission),
        );
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

fn compare(version: &str, count: usize) {
    let folder = folder(version);
    let names = names(&folder);
    assert_eq!(names.len(), count, "the recordings are all there");
    for name in names {
        let recording: Recording<Step> = serde_json::from_str(&read_gz(&folder.join(&name))).unwrap();
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
