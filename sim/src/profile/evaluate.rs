//! Pricing by kernel: named functions over [`CostProfile::evaluate`], and the tables that a step's query reads.

use super::{
    ClosedForm, CostProfile, Curve, Dtype, Estimate, Exchange, Experts, Family, GpuLimits, Heads, Operation,
    Route, Routing, Surface, work,
};
use crate::error::{Error, Result};

/// Doublings of the grids of [`Surface`]s: sequences up to 8,192, tokens up to 131,072, lengths up to 2,097,152.
const SEQUENCE_OCTAVES: usize = 13;
const TOKEN_OCTAVES: usize = 17;
const LENGTH_OCTAVES: usize = 21;

impl CostProfile {
    /// Dense matrix product of `m` tokens with an `n x k` weight.
    pub fn gemm(&self, m: f64, n: u32, k: u32, dtype: Dtype) -> Result<Estimate> {
        self.evaluate(&Operation::Gemm { m, n, k, dtype })
    }

    /// Causal attention over `tokens` query tokens of `chunks` sequences with `pairs` unmasked query-key pairs.
    pub fn attention_prefill(
        &self,
        tokens: f64,
        pairs: f64,
        chunks: f64,
        heads: Heads,
        compute: Dtype,
        cache: Dtype,
    ) -> Result<Estimate> {
        self.evaluate(&Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache })
    }

    /// Attention of one new token for each of `sequences`, whose keys sum to `context`.
    pub fn attention_decode(
        &self,
        sequences: f64,
        context: f64,
        heads: Heads,
        cache: Dtype,
    ) -> Result<Estimate> {
        self.evaluate(&Operation::AttentionDecode { sequences, context, heads, cache })
    }

    /// Core of latent attention (DeepSeek-V3 sizes) in prefill, `heads` on this rank.
    pub fn mla_prefill(
        &self,
        tokens: f64,
        pairs: f64,
        chunks: f64,
        heads: u32,
        cache: Dtype,
    ) -> Result<Estimate> {
        self.evaluate(&Operation::MlaPrefill { tokens, pairs, chunks, heads, cache })
    }

    /// Core of latent attention (DeepSeek-V3 sizes) in decode, `heads` on this rank.
    pub fn mla_decode(&self, sequences: f64, context: f64, heads: u32, cache: Dtype) -> Result<Estimate> {
        self.evaluate(&Operation::MlaDecode { sequences, context, heads, cache })
    }

    /// Routed experts of one layer on one rank; `tokens` of all ranks that share the experts.
    pub fn moe(&self, tokens: f64, experts: Experts, dtype: Dtype, routing: Routing) -> Result<Estimate> {
        self.evaluate(&Operation::Moe { tokens, experts, dtype, routing, touched: None })
    }

    /// All-reduce of `bytes` over `ranks` of one node by the faster of the engine's own kernel and NCCL, as the
    /// engine chooses. One rank costs nothing.
    pub fn all_reduce(&self, bytes: f64, ranks: u32) -> Result<Estimate> {
        let nccl = self.collective(Family::AllReduce, bytes, ranks, Route::Nccl)?;
        match self.collective(Family::AllReduce, bytes, ranks, Route::Custom) {
            Ok(custom) if custom.seconds < nccl.seconds => Ok(custom),
            _ => Ok(nccl),
        }
    }

    /// One collective by a given route. `bytes` is the whole vector for all-reduce, the gathered vector for
    /// all-gather, the input vector for reduce-scatter and all-to-all. One rank costs nothing.
    pub fn collective(&self, family: Family, bytes: f64, ranks: u32, route: Route) -> Result<Estimate> {
        if ranks <= 1 {
            return Ok(Estimate { seconds: 0.0, octaves_outside: 0.0 });
        }
        self.evaluate(&Operation::Collective { family, bytes, ranks, route })
    }

    /// All-gather by NCCL; `bytes` is the gathered vector.
    pub fn all_gather(&self, bytes: f64, ranks: u32) -> Result<Estimate> {
        self.collective(Family::AllGather, bytes, ranks, Route::Nccl)
    }

    /// Reduce-scatter by NCCL; `bytes` is the input vector of one rank.
    pub fn reduce_scatter(&self, bytes: f64, ranks: u32) -> Result<Estimate> {
        self.collective(Family::ReduceScatter, bytes, ranks, Route::Nccl)
    }

    /// All-to-all by NCCL; `bytes` is the input vector of one rank.
    pub fn all_to_all(&self, bytes: f64, ranks: u32) -> Result<Estimate> {
        self.collective(Family::AllToAll, bytes, ranks, Route::Nccl)
    }

    /// Dispatch or combine of `tokens` per rank over eight ranks.
    pub fn expert_exchange(
        &self,
        tokens: f64,
        hidden: u32,
        topk: u32,
        exchange: Exchange,
    ) -> Result<Estimate> {
        self.evaluate(&Operation::ExpertExchange { tokens, hidden, topk, exchange })
    }

    /// A streaming kernel that reads and writes `bytes` in total.
    pub fn elementwise(&self, bytes: f64) -> Result<Estimate> {
        self.evaluate(&Operation::Elementwise { bytes })
    }

    /// [`gemm`](CostProfile::gemm) of one weight as a function of the token count.
    pub fn gemm_curve(&self, n: u32, k: u32, dtype: Dtype) -> Result<Curve> {
        self.curve(move |m| Operation::Gemm { m, n, k, dtype })
    }

    /// Any operation as a function of its token count.
    pub fn curve(&self, operation: impl Fn(f64) -> Operation + Send + Sync + 'static) -> Result<Curve> {
        self.evaluate(&operation(1.0))?;
        let (fit, gpu) = (self.fit(&operation(1.0))?.clone(), self.gpu.clone());
        Ok(Curve::new(move |tokens| fit.evaluate(&operation(tokens), &gpu).seconds))
    }

    /// Decode attention as a function of (sequences, mean context).
    pub fn decode_surface(&self, heads: Heads, cache: Dtype) -> Result<Surface> {
        let operation = move |sequences: f64, mean: f64| Operation::AttentionDecode {
            sequences,
            context: sequences * mean,
            heads,
            cache,
        };
        self.surface(SEQUENCE_OCTAVES, LENGTH_OCTAVES, operation)
    }

    /// Prefill attention with its corrections tabulated.
    pub fn prefill_cost(&self, heads: Heads, compute: Dtype, cache: Dtype) -> Result<PrefillCost> {
        let (tokens, pairs, chunks) = (1.0, 1.0, 1.0);
        self.prefill(Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache })
    }

    /// Any of the three prefill attentions with its corrections tabulated; the sums in `template` do not count.
    ///
    /// # Errors
    /// When `template` is another operation, or the profile has no fit for it.
    pub fn prefill(&self, template: Operation) -> Result<PrefillCost> {
        // A causal call without context whose last query visits `longest` keys.
        let at = move |tokens: f64, longest: f64| {
            with_sums(&template, tokens, tokens * (longest + 1.0) / 2.0, tokens / longest)
        };
        let Some(first) = at(1.0, 1.0) else {
            return Err(Error::new(format!("{} is no prefill attention", template.family().name())));
        };
        self.evaluate(&first)?;
        let fit = self.fit(&first)?.clone();
        let form = fit.form;
        let correction = Surface::new(TOKEN_OCTAVES, LENGTH_OCTAVES, move |tokens, longest| {
            at(tokens, longest).map_or(1.0, |operation| fit.correction(&operation))
        });
        Ok(PrefillCost { template, form, gpu: self.gpu.clone(), correction })
    }

    /// Any operation as a function of two sums, each from one to a power of two.
    pub fn surface(
        &self,
        row_octaves: usize,
        column_octaves: usize,
        operation: impl Fn(f64, f64) -> Operation + Send + Sync + 'static,
    ) -> Result<Surface> {
        self.evaluate(&operation(1.0, 1.0))?;
        let (fit, gpu) = (self.fit(&operation(1.0, 1.0))?.clone(), self.gpu.clone());
        Ok(Surface::new(row_octaves, column_octaves, move |row, column| {
            fit.evaluate(&operation(row, column), &gpu).seconds
        }))
    }
}

/// Prefill attention of one operator: the closed form is evaluated, its corrections are read from a table.
#[derive(Debug, Clone)]
pub struct PrefillCost {
    template: Operation,
    form: ClosedForm,
    gpu: GpuLimits,
    correction: Surface,
}

impl PrefillCost {
    /// Time of `tokens` query tokens of `chunks` sequences with `pairs` unmasked query-key pairs, seconds. No tokens
    /// take no time.
    pub fn seconds(&self, tokens: f64, pairs: f64, chunks: f64) -> f64 {
        let Some(operation) = with_sums(&self.template, tokens, pairs, chunks) else {
            return 0.0;
        };
        if tokens <= 0.0 {
            return 0.0;
        }
        let window = match operation {
            Operation::AttentionPrefill { heads, .. } => heads.window,
            _ => 0,
        };
        let work = operation.work(&self.gpu);
        let longest = work::longest_loop(tokens, pairs, chunks, window);
        (self.form.seconds(&work) * self.correction.at(tokens, longest)).max(work.light_seconds)
    }
}

/// The prefill attention with other sums; nothing for another operation.
fn with_sums(template: &Operation, tokens: f64, pairs: f64, chunks: f64) -> Option<Operation> {
    Some(match *template {
        Operation::AttentionPrefill { heads, compute, cache, .. } => {
            Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache }
        }
        Operation::MlaPrefill { heads, cache, .. } => {
            Operation::MlaPrefill { tokens, pairs, chunks, heads, cache }
        }
        Operation::MlaModulePrefill { heads, cache, dtype, .. } => {
            Operation::MlaModulePrefill { tokens, pairs, chunks, heads, cache, dtype }
        }
        _ => return None,
    })
}
