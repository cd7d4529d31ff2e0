//! The `workload:` section of a scenario, as written.

use super::shape::{EnvelopeSpec, ServegenSpec, SessionSpec};
use crate::units::{Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The `workload:` section: where requests come from (a trace, or arrivals and lengths) and what ends them. With
/// `classes` it is the sum of several workloads.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Stop after this many requests. With `duration` too, whichever comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// No request arrives at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// When requests arrive. With a trace the default is the trace's own times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalSpec>,
    /// Prompt length in tokens; with `shared_prefix`, of the part that follows the shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<LengthSpec>,
    /// Output length in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<LengthSpec>,
    /// Measured pairs of prompt and output length, drawn with replacement; takes the place of `prompt` and `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<LengthPairsSpec>,
    /// Each prompt starts with one of a few shared system prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_prefix: Option<SharedPrefixSpec>,
    /// Priorities; 0 for all when absent. A trace's own priorities go before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<PrioritySpec>,
    /// Requests read from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceSpec>,
    /// Conversations: each arrival opens one, and further turns follow the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionSpec>,
    /// How the rate of a paced process moves over time; 1 is its stated rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<EnvelopeSpec>,
    /// Clients described by files of ServeGen; takes the place of arrivals and lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servegen: Option<ServegenSpec>,
    /// The tenant that sends these requests; with several tenants and without it each request, or session, draws one
    /// by the tenants' shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Names a class, and with it its random draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Several kinds of clients at once, each a workload of its own with a `name`; `requests` and `duration` beside it
    /// end them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<WorkloadSpec>,
}

/// When requests arrive. The first request of a paced process (constant, Poisson, gamma, Weibull) waits one gap, as
/// `vllm bench serve` has it; the gaps of one seed are the same at every rate, only scaled.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalSpec {
    /// Equal gaps of 1/rate.
    Constant(Rate),
    /// Exponential gaps of mean 1/rate.
    Poisson(Rate),
    /// Gamma gaps of mean 1/rate and a given coefficient of variation.
    Gamma(GapSpec),
    /// Weibull gaps of mean 1/rate and a given coefficient of variation.
    Weibull(GapSpec),
    /// Groups of requests at one instant, the first at time 0.
    Burst(BurstSpec),
    /// A fixed number of clients, each sending its next request after the answer and a think time.
    ClosedLoop(ClosedLoopSpec),
    /// The times in the trace.
    Trace,
}

/// Gaps of a family with two parameters.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GapSpec {
    /// Mean arrivals per second.
    pub rate: Rate,
    /// Coefficient of variation of the gaps (standard deviation over mean): 1 is Poisson, above 1 is burstier.
    pub cv: f64,
}

/// Requests in groups.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct BurstSpec {
    /// Requests per group.
    pub size: u64,
    /// Time between groups; one group only when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

/// Clients that wait for their answers. All send their first request at time 0.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ClosedLoopSpec {
    /// How many clients, and so the most requests that are outstanding.
    pub clients: u32,
    /// Time between an answer's end and the same client's next request; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think: Option<Span>,
}

/// A distribution of lengths in tokens. Values are rounded to whole tokens and clamped, not drawn again, to
/// `min`..`max`; none is below 1.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum LengthSpec {
    /// Always the same.
    Constant(u32),
    /// Every whole number from `min` to `max`, equally often.
    Uniform(UniformSpec),
    /// The bell curve.
    Normal(NormalSpec),
    /// A length whose logarithm is normal.
    Lognormal(LognormalSpec),
    /// Straight lines between known percentiles, such as a dashboard shows: pairs of percent and tokens, from 0 (the
    /// smallest) to 100 (the largest), for example `[[0, 2], [50, 129], [90, 424], [99, 601], [100, 1000]]`.
    Quantiles(Vec<(f64, u32)>),
    /// One of several distributions for each request.
    Mixture(Vec<MixturePart>),
}

/// Bounds of a uniform length, both included.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct UniformSpec {
    /// Smallest, in tokens.
    pub min: u32,
    /// Largest, in tokens.
    pub max: u32,
}

/// A normal length.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NormalSpec {
    /// Mean before clamping, in tokens.
    pub mean: f64,
    /// Standard deviation before clamping, in tokens.
    pub std: f64,
    /// Smaller values become this, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Larger values become this, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// A lognormal length.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LognormalSpec {
    /// Median in tokens.
    pub median: f64,
    /// Standard deviation of the natural logarithm.
    pub sigma: f64,
    /// Smaller values become this, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Larger values become this, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// One distribution of a mixture.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MixturePart {
    /// How often it is drawn, relative to the weights of the others.
    pub weight: f64,
    /// The distribution; not a mixture again.
    pub length: LengthSpec,
}

/// Measured length pairs.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LengthPairsSpec {
    /// A CSV file, may be gzipped: columns `num_prefill_tokens` and `num_decode_tokens`, or `prompt_tokens` and
    /// `output_tokens`, or else the first two. Relative to the scenario's folder.
    pub pairs: PathBuf,
    /// What to do with a malformed row.
    #[serde(default)]
    pub on_error: OnError,
}

/// System prompts that requests share.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefixSpec {
    /// How many different system prompts there are.
    pub prompts: u32,
    /// Length of each in tokens; it comes on top of the request's own prompt.
    pub tokens: u32,
    /// Popularity: prompt number k is drawn in proportion to k^-zipf; 0, the default, is uniform.
    #[serde(default)]
    pub zipf: f64,
}

/// Priorities of requests; smaller is more important.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum PrioritySpec {
    /// The same for all.
    Constant(i32),
    /// Drawn for each request.
    Classes(Vec<PriorityClass>),
}

/// One class of requests.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PriorityClass {
    /// Smaller is more important.
    pub priority: i32,
    /// How often it is drawn, relative to the weights of the others.
    pub weight: f64,
}

/// A trace and the part of it that is used. Rows are chosen in this order: `from` and `until` by the trace's own
/// time, then `skip`, then `limit`; what lies behind the chosen part is not read.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TraceSpec {
    /// The file, may be gzipped; relative to the scenario's folder.
    pub path: PathBuf,
    /// Its format; found from the first line when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TraceFormat>,
    /// Leave out this many rows at the start; time then starts at the first row that is kept.
    #[serde(default)]
    pub skip: u64,
    /// Use at most this many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Leave out rows before this time, which becomes time 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Span>,
    /// Leave out rows at and after this time of the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Span>,
    /// Multiplies every time after the choice of rows: 0.5 sends the trace twice as fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_scale: Option<f64>,
    /// Multiplies every time so that requests come at this mean rate; takes the place of `time_scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Cut longer prompts to this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<u32>,
    /// Cut longer outputs to this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// What to do with a malformed row, or one that is earlier than the row before it.
    #[serde(default)]
    pub on_error: OnError,
}

/// Formats of traces; docs/traces.md describes them.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TraceFormat {
    /// Azure LLM inference traces of 2023 and 2024, CSV.
    Azure,
    /// Mooncake, JSONL with ids of 512-token blocks.
    Mooncake,
    /// BurstGPT, CSV.
    Burstgpt,
    /// Length pairs without times, CSV.
    Lengths,
    /// This project's own JSONL.
    Servesim,
    /// Sessions of coding agents with block ids (kv-cache-tester), JSONL; they need `arrivals`.
    Agentic,
    /// RAGPulse, JSONL, with the lengths of its chunks in files beside it.
    Ragpulse,
    /// One's own CSV: arrival_s, prompt_tokens, output_tokens, and if known tenant, session, priority.
    #[serde(alias = "arena")]
    Csv,
}

/// What to do with a malformed row of a file.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Stop with an error that names the line.
    #[default]
    Fail,
    /// Leave the row out and count it.
    Skip,
}
