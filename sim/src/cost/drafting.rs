//! What speculative decoding costs: the target's step over the drafts is one part, proposing the next drafts the other.
//! Drafts are proposed after the target's pass of the same step (V-50): by one pass of the drafter over the step's tokens
//! and a pass of one token per request for each further draft, or by the first pass alone when it drafts in parallel.

use super::CostModel;
use super::operators::{Gemm, Layout, Operator, Rows, Work, operators};
use crate::model::{KvDtype, ModelSpec, WeightDtype, WeightPlan};
use crate::step::StepShape;
use crate::units::{SimDuration, SimTime};
use std::sync::Arc;

/// What proposes tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Drafter {
    /// Earlier occurrences of the last tokens, looked up on the CPU (V-56).
    NGram,
    /// One head per position on the target's last hidden state: a square layer and an output head each (P-4).
    Medusa,
    /// A few layers of their own on the target's hidden states: EAGLE, EAGLE-3, or the target's layers for multi-token
    /// prediction (P-5; DeepSeek-V3, arXiv 2412.19437, section 2.2).
    Head(HeadDrafter),
    /// A whole model of its own.
    Model(ModelSpec),
}

/// Layers on the target's hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadDrafter {
    /// Its layers, width and vocabulary.
    pub layers: ModelSpec,
    /// Vectors of the hidden size that are fused into one before the first layer: 2 in EAGLE (embedding and hidden
    /// state) and multi-token prediction, 3 in EAGLE-3 (low, middle and high hidden states).
    pub fused_states: u64,
    /// Whether its first layer attends from twice the hidden size, embedding and hidden state side by side (EAGLE-3).
    pub has_wide_attention: bool,
    /// Whether it has an output head of its own; otherwise the target's is run again.
    pub has_own_head: bool,
    /// Whether its weights have the target's formats (multi-token prediction) and not those of `layers`.
    pub has_target_formats: bool,
}

/// Bytes that picking the likeliest token reads per logit: 16-bit logits once.
const ARGMAX_BYTES_PER_LOGIT: u64 = 2;

/// The passes that propose the drafts of a step, as operators.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftPasses {
    /// The first pass, over the step's tokens.
    pub first: Vec<Operator>,
    /// Each pass after it.
    pub later: Vec<Operator>,
    /// Bytes of its own weights on one GPU; the shared embedding and a shared output head are not in it.
    pub weight_bytes: u64,
}

impl Drafter {
    /// Its passes beside `target` on one of `ranks` GPUs with `drafts` tokens; none when nothing runs on the GPU.
    pub fn passes(
        &self,
        target: &ModelSpec,
        weights: &WeightPlan,
        kv: KvDtype,
        ranks: u32,
        drafts: u32,
    ) -> Option<DraftPasses> {
        match self {
            Drafter::NGram => None,
            Drafter::Medusa => Some(medusa(target, weights, ranks, drafts)),
            Drafter::Head(head) => Some(head.passes(weights, kv, ranks)),
            Drafter::Model(model) => {
                let layout = Layout::tensor(ranks);
                let pass = operators(model, &model.weights, kv, &layout, model.all_layers());
                let weight_bytes = weight_bytes(&pass);
                let pass = drafting(pass, model.vocabulary_size);
                Some(DraftPasses { first: pass.clone(), later: pass, weight_bytes })
            }
        }
    }

    /// The model whose layers keep KV for it, beside the target's.
    pub fn layers_with_kv(&self) -> Option<&ModelSpec> {
        match self {
            Drafter::NGram | Drafter::Medusa => None,
            Drafter::Head(head) => Some(&head.layers),
            Drafter::Model(model) => Some(model),
        }
    }
}

impl HeadDrafter {
    fn passes(&self, target_weights: &WeightPlan, kv: KvDtype, ranks: u32) -> DraftPasses {
        let weights = if self.has_target_formats { target_weights } else { &self.layers.weights };
        let layout = Layout::tensor(ranks);
        let mut later = operators(&self.layers, weights, kv, &layout, self.layers.all_layers());
        let hidden = u64::from(self.layers.hidden_size);
        let square = |outputs, inputs| Operator {
            name: "fusion",
            count: 1,
            work: Work::Gemm(Gemm {
                outputs,
                inputs,
                batch: 1,
                dtype: weights.unquantised,
                rows: Rows::Tokens,
            }),
        };
        if self.has_wide_attention {
            let qkv = later.iter().find(|operator| operator.name == "qkv projection");
            if let Some(Work::Gemm(gemm)) = qkv.map(|operator| operator.work) {
                later.push(square(gemm.outputs, hidden));
            }
        }
        let fusion = square(hidden, self.fused_states * hidden);
        let mut first = later.clone();
        first.push(fusion.clone());
        if !self.has_wide_attention {
            // Its own last hidden state takes the place of the target's: the fusion runs in every pass.
            later.push(fusion);
        }
        let shared_head = |operator: &&Operator| self.has_own_head || operator.name != "head";
        let weight_bytes = first.iter().filter(shared_head).map(operator_bytes).sum();
        let vocabulary = self.layers.vocabulary_size;
        DraftPasses { first: drafting(first, vocabulary), later: drafting(later, vocabulary), weight_bytes }
    }
}

/// A square layer and an output head for each position, on the last hidden state of each request.
fn medusa(target: &ModelSpec, weights: &WeightPlan, ranks: u32, heads: u32) -> DraftPasses {
    let (hidden, vocabulary) = (u64::from(target.hidden_size), u64::from(target.vocabulary_size));
    let gemm = |name, outputs| Operator {
        name,
        count: u64::from(heads),
        work: Work::Gemm(Gemm {
            outputs,
            inputs: hidden,
            batch: 1,
            dtype: weights.unquantised,
            rows: Rows::Sampled,
        }),
    };
    let pass =
        vec![gemm("medusa layer", hidden), gemm("medusa head", vocabulary.div_ceil(u64::from(ranks.max(1))))];
    let weight_bytes = weight_bytes(&pass);
    let mut pass = drafting(pass, target.vocabulary_size);
    pass.push(Operator {
        name: DRAFTING,
        count: u64::from(heads),
        work: Work::Elementwise { bytes_per_row: vocabulary * ARGMAX_BYTES_PER_LOGIT, rows: Rows::Sampled },
    });
    DraftPasses { first: pass.clone(), later: pass, weight_bytes }
}

/// The name under which reports sum all work of the drafter.
pub const DRAFTING: &str = "drafting";

/// The operators of a drafter's pass: named as one, and with the likeliest token picked in place of sampling.
fn drafting(mut pass: Vec<Operator>, vocabulary_size: u32) -> Vec<Operator> {
    for operator in &mut pass {
        if operator.name == "sampling" {
            let bytes_per_row = u64::from(vocabulary_size) * ARGMAX_BYTES_PER_LOGIT;
            operator.work = Work::Elementwise { bytes_per_row, rows: Rows::Sampled };
        }
        operator.name = DRAFTING;
    }
    pass
}

fn weight_bytes(operators: &[Operator]) -> u64 {
    operators.iter().map(operator_bytes).sum()
}

/// Bytes of the weights of an operator, of all its runs.
fn operator_bytes(operator: &Operator) -> u64 {
    let bytes = match operator.work {
        Work::Gemm(gemm) => gemm.batch * gemm.dtype.matrix_bytes(gemm.outputs, gemm.inputs),
        Work::Experts(experts) => {
            let matrix: WeightDtype = experts.dtype;
            experts.experts
                * experts.matrices
                * matrix.matrix_bytes(experts.intermediate_size, experts.hidden_size)
        }
        _ => 0,
    };
    operator.count * bytes
}

/// The shapes of a drafter's passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftSchedule {
    /// Masked tokens that each request has in the first pass, when that gives all drafts from tokens.
    pub masked_tokens: u64,
    /// Passes of one token per request after the first.
    pub later_passes: u64,
}

impl DraftSchedule {
    /// One pass per draft.
    pub fn serial(drafts: u32) -> DraftSchedule {
        DraftSchedule { masked_tokens: 0, later_passes: u64::from(drafts.saturating_sub(1)) }
    }

    /// One pass with a masked token for each draft after the first.
    pub fn parallel(drafts: u32) -> DraftSchedule {
        DraftSchedule { masked_tokens: u64::from(drafts.saturating_sub(1)), later_passes: 0 }
    }

    /// One pass over the last hidden states, whatever the drafts.
    pub fn heads() -> DraftSchedule {
        DraftSchedule { masked_tokens: 0, later_passes: 0 }
    }

    /// The shape of the first pass after a step of the target: the same tokens, the masked ones, and one position per
    /// request and masked token whose next token is guessed.
    pub fn first(&self, step: &StepShape) -> StepShape {
        let requests = step.batch_requests();
        let masked = self.masked_tokens * requests;
        let context_tokens = step.context_tokens().checked_div(requests).unwrap_or(0);
        StepShape {
            draft_tokens: step.draft_tokens + masked,
            draft_attention_pairs: step.draft_attention_pairs + masked * context_tokens,
            draft_logits: masked,
            sampled_requests: requests,
            ..*step
        }
    }

    /// The shape of the `n`-th pass after the first: one token of each request.
    pub fn later(&self, step: &StepShape, n: u64) -> StepShape {
        let requests = step.batch_requests();
        StepShape {
            decode_requests: requests,
            decode_context_tokens: step.context_tokens() + n * requests,
            sampled_requests: requests,
            ..StepShape::default()
        }
    }
}

/// A target's cost with the drafter's passes after each step.
pub struct SpeculativeCost {
    /// The target.
    pub target: Arc<dyn CostModel>,
    /// The drafter's first and later passes; none when nothing of it runs on the GPU.
    pub passes: Option<(Arc<dyn CostModel>, Arc<dyn CostModel>)>,
    /// Which passes there are.
    pub schedule: DraftSchedule,
    /// Whether drafts are looked up on the CPU.
    pub looks_up: bool,
}

/// Time to look up drafts on the CPU, per request and per token of its context, in ns. Assumed: a compiled scan of a few
/// bytes per token.
const LOOK_UP_REQUEST_NS: u64 = 5_000;
const LOOK_UP_TOKEN_NS: u64 = 3;

impl SpeculativeCost {
    /// Time of the drafter's passes after a step.
    fn passes(&self, shape: &StepShape) -> SimDuration {
        let Some((first, later)) = &self.passes else { return SimDuration::ZERO };
        let mut time = first.step(&self.schedule.first(shape));
        for n in 1..=self.schedule.later_passes {
            time += later.step(&self.schedule.later(shape, n));
        }
        time
    }
}

impl CostModel for SpeculativeCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        self.target.step(shape) + self.passes(shape)
    }

    fn epoch(&self, now: SimTime) -> (u32, SimTime) {
        self.target.epoch(now)
    }

    fn stages(&self) -> usize {
        self.target.stages()
    }

    /// The drafter stands on the last stage.
    fn stage(&self, stage: usize, shape: &StepShape) -> SimDuration {
        let time = self.target.stage(stage, shape);
        if stage + 1 == self.stages() { time + self.passes(shape) } else { time }
    }

    fn send(&self, shape: &StepShape) -> SimDuration {
        self.target.send(shape)
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        let mut time = self.target.host(shape);
        if self.looks_up {
            let requests_ns = LOOK_UP_REQUEST_NS.saturating_mul(shape.batch_requests());
            let tokens_ns = LOOK_UP_TOKEN_NS.saturating_mul(shape.context_tokens());
            time += SimDuration(requests_ns.saturating_add(tokens_ns));
        }
        time
    }
}
