//! Step times from a fitted profile: each operator of the model is tabulated once as a function of a sum of the step,
//! and the operators that share a sum are added up, so that a query is a handful of look-ups.

use super::CostModel;
use super::graphs::CudaGraphs;
use super::host::HostTime;
use super::operators::{AttentionKernel, Gemm, Operator, Rows, Work};
use crate::error::{Error, Result};
use crate::model::{KvDtype, WeightDtype};
use crate::profile::{
    CostProfile, Curve, Dtype, Estimate, Experts, Family, Heads, Operation, PrefillCost, Provenance, Route,
    Routing, Surface,
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
    residual: Residual,
}

/// What is left between kernels that were timed alone and an engine that serves, fitted to measured runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residual {
    /// What GPU times of steps without prompt tokens are multiplied by: reading weights and caches bounds them.
    pub decode_scale: f64,
    /// The same of steps with prompt tokens: the matrix units bound them, and sustained load lowers their clocks.
    pub prefill_scale: f64,
    /// Time to launch a kernel in a step with prompt tokens, in ns, where it is known: such a step takes at least that
    /// for each of its kernels, whatever its size, because engines do not run it as one graph.
    pub prefill_launch_ns: Option<u64>,
}

impl Residual {
    /// None: kernels as they were timed.
    pub const NONE: Residual = Residual { decode_scale: 1.0, prefill_scale: 1.0, prefill_launch_ns: None };
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
            residual: Residual::NONE,
        };
        for operator in &operators {
            cost.add(operator)?;
        }
        cost.operators = operators;
        Ok(cost)
    }

    /// The same kernels with another host time and a residual.
    pub fn with_residual(mut self, host: HostTime, residual: Residual) -> ProfiledCost {
        self.host = host;
        self.residual = residual;
        self
    }

    /// The residual; none without a calibration.
    pub fn residual(&self) -> Residual {
        self.residual
    }

    /// What the GPU time of a step is multiplied by; 1 without a calibration.
    pub fn kernel_scale(&self, shape: &StepShape) -> f64 {
        if shape.prefill_tokens > 0 { self.residual.prefill_scale } else { self.residual.decode_scale }
    }

    fn add(&mut self, operator: &Operator) -> Result<()> {
        let layers = operator.count as f64;
        let smallest = self.call(&operator.work, Sums::rows(1.0))?;
        self.estimate(&smallest)?;
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
                    self.seconds(&operator.work, Sums { rows, pairs: rows * mean, chunks: rows })
                });
                self.decode_attention.push(Attention { cost, layers, window_tokens });
            }
            work => {
                let curve = Curve::tabulate(|rows| self.seconds(&work, Sums::rows(rows)));
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

    /// Time of a call that has been tried before.
    fn seconds(&self, work: &Work, sums: Sums) -> f64 {
        let estimate = self.call(work, sums).and_then(|operation| self.estimate(&operation));
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
        let seconds = seconds * self.kernel_scale(shape);
        match self.residual.prefill_launch_ns {
            Some(ns) if shape.prefill_tokens > 0 => seconds.max(self.launches * ns as f64 * 1e-9),
            _ if from_graph => seconds,
            _ => seconds.max(self.launches * LAUNCH_SECONDS),
        }
    }

    /// The calls of the profile's kernels that make up a step, each with how often it runs; calls of nothing are left out.
    pub fn calls(&self, shape: &StepShape) -> Result<Vec<(&Operator, Operation)>> {
        let (tokens, _) = self.graphs.of(shape);
        let mut calls = Vec::with_capacity(self.operators.len());
        for operator in &self.operators {
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
                calls.push((operator, self.call(&operator.work, sums)?));
            }
        }
        Ok(calls)
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
}
