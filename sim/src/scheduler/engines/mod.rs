//! Engines beside vLLM: SGLang, TensorRT-LLM, TGI, and schedulers from the literature. Each is written from its rules;
//! see docs/engines.md. [`Scheduler`] is vLLM's or one of them.

mod job;
mod literature;
mod offload;
mod radix;
mod segments;
mod sglang;
mod tgi;
mod trtllm;

pub use literature::LiteratureRules;
pub use sglang::{SchedulePolicy, SglangRules};
pub use tgi::TgiRules;
pub use trtllm::{CapacityPolicy, ChunkingPolicy, TrtLlmRules};

use super::{Emission, NewRequest, SchedulerConfig, VllmScheduler};
use crate::block_pool::BlockPool;
use crate::offload::{OffloadTotals, Tiers, Transfer};
use crate::request::RequestId;
use crate::step::{ScheduledBatch, ScheduledRequest};
use job::KvPages;
use literature::LiteratureScheduler;
use serde::Serialize;
use sglang::SglangScheduler;
use tgi::TgiScheduler;
use trtllm::TrtLlmScheduler;

/// Whose rules decide the steps, with the settings that only that engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineRules {
    /// vLLM's V1 scheduler.
    #[default]
    Vllm,
    /// SGLang.
    Sglang(SglangRules),
    /// TensorRT-LLM.
    TrtLlm(TrtLlmRules),
    /// Text Generation Inference.
    Tgi(TgiRules),
    /// A scheduler from the literature.
    Literature(LiteratureRules),
}

/// What a replica needs of the scheduler of an engine beside vLLM.
trait EngineScheduler: std::fmt::Debug + Send {
    /// Queues a request that [`SchedulerConfig::admissible_output_tokens`] accepted.
    fn enqueue(&mut self, request: &NewRequest<'_>);
    /// Decides the next step. An empty batch means that there is nothing to run, or that what ran was thrown out.
    fn form_batch(&mut self, batch: &mut ScheduledBatch);
    /// Applies a step's results: each request that sampled has one more known token, and `emit` is told what each got.
    fn complete(&mut self, batch: &ScheduledBatch, emit: &mut dyn FnMut(Emission));
    /// Whether nothing waits or runs.
    fn is_idle(&self) -> bool {
        self.running_requests() == 0 && self.waiting_requests() == 0
    }
    /// Requests admitted and not finished.
    fn running_requests(&self) -> usize;
    /// Requests not admitted, or thrown out.
    fn waiting_requests(&self) -> usize;
    /// Its KV blocks, with the tiers beside the GPU where it has some.
    fn kv(&self) -> &KvPages;
    /// The same, to change them.
    fn kv_mut(&mut self) -> &mut KvPages;
    /// KV blocks held for tokens that are not there yet, or not any more: what reservations waste.
    fn blocks_ahead(&self) -> u32 {
        0
    }
    /// A transfer between the tiers and the GPU has ended.
    fn end_transfer(&mut self, ticket: u32) {
        self.kv_mut().end_transfer(ticket);
    }
    /// Ids of the running requests in the engine's order.
    fn running_ids(&self) -> Vec<RequestId>;
    /// Ids of the waiting requests in the engine's order.
    fn waiting_ids(&self) -> Vec<RequestId>;
}

/// The scheduler of any engine. It has no clock: a step is formed, and later completed.
#[derive(Debug)]
pub struct Scheduler(Kind);

#[derive(Debug)]
enum Kind {
    Vllm(Box<VllmScheduler>),
    Other(Box<dyn EngineScheduler>),
}

impl Scheduler {
    /// An engine with nothing to do.
    pub fn new(config: SchedulerConfig) -> Scheduler {
        Scheduler::with_stages(config, 1)
    }

    /// The same for a model in so many pipeline stages, 1 or more; above 1 of vLLM alone.
    pub fn with_stages(config: SchedulerConfig, stages: usize) -> Scheduler {
        let other: Box<dyn EngineScheduler> = match config.rules {
            EngineRules::Vllm => {
                let scheduler = VllmScheduler::new(config).with_stages(stages);
                return Scheduler(Kind::Vllm(Box::new(scheduler)));
            }
            EngineRules::Sglang(rules) => Box::new(SglangScheduler::new(config, rules)),
            EngineRules::TrtLlm(rules) => Box::new(TrtLlmScheduler::new(config, rules)),
            EngineRules::Tgi(rules) => Box::new(TgiScheduler::new(config, rules)),
            EngineRules::Literature(rules) => Box::new(LiteratureScheduler::new(config, rules)),
        };
        Scheduler(Kind::Other(other))
    }

    /// Queues a request that [`SchedulerConfig::admissible_output_tokens`] accepted.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        match &mut self.0 {
            Kind::Vllm(scheduler) => scheduler.enqueue(request),
            Kind::Other(scheduler) => scheduler.enqueue(request),
        }
    }

    /// Decides the next step. An empty batch means that there is nothing to run, or that what ran was thrown out: then
    /// the next call admits it again.
    pub fn form_batch(&mut self, batch: &mut ScheduledBatch) {
        match &mut self.0 {
            Kind::Vllm(scheduler) => scheduler.form_batch(batch),
            Kind::Other(scheduler) => scheduler.form_batch(batch),
        }
    }

    /// Applies a step's results without drafts; the ids of the requests that are complete are appended to `finished`.
    pub fn complete(&mut self, batch: &ScheduledBatch, finished: &mut Vec<RequestId>) {
        self.complete_with(
            batch,
            |_| 0,
            |emission| {
                if emission.is_finished {
                    finished.push(emission.id);
                }
            },
        );
    }

    /// Applies a step's results: `accept` says how many of a request's drafts hold, `emit` is told what each got. Only
    /// vLLM has drafts.
    pub fn complete_with(
        &mut self,
        batch: &ScheduledBatch,
        accept: impl FnMut(&ScheduledRequest) -> u32,
        mut emit: impl FnMut(Emission),
    ) {
        match &mut self.0 {
            Kind::Vllm(scheduler) => scheduler.complete_with(batch, accept, emit),
            Kind::Other(scheduler) => scheduler.complete(batch, &mut emit),
        }
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.is_idle(),
            Kind::Other(scheduler) => scheduler.is_idle(),
        }
    }

    /// Requests admitted and not finished.
    pub fn running_requests(&self) -> usize {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.running_requests(),
            Kind::Other(scheduler) => scheduler.running_requests(),
        }
    }

    /// Requests not admitted, or thrown out.
    pub fn waiting_requests(&self) -> usize {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.waiting_requests(),
            Kind::Other(scheduler) => scheduler.waiting_requests(),
        }
    }

    /// KV blocks that requests hold.
    pub fn used_blocks(&self) -> u32 {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.pool().used_blocks(),
            Kind::Other(scheduler) => scheduler.kv().used(),
        }
    }

    /// KV blocks that can be handed out.
    pub fn free_blocks(&self) -> u32 {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.pool().free_blocks(),
            Kind::Other(scheduler) => scheduler.kv().available(),
        }
    }

    /// The KV blocks, to listen to their events; none of engines that tell of none.
    pub fn pool_mut(&mut self) -> Option<&mut BlockPool> {
        match &mut self.0 {
            Kind::Vllm(scheduler) => Some(scheduler.pool_mut()),
            Kind::Other(_) => None,
        }
    }

    /// KV blocks held for tokens that are not there yet, or not any more: what reservations waste. vLLM reserves none.
    pub fn blocks_ahead(&self) -> u32 {
        match &self.0 {
            Kind::Vllm(_) => 0,
            Kind::Other(scheduler) => scheduler.blocks_ahead(),
        }
    }

    /// The tiers beside the GPU, where there are any.
    pub fn tiers(&self) -> Option<&Tiers> {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.tiers(),
            Kind::Other(scheduler) => scheduler.kv().tiers.as_deref(),
        }
    }

    /// The tiers, to listen to their events.
    pub fn tiers_mut(&mut self) -> Option<&mut Tiers> {
        match &mut self.0 {
            Kind::Vllm(scheduler) => scheduler.tiers_mut(),
            Kind::Other(scheduler) => scheduler.kv_mut().tiers.as_deref_mut(),
        }
    }

    /// Hands out the transfers that begin now, in order.
    pub fn take_transfers(&mut self, transfers: &mut Vec<Transfer>) {
        if let Some(tiers) = self.tiers_mut() {
            tiers.take_transfers(transfers);
        }
    }

    /// A transfer has ended.
    pub fn end_transfer(&mut self, ticket: u32) {
        match &mut self.0 {
            Kind::Vllm(scheduler) => scheduler.end_transfer(ticket),
            Kind::Other(scheduler) => scheduler.end_transfer(ticket),
        }
    }

    /// What the tiers did so far, but for the times, which the links know.
    pub fn offload_totals(&self) -> OffloadTotals {
        self.tiers().map(Tiers::totals).unwrap_or_default()
    }

    /// Ids of the running requests in the engine's order.
    pub fn running_ids(&self) -> Vec<RequestId> {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.running_ids().collect(),
            Kind::Other(scheduler) => scheduler.running_ids(),
        }
    }

    /// Ids of the waiting requests in the engine's order.
    pub fn waiting_ids(&self) -> Vec<RequestId> {
        match &self.0 {
            Kind::Vllm(scheduler) => scheduler.waiting_ids().collect(),
            Kind::Other(scheduler) => scheduler.waiting_ids(),
        }
    }
}
