//! The roofline of the GPU's data sheet over the model's operators: what the hardware could do at best, times assumed
//! efficiencies. Nothing here is measured; a measured profile takes its place where there is one.

use super::ExpertLoad;
use super::operators::{AttentionKernel, Experts, Gemm, Layout, Operator, Rows, Transfer, Work};
use super::{CostModel, PRICED_AT_ONCE, price_run};
use crate::gpu::GpuSpec;
use crate::model::WeightDtype;
use crate::profile::memo::Memo;
use crate::step::StepShape;
use crate::units::SimDuration;
use std::sync::Arc;

/// Share of the peak compute rate that matrix units reach. Assumed: large bf16 products reach 70 to 80 % on H100.
pub const COMPUTE_EFFICIENCY: f64 = 0.70;
/// Share of the peak memory bandwidth. Assumed: large reads reach 85 to 92 % on H100 and H200.
pub const MEMORY_EFFICIENCY: f64 = 0.85;
/// Share of the peak link bandwidth. Assumed.
pub const LINK_EFFICIENCY: f64 = 0.70;
/// Least time of an operator inside a CUDA graph, in seconds. Assumed.
pub const OPERATOR_FLOOR_S: f64 = 2e-6;
/// Latency of an all-reduce, in seconds. Assumed.
pub const ALL_REDUCE_LATENCY_S: f64 = 8e-6;

/// Most decoding requests of which the time that does not depend on contexts is kept.
const MOST_KEPT: u64 = 1024;

/// Prices operators by the data sheet's limits.
#[derive(Debug, Clone)]
pub struct DatasheetCost {
    operators: Vec<Operator>,
    /// Bytes of each operator's weights, of one matrix of routed experts.
    weight_bytes: Vec<f64>,
    /// The operators that depend on the contexts of decoding requests, and how often each runs.
    decode_attention: Vec<(f64, AttentionKernel)>,
    /// The others in a step that only decodes, by its requests.
    decode_alone: Arc<Memo>,
    memory_bytes_per_s: f64,
    link_bytes_per_s: f64,
    layout: Layout,
    /// How tokens spread over experts, where that is said.
    load: Option<Arc<ExpertLoad>>,
    bf16_per_s: f64,
    int8_per_s: f64,
    fp8_per_s: f64,
}

impl DatasheetCost {
    /// For `operators` of one of the GPUs of `layout`. 8-bit formats run at their own rate where the GPU has it and at
    /// the 16-bit rate otherwise; 4-bit weights are expanded and run at the 16-bit rate. Without `load` all experts are
    /// as likely.
    pub fn new(
        operators: Vec<Operator>,
        gpu: &GpuSpec,
        layout: Layout,
        load: Option<Arc<ExpertLoad>>,
    ) -> DatasheetCost {
        let bf16_per_s = gpu.compute.bf16.0;
        let link =
            gpu.interconnect.peer_links.as_ref().map_or(gpu.interconnect.pcie.0, |links| links.bandwidth.0);
        let decode_attention = |operator: &Operator| match operator.work {
            Work::DecodeAttention(kernel) => Some((operator.count as f64, kernel)),
            _ => None,
        };
        DatasheetCost {
            weight_bytes: operators.iter().map(|operator| weight_bytes(&operator.work)).collect(),
            decode_attention: operators.iter().filter_map(decode_attention).collect(),
            operators,
            decode_alone: Arc::new(Memo::new(MOST_KEPT as usize + 1)),
            memory_bytes_per_s: gpu.memory_bandwidth.0 * MEMORY_EFFICIENCY,
            link_bytes_per_s: link * LINK_EFFICIENCY,
            layout,
            load,
            bf16_per_s: bf16_per_s * COMPUTE_EFFICIENCY,
            int8_per_s: gpu.compute.int8.map_or(bf16_per_s, |rate| rate.0) * COMPUTE_EFFICIENCY,
            fp8_per_s: gpu.compute.fp8.map_or(bf16_per_s, |rate| rate.0) * COMPUTE_EFFICIENCY,
        }
    }

    /// What an operator costs for a step, all its runs together.
    fn seconds(&self, index: usize, shape: &StepShape) -> f64 {
        let operator = &self.operators[index];
        operator.count as f64 * self.seconds_once(&operator.work, self.weight_bytes[index], shape)
    }

    fn seconds_once(&self, work: &Work, weight_bytes: f64, shape: &StepShape) -> f64 {
        match work {
            Work::Gemm(gemm) => self.gemm(gemm, weight_bytes, self.rows(gemm.rows, shape)),
            Work::Experts(experts) => {
                self.experts(experts, weight_bytes, self.rows(Rows::GroupTokens, shape))
            }
            Work::PrefillAttention(kernel) => self.prefill_attention(kernel, shape),
            Work::DecodeAttention(kernel) => self.decode_attention(kernel, shape),
            Work::Elementwise { bytes_per_row, rows: on } => match self.rows(*on, shape) {
                0.0 => 0.0,
                rows => self.roofline(0.0, 1.0, *bytes_per_row as f64 * rows),
            },
            Work::LogitsGather { bytes_per_row } => {
                let bytes = *bytes_per_row as f64 * shape.sampled_positions() as f64;
                let ranks = f64::from(self.layout.parallel.tensor);
                ALL_REDUCE_LATENCY_S + (ranks - 1.0) / ranks * bytes / self.link_bytes_per_s
            }
            Work::AllReduce { bytes_per_token } => {
                // A ring moves 2 (n - 1) / n of the bytes over each link.
                let bytes = (bytes_per_token * shape.new_tokens()) as f64;
                let ranks = f64::from(self.layout.parallel.tensor);
                ALL_REDUCE_LATENCY_S + 2.0 * (ranks - 1.0) / ranks * bytes / self.link_bytes_per_s
            }
            Work::Exchange { transfer, hidden_size, experts_per_token } => {
                self.exchange(*transfer, (2 * hidden_size) as f64, *experts_per_token as f64, shape)
            }
            Work::Agreement => ALL_REDUCE_LATENCY_S,
        }
    }

    /// Tokens to or from other ranks. Collectives carry all tokens over each rank's links; the rest carries each token
    /// of the largest rank once per rank of its experts, at most once to each, and no other link carries more.
    fn exchange(
        &self,
        transfer: Transfer,
        token_bytes: f64,
        experts_per_token: f64,
        shape: &StepShape,
    ) -> f64 {
        let ranks = f64::from(self.layout.parallel.data);
        let tokens = match transfer {
            Transfer::AllGather | Transfer::ReduceScatter => self.rows(Rows::GroupTokens, shape),
            _ => {
                let copies = self.load.as_ref().map_or(experts_per_token.min(ranks), |load| {
                    load.ranks_per_token * load.busiest_receiver
                });
                self.rows(Rows::LargestRank, shape) * copies
            }
        };
        ALL_REDUCE_LATENCY_S + (ranks - 1.0) / ranks * tokens * token_bytes / self.link_bytes_per_s
    }

    fn rows(&self, rows: Rows, shape: &StepShape) -> f64 {
        let own = shape.new_tokens();
        let is_alone = shape.group_tokens == 0;
        (match rows {
            Rows::Tokens => own,
            Rows::Sampled => shape.sampled_requests,
            Rows::PrefillTokens => shape.prefill_tokens,
            Rows::DecodeRequests => shape.decode_requests,
            // A step by itself stands for ranks that all do the same.
            Rows::GroupTokens if is_alone => own * u64::from(self.layout.parallel.data),
            Rows::GroupTokens => shape.group_tokens,
            Rows::LargestRank if is_alone => own,
            Rows::LargestRank => shape.group_largest_tokens,
            Rows::Once => 1,
        }) as f64
    }

    /// The operators whose time does not depend on the contexts of decoding requests.
    fn context_free_seconds(&self, shape: &StepShape) -> f64 {
        let requests = shape.decode_requests;
        let alone = StepShape {
            decode_requests: requests,
            decode_context_tokens: shape.decode_context_tokens,
            sampled_requests: requests,
            ..StepShape::default()
        };
        if *shape == alone && requests <= MOST_KEPT {
            return self.decode_alone.get(requests as usize, || self.sum_context_free(shape));
        }
        self.sum_context_free(shape)
    }

    fn sum_context_free(&self, shape: &StepShape) -> f64 {
        let is_free = |&index: &usize| !matches!(self.operators[index].work, Work::DecodeAttention(_));
        (0..self.operators.len()).filter(is_free).map(|index| self.seconds(index, shape)).sum()
    }

    /// The others.
    #[inline]
    fn decode_context_seconds(&self, shape: &StepShape) -> f64 {
        let seconds =
            |&(count, ref kernel): &(f64, AttentionKernel)| count * self.decode_attention(kernel, shape);
        self.decode_attention.iter().map(seconds).sum()
    }

    fn roofline(&self, operations: f64, operations_per_s: f64, bytes: f64) -> f64 {
        roofline(operations, operations_per_s, bytes, self.memory_bytes_per_s)
    }

    fn rate(&self, dtype: WeightDtype) -> f64 {
        match dtype {
            WeightDtype::Fp8 | WeightDtype::Fp8Block => self.fp8_per_s,
            WeightDtype::Int8 => self.int8_per_s,
            _ => self.bf16_per_s,
        }
    }

    fn gemm(&self, gemm: &Gemm, weights: f64, rows: f64) -> f64 {
        if rows == 0.0 {
            return 0.0;
        }
        let batch = gemm.batch as f64;
        let activations = 2.0 * batch * rows * (gemm.outputs + gemm.inputs) as f64;
        let operations = 2.0 * batch * rows * (gemm.outputs * gemm.inputs) as f64;
        self.roofline(operations, self.rate(gemm.dtype), weights + activations)
    }

    fn experts(&self, experts: &Experts, matrix: f64, tokens: f64) -> f64 {
        let ranks = experts.expert_ranks as f64;
        let (touched, tokens) = match &self.load {
            Some(load) => (load.touched(tokens), load.even_tokens(tokens)),
            None => {
                let all = experts_touched(experts.experts as f64, experts.experts_per_token as f64, tokens);
                (all / ranks, tokens)
            }
        };
        let weights = touched * experts.matrices as f64 * matrix;
        let rows = tokens * experts.experts_per_token as f64 / ranks;
        let width = (experts.hidden_size + experts.intermediate_size) as f64;
        let activations = 2.0 * rows * width * experts.matrices as f64;
        let elements = (experts.hidden_size * experts.intermediate_size * experts.matrices) as f64;
        self.roofline(2.0 * rows * elements, self.rate(experts.dtype), weights + activations)
    }

    fn prefill_attention(&self, kernel: &AttentionKernel, shape: &StepShape) -> f64 {
        if shape.prefill_requests == 0 {
            return 0.0;
        }
        let pairs = windowed(shape.prefill_attention_pairs, shape.prefill_tokens, kernel);
        let context = windowed(shape.prefill_context_tokens, shape.prefill_requests, kernel)
            .max(shape.prefill_tokens as f64);
        self.attention(kernel, pairs, context, shape.prefill_tokens as f64)
    }

    fn decode_attention(&self, kernel: &AttentionKernel, shape: &StepShape) -> f64 {
        self.decode_attention_of(kernel, shape)(shape.decode_context_tokens)
    }

    /// The same as a function of the sum of the contexts.
    #[inline]
    fn decode_attention_of(&self, kernel: &AttentionKernel, shape: &StepShape) -> impl Fn(u64) -> f64 {
        let requests = shape.decode_requests;
        let drafts = windowed(shape.draft_attention_pairs, shape.draft_tokens, kernel);
        let most = kernel.window_tokens.map_or(u64::MAX, |window| requests.saturating_mul(window));
        let attention = self.attention_of(kernel, shape.decode_tokens() as f64);
        move |context| {
            let context = context.min(most) as f64;
            if requests == 0 { 0.0 } else { attention(context + drafts, context) }
        }
    }

    fn attention(&self, kernel: &AttentionKernel, pairs: f64, context: f64, tokens: f64) -> f64 {
        self.attention_of(kernel, tokens)(pairs, context)
    }

    /// Attention of so many tokens, as a function of its pairs and of the contexts that it reads.
    #[inline]
    fn attention_of(&self, kernel: &AttentionKernel, tokens: f64) -> impl Fn(f64, f64) -> f64 {
        let operations_per_pair = (kernel.heads * kernel.flops_per_pair_and_head) as f64;
        let kv_bits_per_token = kernel.kv_bits_per_token as f64;
        let activations = 2.0 * tokens * kernel.io_elements_per_token as f64;
        let (operations_per_s, bytes_per_s) = (self.bf16_per_s, self.memory_bytes_per_s);
        move |pairs, context| {
            let bytes = context * kv_bits_per_token / 8.0 + activations;
            roofline(pairs * operations_per_pair, operations_per_s, bytes, bytes_per_s)
        }
    }
}

impl CostModel for DatasheetCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        duration(self.context_free_seconds(shape) + self.decode_context_seconds(shape))
    }

    fn decode_run(&self, first: &StepShape, wanted: usize, each: &mut dyn FnMut(&[SimDuration]) -> usize) {
        let context_free_seconds = self.context_free_seconds(first);
        price_run(first, wanted, each, |first_context, times| {
            let mut seconds = [0.0; PRICED_AT_ONCE];
            let contexts = || (0..).map(|step| first_context + step * first.decode_requests);
            for &(count, ref kernel) in &self.decode_attention {
                let attention = self.decode_attention_of(kernel, first);
                for (seconds, context) in seconds.iter_mut().zip(contexts()).take(times.len()) {
                    *seconds += count * attention(context);
                }
            }
            for (time, seconds) in times.iter_mut().zip(seconds) {
                *time = duration(context_free_seconds + seconds);
            }
        });
    }
}

#[inline]
fn roofline(operations: f64, operations_per_s: f64, bytes: f64, bytes_per_s: f64) -> f64 {
    OPERATOR_FLOOR_S.max(operations / operations_per_s).max(bytes / bytes_per_s)
}

fn duration(seconds: f64) -> SimDuration {
    SimDuration(SimDuration::from_seconds(seconds).0.max(1))
}

/// Bytes of the weights of an operator that has any; of routed experts, of one matrix.
fn weight_bytes(work: &Work) -> f64 {
    match work {
        Work::Gemm(gemm) => gemm.batch as f64 * gemm.dtype.matrix_bytes(gemm.outputs, gemm.inputs) as f64,
        Work::Experts(experts) => {
            experts.dtype.matrix_bytes(experts.intermediate_size, experts.hidden_size) as f64
        }
        _ => 0.0,
    }
}

/// Distinct experts that `tokens` tokens touch when each picks its experts uniformly:
/// `experts (1 - (1 - picked/experts)^tokens)`.
pub fn experts_touched(experts: f64, experts_per_token: f64, tokens: f64) -> f64 {
    experts * (1.0 - libm::pow(1.0 - experts_per_token / experts, tokens))
}

/// A context sum with the window applied: never more than `parts` windows. With sums only this is an upper bound when
/// some contexts are shorter than the window and others longer.
#[inline]
fn windowed(sum: u64, parts: u64, kernel: &AttentionKernel) -> f64 {
    kernel.window_tokens.map_or(sum, |window| sum.min(parts.saturating_mul(window))) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::cost::operators::operators;
    use crate::model::KvDtype;

    /// A run of decode steps costs to the nanosecond what its steps cost one by one, for every model of the catalogue.
    #[test]
    fn decode_runs_are_sums_of_steps() {
        let gpu = catalogue::find_gpu("h200").unwrap();
        let models = catalogue::models();
        assert!(models.len() > 20);
        for entry in models {
            let model = catalogue::find_model(entry.name).unwrap();
            let cost = DatasheetCost::new(
                operators(&model, &model.weights, KvDtype::Auto, &Layout::tensor(1), model.all_layers()),
                &gpu,
                Layout::tensor(1),
                None,
            );
            for (requests, context) in [(1, 1), (1, 900), (7, 15_000), (200, 90_000), (256, 3_000_000)] {
                let mut shape = StepShape {
                    decode_requests: requests,
                    decode_context_tokens: context,
                    sampled_requests: requests,
                    ..StepShape::default()
                };
                let mut durations = Vec::new();
                cost.decode_run(&shape, 7, &mut |some| {
                    durations.extend_from_slice(some);
                    500 - durations.len().min(500)
                });
                assert_eq!(durations.len(), 500);
                for duration in durations {
                    assert_eq!(duration, cost.step(&shape), "{}: {shape:?}", entry.name);
                    shape.decode_context_tokens += requests;
                }
            }
        }
    }
}
