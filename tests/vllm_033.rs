//! The scheduler against vLLM 0.33.0's on 11 synchronous scenarios: queues, tokens, hits, preemptions, free blocks.

use crate::recordings::vllm_033::Recording;
use crate::recordings::{Entries, folder, names, read_gz};
use serde::Deserialize;
use sim::replica::StepPath;
use sim::request::RequestId;
use sim::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler};
use sim::scheduler::{NewRequest, Scheduler, SchedulerConfig};
use sim::step::{Admission, ScheduledBatch, ScheduledRequest};

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

/// A scheduler of either kind with its batch.
enum Either {
    Plain(Scheduler, ScheduledBatch),
    Aggregated(Box<AggregatedScheduler>, AggregatedBatch),
}

/// What a scheduler decided in one step, before its results.
struct Decision {
    requests: Vec<ScheduledRequest>,
    admitted: Vec<Admission>,
    preempted: Vec<RequestId>,
    running: Vec<RequestId>,
    waiting: Vec<RequestId>,
    free_blocks: u32,
}

impl Either {
    fn new(config: SchedulerConfig, path: StepPath) -> Either {
        match path {
            StepPath::Plain | StepPath::Pipelined | StepPath::Lockstep => {
                Either::Plain(Scheduler::new(config), ScheduledBatch::default())
            }
            StepPath::Aggregated => {
                let scheduler = AggregatedScheduler::new(config, true);
                Either::Aggregated(Box::new(scheduler), AggregatedBatch::default())
            }
        }
    }

    fn enqueue(&mut self, request: &NewRequest<'_>) {
        match self {
            Either::Plain(scheduler, _) => scheduler.enqueue(request),
            Either::Aggregated(scheduler, _) => scheduler.enqueue(request),
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Either::Plain(scheduler, _) => scheduler.is_idle(),
            Either::Aggregated(scheduler, _) => scheduler.is_idle(),
        }
    }

    fn form_batch(&mut self) -> Decision {
        match self {
            Either::Plain(scheduler, batch) => {
                scheduler.form_batch(batch);
                Decision {
                    requests: batch.requests.clone(),
                    admitted: batch.admitted.clone(),
                    preempted: batch.preempted.clone(),
                    running: scheduler.running_ids(),
                    waiting: scheduler.waiting_ids(),
                    free_blocks: scheduler.free_blocks(),
                }
            }
            Either::Aggregated(scheduler, batch) => {
                scheduler.form_batch(batch);
                Decision {
                    requests: scheduler.scheduled_requests(batch),
                    admitted: batch.admitted.clone(),
                    preempted: batch.preempted.iter().map(|departure| departure.id).collect(),
                    running: scheduler.running_ids().collect(),
                    waiting: scheduler.waiting_ids().collect(),
                    free_blocks: scheduler.free_blocks(),
                }
            }
        }
    }

    fn complete(&mut self) -> Vec<RequestId> {
        match self {
            Either::Plain(scheduler, batch) => {
                let mut finished = Vec::new();
                scheduler.complete(batch, &mut finished);
                finished
            }
            Either::Aggregated(scheduler, batch) => {
                let mut finished = Vec::new();
                scheduler.complete(batch, &mut finished);
                finished.iter().map(|departure| departure.id).collect()
            }
        }
    }
}

/// The recording's steps as the scheduler of that path takes them; none when it does not accept the settings.
fn replay(recording: &Recording<Step>, path: StepPath) -> Option<Vec<Step>> {
    let config = recording.config.scheduler();
    if path == StepPath::Aggregated && StepPath::best(&config) != path {
        return None;
    }
    let mut scheduler = Either::new(config, path);
    let name = |id: &RequestId| recording.requests[id.index()].id.clone();
    let mut steps = Vec::new();
    let mut next_arrival = 0;
    for iteration in 0.. {
        while let Some(request) = recording.requests.get(next_arrival).filter(|r| r.arrive == iteration) {
            request.enqueue(next_arrival, &config, |request| scheduler.enqueue(request));
            next_arrival += 1;
        }
        if scheduler.is_idle() && next_arrival == recording.requests.len() {
            break;
        }
        let decision = scheduler.form_batch();
        if decision.requests.is_empty() {
            continue;
        }
        let mut finished_after: Vec<_> = scheduler.complete().iter().map(name).collect();
        finished_after.sort(); // the recording lists them by name
        let requests = decision.requests.iter();
        steps.push(Step {
            step: iteration,
            scheduled: Entries(requests.clone().map(|r| (name(&r.id), r.tokens)).collect()),
            samples: requests.filter(|r| r.samples).map(|r| name(&r.id)).collect(),
            admitted_cached: Entries(
                decision.admitted.iter().map(|a| (name(&a.id), a.cached_tokens)).collect(),
            ),
            preempted: decision.preempted.iter().map(name).collect(),
            running: decision.running.iter().map(name).collect(),
            waiting: decision.waiting.iter().map(name).collect(),
            free: decision.free_blocks,
            finished_after,
        });
    }
    Some(steps)
}

#[test]
fn all_synchronous_recordings_agree_exactly() {
    let folder = folder("vllm-0.33");
    let names = names(&folder);
    assert_eq!(names.len(), 11, "the recordings are all there");
    let mut aggregated = 0;
    for name in names {
        let recording: Recording<Step> = serde_json::from_str(&read_gz(&folder.join(&name))).unwrap();
        for path in [StepPath::Plain, StepPath::Aggregated] {
            let Some(seen) = replay(&recording, path) else { continue };
            for (seen, expected) in seen.iter().zip(&recording.steps) {
                assert_eq!(seen, expected, "{name}, {path:?}");
            }
            assert_eq!(seen.len(), recording.steps.len(), "{name}, {path:?}: number of steps");
            aggregated += usize::from(path == StepPath::Aggregated);
        }
    }
    // Priorities and a cap on long prompts need the plain scheduler.
    assert_eq!(aggregated, 9);
}
