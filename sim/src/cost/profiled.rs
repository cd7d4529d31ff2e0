//! Step times from a fitted profile: each operator of the model is tabulated once as a function of a sum of the step,
//! and the operators that share a sum are added up, so that a query is a handful of look-ups.

use super::CostModel;
use super::graphs::CudaGraphs;
use super::host::HostTime;
use super::operators::{AttentionKernel, Gemm, Operator, Rows, Work};
use crate::error::{Error, Result};
use crate::model::{KvDtype, WeightDtype};
use crate::profile::{
    CostProfile, Curve, Dtype, Estimate, Experts, Family, Heads, KernelFit, Operation, PrefillCost,
    Provenance, Route, Routing, Surface, SurfaceRow,
};
use crate::step::StepShape;
use crate::units::SimDuration;

/// Kernels that one operator launches on average when the step does not run from a graph. Assumed.
const LAUNCHES_PER_OPERATOR: f64 = 1.2;
/// Time to launch a kernel without a graph, in seconds: the middle of 5 to 10 us. Assumed.
const LAUNCH_SECONDS: f64 = 7e-6;

/// Attention of all layers of one kind.
#[derive(Debug, Clone)]
struct Attention<T> {
    cost: T,
    layers: f64,
    window_tokens: Option<u64>,
}

/// The sums that one kernel call is priced by.
#[derive(Debug, Clone, Copy)]
struct Sums {
    /// Rows of a product, query tokens, or sequences.
    rows: f64,
    /// Pairs of a query and a key that it sees.
    pairs: f64,
    /// Chunks that the query tokens belong to.
    chunks: f64,
}

impl Sums {
    fn rows(rows: f64) -> Sums {
        Sums { rows, pairs: rows, chunks: 1.0 }
    }

    fn prefill(shape: &StepShape, window_tokens: Option<u64>) -> Sums {
        let pairs = windowed(shape.prefill_attention_pairs, shape.prefill_tokens, window_tokens);
        Sums { rows: shape.prefill_tokens as f64, pairs, chunks: shape.prefill_requests as f64 }
    }

    fn decode(shape: &StepShape, window_tokens: Option<u64>) -> Sums {
        let pairs = windowed(shape.decode_context_tokens, shape.decode_requests, window_tokens);
        Sums { rows: shape.decode_requests as f64, pairs, chunks: shape.decode_requests as f64 }
    }
}

/// A sum with the window applied: never more than `rows` windows. With sums only this is an upper bound when some
/// contexts are shorter than the window and others longer.
fn windowed(sum: u64, rows: u64, window_tokens: Option<u64>) -> f64 {
    window_tokens.map_or(sum, |window| sum.min(rows.saturating_mul(window))) as f64
}

/// Prices steps by a profile.
#[derive(Debug, Clone)]
pub struct ProfiledCost {
    profile: CostProfile,
    operators: Vec<Operator>,
    context: Context,
    /// Functions of the padded tokens, the sampled requests, the prompt tokens and the decoding requests.
    tokens: Curve,
    sampled: Curve,
    prefill_tokens: Curve,
    decode_requests: Curve,
    prefill_attention: Vec<Attention<PrefillCost>>,
    decode_attention: Vec<Attention<Surface>>,
    launches: f64,
    graphs: CudaGraphs,
    host: HostTime,
}

/// What turns an operator into calls of the profile's kernels.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Ranks that share each layer.
    pub ranks: u32,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// How tokens spread over experts.
    pub routing: Routing,
}

impl ProfiledCost {
    /// Tabulates `operators` by `profile`.
    ///
    /// # Errors
    /// When the profile has no kernel for one of them; the message names it and what the profile has.
    pub fn new(
        profile: CostProfile,
        operators: Vec<Operator>,
        context: Context,
        graphs: CudaGraphs,
        host: HostTime,
    ) -> Result<ProfiledCost> {
        let mut cost = ProfiledCost {
            tokens: Curve::zero(),
            sampled: Curve::zero(),
            prefill_tokens: Curve::zero(),
            decode_requests: Curve::zero(),
            prefill_attention: Vec::new(),
            decode_attention: Vec::new(),
            launches: operators.iter().map(|operator| operator.count as f64).sum::<f64>()
                * LAUNCHES_PER_OPERATOR,
            profile,
            operators: Vec::new(),
            context,
            graphs,
            host,
        };
        for operator in &operators {
            cost.add(operator)?;
        }
        cost.operators = operators;
        Ok(cost)
    }

    fn add(&mut self, operator: &Operator) -> Result<()> {
        let layers = operator.count as f64;
        let smallest = self.call(&operator.work, Sums::rows(1.0))?;
        self.estimate(&smallest)?;
        let fit = self.fit_of(&operator.work);
        match operator.work {
            Work::PrefillAttention(AttentionKernel { window_tokens, .. }) => {
                self.prefill_attention.push(Attention {
                    cost: self.profile.prefill(smallest)?,
                    layers,
                    window_tokens,
                });
            }
            Work::DecodeAttention(AttentionKernel { window_tokens, .. }) => {
                let cost = Surface::tabulate(13, 21, |rows, mean| {
                    self.seconds(&operator.work, fit, Sums { rows, pairs: rows * mean, chunks: rows })
                });
                self.decode_attention.push(Attention { cost, layers, window_tokens });
            }
            work => {
                let curve = Curve::tabulate(|rows| self.seconds(&work, fit, Sums::rows(rows)));
                let sum = match rows_of(&work) {
                    Rows::Tokens => &mut self.tokens,
                    Rows::Sampled => &mut self.sampled,
                    Rows::PrefillTokens => &mut self.prefill_tokens,
                    Rows::DecodeRequests => &mut self.decode_requests,
                };
                sum.add(&curve, layers);
            }
        }
        Ok(())
    }

    /// Time of one call. The engine takes the faster of its own all-reduce and NCCL.
    pub fn estimate(&self, operation: &Operation) -> Result<Estimate> {
        match operation {
            Operation::Collective { family: Family::AllReduce, bytes, ranks, .. } => {
                self.profile.all_reduce(*bytes, *ranks)
            }
            operation => self.profile.evaluate(operation),
        }
    }

    fn call(&self, work: &Work, sums: Sums) -> Result<Operation> {
        call(work, &self.context, sums)
    }

    /// The fit that prices all calls of `work`; none where more than one may, between GPUs.
    fn fit_of(&self, work: &Work) -> Option<&KernelFit> {
        let smallest = self.call(work, Sums::rows(1.0)).ok()?;
        match smallest {
            Operation::Collective { .. } => None,
            operation => self.profile.fit(&operation).ok(),
        }
    }

    /// The same for each operator.
    pub(super) fn fits(&self) -> Vec<Option<&KernelFit>> {
        self.operators.iter().map(|operator| self.fit_of(&operator.work)).collect()
    }

    /// Time of a call by the fit of its operator, where that is known.
    pub(super) fn estimate_by(&self, fit: Option<&KernelFit>, operation: &Operation) -> Result<Estimate> {
        match fit {
            Some(fit) => self.profile.evaluate_by(fit, operation),
            None => self.estimate(operation),
        }
    }

    /// Time of a call that has been tried before.
    fn seconds(&self, work: &Work, fit: Option<&KernelFit>, sums: Sums) -> f64 {
        let estimate = self.call(work, sums).and_then(|operation| self.estimate_by(fit, &operation));
        estimate.map_or(0.0, |estimate| estimate.seconds)
    }

    /// GPU time of a step, in seconds.
    pub fn gpu_seconds(&self, shape: &StepShape) -> f64 {
        let (tokens, from_graph) = self.graphs.of(shape);
        let mut seconds = self.tokens.seconds(tokens)
            + self.sampled.seconds(shape.sampled_requests)
            + self.prefill_tokens.seconds(shape.prefill_tokens)
            + self.decode_requests.seconds(shape.decode_requests);
        if shape.prefill_tokens > 0 {
            for attention in &self.prefill_attention {
                let Sums { rows, pairs, chunks } = Sums::prefill(shape, attention.window_tokens);
                seconds += attention.layers * attention.cost.seconds(rows, pairs, chunks);
            }
        }
        if shape.decode_requests > 0 {
            for attention in &self.decode_attention {
                let Sums { rows, pairs, .. } = Sums::decode(shape, attention.window_tokens);
                seconds += attention.layers * attention.cost.at(rows, pairs / rows);
            }
        }
        if from_graph { seconds } else { seconds.max(self.launches * LAUNCH_SECONDS) }
    }

    /// The calls of the profile's kernels that make up a step, each with the number of its operator; calls of nothing are
    /// left out.
    pub(super) fn calls(&self, shape: &StepShape) -> Result<Vec<(usize, Operation)>> {
        let (tokens, _) = self.graphs.of(shape);
        let mut calls = Vec::with_capacity(self.operators.len());
        for (number, operator) in self.operators.iter().enumerate() {
            let sums = match operator.work {
                Work::PrefillAttention(kernel) => Sums::prefill(shape, kernel.window_tokens),
                Work::DecodeAttention(kernel) => Sums::decode(shape, kernel.window_tokens),
                work => Sums::rows(match rows_of(&work) {
                    Rows::Tokens => tokens,
                    Rows::Sampled => shape.sampled_requests,
                    Rows::PrefillTokens => shape.prefill_tokens,
                    Rows::DecodeRequests => shape.decode_requests,
                } as f64),
            };
            if sums.rows > 0.0 {
                calls.push((number, self.call(&operator.work, sums)?));
            }
        }
        Ok(calls)
    }

    /// The model's operators.
    pub(super) fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// What the times of this model's operators rest on, in a line.
    pub fn basis(&self) -> String {
        let attribution = self.profile.attribution.as_str();
        let attribution =
            attribution.strip_prefix("Fitted from kernel measurements of ").unwrap_or(attribution);
        let source = attribution.split(" (").next().unwrap_or(attribution);
        let mut kinds: Vec<String> = Vec::new();
        for operator in &self.operators {
            let Ok(smallest) = self.call(&operator.work, Sums::rows(1.0)) else { continue };
            let Ok(fit) = self.profile.fit(&smallest) else { continue };
            let kind = match &fit.provenance {
                Provenance::Measured => "measured here".to_string(),
                Provenance::Imported(_) => format!("imported from {source}"),
                Provenance::Datasheet => "from the data sheet".to_string(),
                Provenance::Assumed(reason) => format!("assumed ({reason})"),
            };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        format!("profile {}, kernels {}", self.profile.name, kinds.join(", "))
    }

    /// The profile behind it.
    pub fn profile(&self) -> &CostProfile {
        &self.profile
    }
}

fn rows_of(work: &Work) -> Rows {
    match work {
        Work::Gemm(gemm) => gemm.rows,
        Work::PrefillAttention(_) => Rows::PrefillTokens,
        Work::DecodeAttention(_) => Rows::DecodeRequests,
        Work::Elementwise { rows, .. } => *rows,
        Work::LogitsGather { .. } => Rows::Sampled,
        Work::Experts(_) | Work::AllReduce { .. } => Rows::Tokens,
    }
}

/// The kernel call of `work`.
fn call(work: &Work, context: &Context, sums: Sums) -> Result<Operation> {
    let ranks = context.ranks;
    let Sums { rows, pairs, chunks } = sums;
    Ok(match work {
        Work::Gemm(gemm) => gemm_call(gemm, rows)?,
        Work::Experts(experts) => Operation::Moe {
            tokens: rows,
            experts: Experts {
                hidden: narrow(experts.hidden_size),
                inter: narrow(experts.intermediate_size * u64::from(ranks)),
                count: narrow(experts.experts),
                topk: narrow(experts.experts_per_token),
                tensor_ranks: ranks,
                expert_ranks: 1,
                gated: experts.matrices == 3,
            },
            dtype: weight_dtype(experts.dtype)?,
            routing: context.routing,
        },
        Work::PrefillAttention(kernel) if kernel.is_latent => Operation::MlaPrefill {
            tokens: rows,
            pairs,
            chunks,
            heads: narrow(kernel.heads),
            cache: cache_dtype(context.kv)?,
        },
        Work::DecodeAttention(kernel) if kernel.is_latent => Operation::MlaDecode {
            sequences: rows,
            context: pairs,
            heads: narrow(kernel.heads),
            cache: cache_dtype(context.kv)?,
        },
        Work::PrefillAttention(kernel) => Operation::AttentionPrefill {
            tokens: rows,
            pairs,
            chunks,
            heads: heads(kernel),
            compute: Dtype::Bfloat16,
            cache: cache_dtype(context.kv)?,
        },
        Work::DecodeAttention(kernel) => Operation::AttentionDecode {
            sequences: rows,
            context: pairs,
            heads: heads(kernel),
            cache: cache_dtype(context.kv)?,
        },
        Work::Elementwise { bytes_per_row, .. } => {
            Operation::Elementwise { bytes: rows * *bytes_per_row as f64 }
        }
        Work::LogitsGather { bytes_per_row } => Operation::Collective {
            family: Family::AllGather,
            bytes: rows * *bytes_per_row as f64,
            ranks,
            route: Route::Nccl,
        },
        Work::AllReduce { bytes_per_token } => Operation::Collective {
            family: Family::AllReduce,
            bytes: rows * *bytes_per_token as f64,
            ranks,
            route: Route::Nccl,
        },
    })
}

/// One product per head is priced as one product with as many rows: the same operations, the same rows in all.
fn gemm_call(gemm: &Gemm, rows: f64) -> Result<Operation> {
    Ok(Operation::Gemm {
        m: rows * gemm.batch as f64,
        n: narrow(gemm.outputs),
        k: narrow(gemm.inputs),
        dtype: weight_dtype(gemm.dtype)?,
    })
}

fn heads(kernel: &AttentionKernel) -> Heads {
    Heads {
        query: narrow(kernel.heads),
        kv: narrow(kernel.kv_heads),
        dim: narrow(kernel.head_dim),
        window: narrow(kernel.window_tokens.unwrap_or(0)),
    }
}

fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// The profile's name of a weight format; 4-bit formats share one kernel family (weights expanded on the fly).
fn weight_dtype(dtype: WeightDtype) -> Result<Dtype> {
    Ok(match dtype {
        WeightDtype::Bf16 | WeightDtype::Fp16 => Dtype::Bfloat16,
        WeightDtype::Fp8 => Dtype::Fp8,
        WeightDtype::Fp8Block => Dtype::Fp8Block,
        WeightDtype::Int8 => Dtype::Int8,
        WeightDtype::Int4Awq { .. } | WeightDtype::Int4Gptq { .. } | WeightDtype::Int4Packed { .. } => {
            Dtype::Int4Weights
        }
        WeightDtype::Mxfp4 => Dtype::Mxfp4Weights,
        WeightDtype::Fp32 | WeightDtype::Nvfp4 => {
            return Err(Error::new(format!("no measured kernel multiplies {dtype:?} weights")));
        }
    })
}

fn cache_dtype(kv: KvDtype) -> Result<Dtype> {
    match kv {
        KvDtype::Auto | KvDtype::Bf16 => Ok(Dtype::Bfloat16),
        KvDtype::Fp8 | KvDtype::Fp8PerTokenHead | KvDtype::Fp8DsMla => Ok(Dtype::Fp8),
        KvDtype::Int8 | KvDtype::Int4 | KvDtype::Nvfp4 => {
            Err(Error::new(format!("no measured attention kernel reads a KV cache of {}", kv.name())))
        }
    }
}

impl CostModel for ProfiledCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        SimDuration(SimDuration::from_seconds(self.gpu_seconds(shape)).0.max(1))
    }

    fn host(&self, shape: &StepShape) -> SimDuration {
        self.host.of(shape)
    }

    /// Of a run only decode attention changes with the context; all else is priced once.
    fn decode_run(&self, first: &StepShape, each: &mut dyn FnMut(SimDuration) -> bool) {
        let (tokens, from_graph) = self.graphs.of(first);
        let fixed = self.tokens.seconds(tokens)
            + self.sampled.seconds(first.sampled_requests)
            + self.prefill_tokens.seconds(first.prefill_tokens)
            + self.decode_requests.seconds(first.decode_requests);
        let least = if from_graph { f64::NEG_INFINITY } else { self.launches * LAUNCH_SECONDS };
        let host = self.host.of(first);
        let rows = first.decode_requests as f64;
        let mut lines: [Option<(&Attention<Surface>, SurfaceRow<'_>)>; MOST_LINES] = [None; MOST_LINES];
        for (line, attention) in lines.iter_mut().zip(&self.decode_attention) {
            *line = Some((attention, attention.cost.along(rows)));
        }
        let others = self.decode_attention.get(MOST_LINES..).unwrap_or(&[]);
        let mut context = first.decode_context_tokens;
        loop {
            let mut seconds = fixed;
            for (attention, line) in lines.iter().flatten() {
                let pairs = windowed(context, first.decode_requests, attention.window_tokens);
                seconds += attention.layers * line.at(pairs / rows);
            }
            for attention in others {
                let pairs = windowed(context, first.decode_requests, attention.window_tokens);
                seconds += attention.layers * attention.cost.at(rows, pairs / rows);
            }
            let duration = SimDuration(SimDuration::from_seconds(seconds.max(least)).0.max(1));
            if !each(duration + host) {
                return;
            }
            context += first.decode_requests;
        }
    }
}

/// Kinds of decode attention whose place in the table is looked up once per run.
const MOST_LINES: usize = 4;

#[cfg(test)]
mod tests {
    use crate::document::Document;
    use crate::scenario::Scenario;
    use crate::step::StepShape;
    use std::path::Path;

    /// A run of decode steps costs to the nanosecond what its steps cost one by one: full, latent and windowed
    /// attention, inside and outside captured graphs.
    #[test]
    fn decode_runs_are_sums_of_steps() {
        for (model, tensor_parallel) in [("llama-3.1-8b", 1), ("gpt-oss-120b", 2), ("deepseek-v3", 8)] {
            let text = format!(
                "model: {model}\nhardware: {{ gpu: h200 }}\ndeployment: {{ tensor_parallel: {tensor_parallel} }}\n\
                 engine: {{ max_num_seqs: 1024 }}\n\
                 workload: {{ requests: 1, arrivals: {{ poisson: 1/s }}, prompt: {{ constant: 1 }}, output: {{ constant: 1 }} }}\n"
            );
            let document = Document::parse("run.yaml", &text).unwrap();
            let scenario = Scenario::resolve("run.yaml", &document, Path::new(".")).unwrap();
            assert!(scenario.pricing.profiled.is_some());
            let mut outside_graphs = 0;
            for (requests, context) in [(1, 1), (1, 900), (7, 15_000), (200, 90_000), (600, 3_000_000)] {
                let mut shape = StepShape {
                    decode_requests: requests,
                    decode_context_tokens: context,
                    sampled_requests: requests,
                    ..StepShape::default()
                };
                let mut durations = Vec::new();
                scenario.pricing.model.decode_run(&shape, &mut |duration| {
                    durations.push(duration);
                    durations.len() < 500
                });
                outside_graphs += u32::from(requests > 512);
                for duration in durations {
                    assert_eq!(duration, scenario.step_duration(&shape), "{model}: {shape:?}");
                    shape.decode_context_tokens += requests;
                }
            }
            assert!(outside_graphs > 0);
        }
    }
}
