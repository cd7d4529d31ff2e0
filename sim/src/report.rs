//! The report of a run: plain numbers that serialise as they are. Every time is in milliseconds unless it says seconds.

use crate::folded::{FoldedRequests, FoldedSums};
use crate::metrics::{self, Distribution, Limits};
use crate::offload::{OffloadTotals, OffloadUse};
use crate::replica::{StepPath, StepTotals};
use crate::request::{Outcome, RequestId, RequestTable};
use crate::simulation::RunResult;
use crate::speculation::SpeculationUse;
use serde::Serialize;

/// How many requests there were and what became of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestCounts {
    /// All that arrived.
    pub arrived: u64,
    /// Finished with all their tokens.
    pub finished: u64,
    /// Could never have run here.
    pub rejected: u64,
    /// Turned away because of a tenant's rate, budget or quota.
    pub throttled: u64,
}

/// What was produced per second, over the span from first arrival to last token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Requests finished per second.
    pub requests_per_s: f64,
    /// Tokens generated per second.
    pub output_tokens_per_s: f64,
    /// Prompt and generated tokens per second.
    pub total_tokens_per_s: f64,
}

/// Requests that met every limit of the SLO.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goodput {
    /// Good requests per second.
    pub requests_per_s: f64,
    /// Good requests as a share of all that arrived.
    pub share: f64,
}

/// Use of the KV cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KvUse {
    /// Blocks that requests can hold, per replica; of unequal ones, the most.
    pub usable_blocks: u32,
    /// Tokens per block.
    pub block_size: u32,
    /// Share of blocks held, averaged over the whole span and all replicas.
    pub mean_share: f64,
    /// Largest share of blocks held by a replica.
    pub peak_share: f64,
    /// Share of the held blocks that hold no token yet, or none any more, averaged: what reservations waste.
    pub reserved_share: f64,
}

/// Use of the prefix cache, tiers beside the GPU and re-admissions after preemption included (V-31a).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefixUse {
    /// Tokens looked up.
    pub queried_tokens: u64,
    /// Tokens found.
    pub hit_tokens: u64,
    /// Found of looked up.
    pub hit_rate: f64,
}

/// The steps that were run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepUse {
    /// Steps of all engines: a common step of data-parallel ranks counts for each that had work.
    pub steps: u64,
    /// Requests per step.
    pub batch_requests_mean: f64,
    /// Largest batch.
    pub batch_requests_max: u64,
    /// Mean duration of a step.
    pub step_ms_mean: f64,
    /// Share of the span that the replicas spent in steps.
    pub busy_share: f64,
    /// Steps of nothing that data-parallel ranks ran because others had work; in no other figure.
    pub dummy_steps: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Tokens computed, those that a preemption made necessary again included.
    pub computed_tokens: u64,
    /// How the steps were computed; it changes nothing else.
    pub path: StepPath,
}

/// What a run says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Requests by outcome.
    pub requests: RequestCounts,
    /// From first arrival to last token, in seconds.
    pub duration_s: f64,
    /// Production per second.
    pub throughput: Throughput,
    /// Time to first token.
    pub ttft_ms: Option<Distribution>,
    /// Gaps between tokens, pooled over all requests.
    pub itl_ms: Option<Distribution>,
    /// Mean time per output token after the first, per request with more than one.
    pub tpot_ms: Option<Distribution>,
    /// Time to last token.
    pub e2el_ms: Option<Distribution>,
    /// Time from arrival to the first step.
    pub queue_ms: Option<Distribution>,
    /// With an SLO: the requests that met it.
    pub goodput: Option<Goodput>,
    /// KV cache.
    pub kv: KvUse,
    /// With prefix caching: how much was found.
    pub prefix_cache: Option<PrefixUse>,
    /// With tiers for KV blocks: what they held, gave and cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_offload: Option<OffloadUse>,
    /// With speculative decoding: how many drafts held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationUse>,
    /// Steps.
    pub steps: StepUse,
}

impl Metrics {
    /// Computes everything from what a run left behind.
    pub fn new(run: &RunResult, block_size: u32, prefix_caching: bool, limits: &Limits) -> Metrics {
        let requests = match &run.folded {
            Some(folded) => RequestFigures::of_folded(folded),
            None => RequestFigures::of_rows(&run.table, limits),
        };
        let FoldedSums { arrived, finished, rejected, throttled, good, .. } = requests.sums;
        let span_ns = requests.sums.span.map_or(0, |(first, last)| (last - first).0);
        let per_second = |amount: u64| if span_ns == 0 { 0.0 } else { amount as f64 * 1e9 / span_ns as f64 };
        let (prompt_tokens, output_tokens) = (requests.sums.prompt_tokens, requests.sums.generated_tokens);
        Metrics {
            requests: RequestCounts { arrived, finished, rejected, throttled },
            duration_s: span_ns as f64 / 1e9,
            throughput: Throughput {
                requests_per_s: per_second(finished),
                output_tokens_per_s: per_second(output_tokens),
                total_tokens_per_s: per_second(prompt_tokens + output_tokens),
            },
            ttft_ms: requests.ttft,
            itl_ms: Distribution::of_counts(&run.token_gaps),
            tpot_ms: requests.tpot,
            e2el_ms: requests.e2el,
            queue_ms: requests.queue,
            goodput: (!limits.is_empty()).then(|| {
                let share = if arrived == 0 { 0.0 } else { good as f64 / arrived as f64 };
                Goodput { requests_per_s: per_second(good), share }
            }),
            kv: kv_use(run, block_size, span_ns),
            prefix_cache: prefix_caching.then(|| prefix_use(run)),
            kv_offload: offload_use(run, span_ns),
            speculation: SpeculationUse::of(run.replicas.iter().map(|totals| &totals.speculation)),
            steps: step_use(run, span_ns),
        }
    }
}

/// What the requests of a run come to.
struct RequestFigures {
    sums: FoldedSums,
    ttft: Option<Distribution>,
    tpot: Option<Distribution>,
    e2el: Option<Distribution>,
    queue: Option<Distribution>,
}

impl RequestFigures {
    /// Of rows: percentiles are exact.
    fn of_rows(table: &RequestTable, limits: &Limits) -> RequestFigures {
        let count = |outcome| table.outcome.iter().filter(|o| **o == outcome).count() as u64;
        let sum =
            |column: &[u32]| metrics::finished(table).map(|id| u64::from(column[id.index()])).sum::<u64>();
        let of = |f: fn(&RequestTable, RequestId) -> u64| {
            Distribution::of_values(metrics::finished(table).map(|id| f(table, id)).collect())
        };
        let tpot = metrics::finished(table).filter_map(|id| metrics::tpot_ns(table, id)).collect();
        RequestFigures {
            sums: FoldedSums {
                arrived: table.len() as u64,
                finished: count(Outcome::Finished),
                rejected: count(Outcome::Rejected),
                throttled: count(Outcome::Throttled),
                good: table.ids().filter(|id| limits.met_by(table, *id)).count() as u64,
                prompt_tokens: sum(&table.prompt_tokens),
                generated_tokens: sum(&table.generated_tokens),
                span: metrics::span(table),
                ..FoldedSums::default()
            },
            ttft: of(metrics::ttft_ns),
            tpot: Distribution::of_values(tpot),
            e2el: of(metrics::e2el_ns),
            queue: of(metrics::queue_ns),
        }
    }

    /// Where rows were not kept.
    fn of_folded(folded: &FoldedRequests) -> RequestFigures {
        RequestFigures {
            sums: folded.sums.clone(),
            ttft: Distribution::of_counts(&folded.ttft),
            tpot: Distribution::of_counts(&folded.tpot),
            e2el: Distribution::of_counts(&folded.e2el),
            queue: Distribution::of_counts(&folded.queue),
        }
    }
}

fn kv_use(run: &RunResult, block_size: u32, span_ns: u64) -> KvUse {
    let block_ns: u128 = run.replicas.iter().map(|r| r.block_ns).sum();
    let ahead_block_ns: u128 = run.replicas.iter().map(|r| r.ahead_block_ns).sum();
    let count = run.replicas.len() as f64;
    let share = |(r, usable): (&StepTotals, &u32)| f64::from(r.blocks_max) / f64::from((*usable).max(1));
    let peak_share = run.replicas.iter().zip(&run.usable_blocks).map(share).fold(0.0, f64::max);
    let all_blocks: u64 = run.usable_blocks.iter().map(|blocks| u64::from(*blocks)).sum();
    let all_block_ns = all_blocks as f64 / count * span_ns as f64 * count;
    KvUse {
        usable_blocks: run.usable_blocks.iter().copied().max().unwrap_or(0),
        block_size,
        mean_share: if all_block_ns > 0.0 { block_ns as f64 / all_block_ns } else { 0.0 },
        peak_share,
        reserved_share: if block_ns > 0 { ahead_block_ns as f64 / block_ns as f64 } else { 0.0 },
    }
}

fn prefix_use(run: &RunResult) -> PrefixUse {
    let queried_tokens: u64 = run.replicas.iter().map(|r| r.prefix_queried_tokens).sum();
    let hit_tokens: u64 = run.replicas.iter().map(|r| r.prefix_hit_tokens).sum();
    PrefixUse { queried_tokens, hit_tokens, hit_rate: hit_tokens as f64 / queried_tokens.max(1) as f64 }
}

fn offload_use(run: &RunResult, span_ns: u64) -> Option<OffloadUse> {
    let engines: Vec<&OffloadTotals> = run.replicas.iter().map(|totals| &totals.offload).collect();
    OffloadUse::of(&engines, prefix_use(run).queried_tokens, span_ns)
}

fn step_use(run: &RunResult, span_ns: u64) -> StepUse {
    let sum = |f: fn(&StepTotals) -> u64| run.replicas.iter().map(f).sum::<u64>();
    let steps = sum(|r| r.steps);
    let busy_ns = sum(|r| r.busy.0);
    let each = |amount: u64| amount as f64 / steps.max(1) as f64;
    StepUse {
        steps,
        batch_requests_mean: each(sum(|r| r.batch_requests)),
        batch_requests_max: run.replicas.iter().map(|r| r.batch_requests_max).max().unwrap_or(0),
        step_ms_mean: each(busy_ns) / 1e6,
        busy_share: busy_ns as f64 / (span_ns.max(1) as f64 * run.replicas.len().max(1) as f64),
        dummy_steps: sum(|r| r.dummy_steps),
        preemptions: sum(|r| r.preemptions),
        computed_tokens: sum(|r| r.computed_tokens),
        path: run.path,
    }
}
