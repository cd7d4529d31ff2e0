//! Step times from a fitted profile: each operator of the model is a function of a sum of the step, kept in a table, and
//! the operators that share a sum are added up, so that a query is a handful of look-ups.

use super::calls::{Context, Sums, call, rows_of, windowed};
use super::datasheet::COMPUTE_EFFICIENCY;
use super::graphs::CudaGraphs;
use super::host::HostTime;
use super::operators::{AttentionKernel, Operator, Rows, Work};
use super::pricer::{Pricer, estimate_by, serving_seconds};
use super::{CostModel, price_run};
use crate::error::Result;
use crate::model::KvDtype;
use crate::profile::{
    CostProfile, Curve, Estimate, KernelFit, Operation, PrefillCost, Provenance, Surface, SurfaceRow,
};
use crate::step::StepShape;
use crate::units::SimDuration;
use std::sync::Arc;

/// Kernels that one operator launches on average when the step does not run from a graph. Assumed.
const LAUNCHES_PER_OPERATOR: f64 = 1.2;
/// Time to launch a kernel without a graph, in seconds: the middle of 5 to 10 us. Assumed.
const LAUNCH_SECONDS: f64 = 7e-6;

/// What a fit of this GPU's own measurements is said to rest on.
const MEASURED_HERE: &str = "measured here";

/// Attention of all layers of one kind.
#[derive(Debug, Clone)]
struct Attention<T> {
    cost: T,
    layers: f64,
    window_tokens: Option<u64>,
    /// Operations of one pair of a query and a key, all heads of the rank together.
    flops_per_pair: f64,
}

impl<T> Attention<T> {
    fn new(cost: T, layers: f64, kernel: &AttentionKernel) -> Attention<T> {
        Attention {
            cost,
            layers,
            window_tokens: kernel.window_tokens,
            flops_per_pair: (kernel.heads * kernel.flops_per_pair_and_head) as f64,
        }
    }
}

/// Prices steps by a profile.
#[derive(Debug, Clone)]
pub struct ProfiledCost {
    profile: Arc<CostProfile>,
    operators: Vec<Operator>,
    context: Context,
    /// Functions of the padded tokens, the sampled requests, the prompt tokens and the decoding requests.
    tokens: Curve,
    sampled: Curve,
    prefill_tokens: Curve,
    decode_requests: Curve,
    /// What data-parallel ranks do together; none when there is one.
    group: Option<GroupCurves>,
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
    /// Under sustained load the clocks of the matrix units fall the further, the busier they are: a product takes longer
    /// by this many times what it would take at the data sheet's rate. Only where kernels were timed on the GPU itself.
    pub matrix_slowdown: f64,
}

impl Residual {
    /// None: kernels as they were timed.
    pub const NONE: Residual =
        Residual { decode_scale: 1.0, prefill_scale: 1.0, prefill_launch_ns: None, matrix_slowdown: 0.0 };
}

/// Functions of the tokens of all ranks and of those of the largest, and what every step costs once.
#[derive(Debug, Clone)]
struct GroupCurves {
    all_tokens: Curve,
    largest_rank: Curve,
    once_seconds: f64,
}

impl GroupCurves {
    fn zero() -> GroupCurves {
        GroupCurves { all_tokens: Curve::zero(), largest_rank: Curve::zero(), once_seconds: 0.0 }
    }

    fn seconds(&self, padded: PaddedRows) -> f64 {
        self.once_seconds + self.all_tokens.seconds(padded.group) + self.largest_rank.seconds(padded.largest)
    }
}

/// The rows that a step's products run on.
#[derive(Debug, Clone, Copy)]
struct PaddedRows {
    /// On this rank.
    tokens: u64,
    /// On all data-parallel ranks together.
    group: u64,
    /// On the largest of them.
    largest: u64,
    from_graph: bool,
}

impl ProfiledCost {
    /// Prices `operators` by `profile`.
    ///
    /// # Errors
    /// When the profile has no kernel for one of them; the message names it and what the profile has.
    pub fn new(
        profile: impl Into<Arc<CostProfile>>,
        operators: Vec<Operator>,
        context: Context,
        graphs: CudaGraphs,
        host: HostTime,
    ) -> Result<ProfiledCost> {
        let mut cost = ProfiledCost {
            group: (context.layout.parallel.data > 1).then(GroupCurves::zero),
            tokens: Curve::zero(),
            sampled: Curve::zero(),
            prefill_tokens: Curve::zero(),
            decode_requests: Curve::zero(),
            prefill_attention: Vec::new(),
            decode_attention: Vec::new(),
            launches: operators.iter().map(|operator| operator.count as f64).sum::<f64>()
                * LAUNCHES_PER_OPERATOR,
            profile: profile.into(),
            operators: Vec::new(),
            context,
            graphs,
            host,
            residual: Residual::NONE,
        };
        cost.tabulate(operators)?;
        Ok(cost)
    }

    fn tabulate(&mut self, operators: Vec<Operator>) -> Result<()> {
        for operator in &operators {
            self.add(operator)?;
        }
        self.operators = operators;
        Ok(())
    }

    /// The same kernels with another host time and a residual.
    ///
    /// # Errors
    /// None that pricing them the first time did not have.
    pub fn with_residual(mut self, host: HostTime, residual: Residual) -> Result<ProfiledCost> {
        self.host = host;
        // Kernels that were timed elsewhere say nothing of the clocks here.
        let matrix_slowdown = if self.profile.is_scaled { 0.0 } else { residual.matrix_slowdown };
        let residual = Residual { matrix_slowdown, ..residual };
        let is_tabulated = self.residual.matrix_slowdown == residual.matrix_slowdown;
        self.residual = residual;
        if !is_tabulated {
            for sum in
                [&mut self.tokens, &mut self.sampled, &mut self.prefill_tokens, &mut self.decode_requests]
            {
                *sum = Curve::zero();
            }
            self.group = self.group.map(|_| GroupCurves::zero());
            self.prefill_attention.clear();
            self.decode_attention.clear();
            let operators = std::mem::take(&mut self.operators);
            self.tabulate(operators)?;
        }
        Ok(self)
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
        let pricer = self.pricer(&operator.work);
        match operator.work {
            Work::PrefillAttention(kernel) => {
                let cost = self.profile.prefill(smallest)?;
                self.prefill_attention.push(Attention::new(cost, layers, &kernel));
            }
            Work::DecodeAttention(kernel) => {
                let cost = Surface::new(13, 21, move |rows, mean| {
                    pricer.seconds(Sums { rows, pairs: rows * mean, chunks: rows })
                });
                self.decode_attention.push(Attention::new(cost, layers, &kernel));
            }
            work => {
                let sum = match (rows_of(&work), &mut self.group) {
                    (Rows::Once, Some(group)) => {
                        group.once_seconds += layers * pricer.seconds(Sums::rows(1.0));
                        return Ok(());
                    }
                    (Rows::GroupTokens, Some(group)) => &mut group.all_tokens,
                    (Rows::LargestRank, Some(group)) => &mut group.largest_rank,
                    (Rows::Sampled, _) => &mut self.sampled,
                    (Rows::PrefillTokens, _) => &mut self.prefill_tokens,
                    (Rows::DecodeRequests, _) => &mut self.decode_requests,
                    // The tokens of one rank are those of all.
                    (Rows::Tokens | Rows::GroupTokens | Rows::LargestRank | Rows::Once, _) => {
                        &mut self.tokens
                    }
                };
                sum.add(layers, move |rows| pricer.seconds(Sums::rows(rows)));
            }
        }
        Ok(())
    }

    /// Time of one call. The engine takes the faster of its own all-reduce and NCCL.
    pub fn estimate(&self, operation: &Operation) -> Result<Estimate> {
        estimate_by(&self.profile, None, operation)
    }

    fn pricer(&self, work: &Work) -> Pricer {
        Pricer {
            work: *work,
            fit: self.fit_of(work).cloned(),
            profile: Arc::clone(&self.profile),
            context: self.context.clone(),
            matrix_slowdown: self.residual.matrix_slowdown,
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
        estimate_by(&self.profile, fit, operation)
    }

    /// Time of a call in an engine that serves, of which kernels timed alone take `seconds`, before what all calls of a
    /// step are scaled by.
    pub(super) fn serving_seconds(&self, operation: &Operation, seconds: f64) -> f64 {
        serving_seconds(&self.profile, self.residual.matrix_slowdown, operation, seconds)
    }

    /// The deployment that its calls are made for.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// GPU time of a step, in seconds.
    pub fn gpu_seconds(&self, shape: &StepShape) -> f64 {
        let padded = self.padded(shape);
        let mut seconds = self.tokens.seconds(padded.tokens)
            + self.sampled.seconds(shape.sampled_positions())
            + self.prefill_tokens.seconds(shape.prefill_tokens)
            + self.decode_requests.seconds(shape.decode_tokens());
        if let Some(group) = &self.group {
            seconds += group.seconds(padded);
        }
        if shape.prefill_tokens > 0 {
            for attention in &self.prefill_attention {
                let Sums { rows, pairs, chunks } = Sums::prefill(shape, attention.window_tokens);
                let ideal_seconds =
                    pairs * attention.flops_per_pair / self.profile.gpu.bfloat16_flops_per_second;
                let once = attention.cost.seconds(rows, pairs, chunks);
                seconds += attention.layers * (once + self.residual.matrix_slowdown * ideal_seconds);
            }
        }
        if shape.decode_requests > 0 {
            for attention in &self.decode_attention {
                let Sums { rows, pairs, .. } = Sums::decode(shape, attention.window_tokens);
                let mut once = attention.cost.at(rows, pairs / rows);
                if shape.draft_tokens > 0 {
                    once = once.max(self.verification_seconds(shape, attention, pairs));
                }
                seconds += attention.layers * once;
            }
        }
        (seconds * self.kernel_scale(shape)).max(self.least_seconds(shape, padded))
    }

    /// The time that launching the kernels takes at least, where no graph does it; negative where one does.
    fn least_seconds(&self, shape: &StepShape, padded: PaddedRows) -> f64 {
        match self.residual.prefill_launch_ns {
            Some(ns) if shape.prefill_tokens > 0 => self.launches * ns as f64 * 1e-9,
            _ if padded.from_graph => f64::NEG_INFINITY,
            _ => self.launches * LAUNCH_SECONDS,
        }
    }

    /// With a graph every rank is padded to the captured size of the largest; one that is too large for a graph keeps
    /// all from theirs (V-47).
    fn padded(&self, shape: &StepShape) -> PaddedRows {
        let own = shape.new_tokens();
        let ranks = u64::from(self.context.layout.parallel.data);
        let (largest, group) = match shape.group_tokens {
            // A step by itself stands for ranks that all do the same.
            0 => (own, own * ranks),
            all => (shape.group_largest_tokens, all),
        };
        match self.graphs.size_for(shape, largest) {
            Some(size) => PaddedRows { tokens: size, group: size * ranks, largest: size, from_graph: true },
            None => PaddedRows { tokens: own, group, largest, from_graph: false },
        }
    }

    /// Least time of one layer's attention of decoding requests that verify drafts: the cache is read once, as without
    /// drafts, but each draft token is a query more. Nobody measured such calls for the profiles: assumed is the 16-bit
    /// rate with the data sheet model's efficiency.
    fn verification_seconds(&self, shape: &StepShape, attention: &Attention<Surface>, pairs: f64) -> f64 {
        let drafts = windowed(shape.draft_attention_pairs, shape.draft_tokens, attention.window_tokens);
        let flops = (pairs + drafts) * attention.flops_per_pair;
        flops / (self.profile.gpu.bfloat16_flops_per_second * COMPUTE_EFFICIENCY)
    }

    /// The calls of the profile's kernels that make up a step, each with its operator, which says how often it runs;
    /// calls of nothing are left out.
    pub fn calls(&self, shape: &StepShape) -> Result<Vec<(&Operator, Operation)>> {
        let calls = self.numbered_calls(shape)?;
        Ok(calls.into_iter().map(|(number, _, operation)| (&self.operators[number], operation)).collect())
    }

    /// The same, each with the number of its operator, and with its rows where the call depends on nothing else of the step.
    pub(super) fn numbered_calls(&self, shape: &StepShape) -> Result<Vec<(usize, Option<f64>, Operation)>> {
        let padded = self.padded(shape);
        let mut calls = Vec::with_capacity(self.operators.len());
        for (number, operator) in self.operators.iter().enumerate() {
            let sums = match operator.work {
                Work::PrefillAttention(kernel) => Sums::prefill(shape, kernel.window_tokens),
                Work::DecodeAttention(kernel) => Sums::decode(shape, kernel.window_tokens),
                work => Sums::rows(match rows_of(&work) {
                    Rows::Tokens => padded.tokens,
                    Rows::Sampled => shape.sampled_positions(),
                    Rows::PrefillTokens => shape.prefill_tokens,
                    Rows::DecodeRequests => shape.decode_tokens(),
                    Rows::GroupTokens => padded.group,
                    Rows::LargestRank => padded.largest,
                    Rows::Once => 1,
                } as f64),
            };
            if sums.rows > 0.0 {
                let is_attention =
                    matches!(operator.work, Work::PrefillAttention(_) | Work::DecodeAttention(_));
                let rows = (!is_attention).then_some(sums.rows);
                calls.push((number, rows, self.call(&operator.work, sums)?));
            }
        }
        Ok(calls)
    }

    /// The model's operators.
    pub(super) fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// What the times of this model's operators rest on, in a line. Where some were measured here and others not, all but
    /// the larger part are named.
    pub fn basis(&self) -> String {
        let mut kinds: Vec<(String, Vec<&str>)> = Vec::new();
        for operator in &self.operators {
            let Ok(smallest) = self.call(&operator.work, Sums::rows(1.0)) else { continue };
            let Ok(fit) = self.profile.fit(&smallest) else { continue };
            let kind = match &fit.provenance {
                Provenance::Measured => MEASURED_HERE.to_string(),
                Provenance::Imported(source) => {
                    format!("imported from {}", source.split([':', '(']).next().unwrap_or(source).trim())
                }
                Provenance::Datasheet => "from the data sheet".to_string(),
                Provenance::Assumed(reason) => format!("assumed ({reason})"),
            };
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, names)) if names.contains(&operator.name) => {}
                Some((_, names)) => names.push(operator.name),
                None => kinds.push((kind, vec![operator.name])),
            }
        }
        let is_own = kinds.iter().any(|(kind, _)| kind == MEASURED_HERE);
        let most = kinds.iter().map(|(_, names)| names.len()).max().unwrap_or(0);
        let texts: Vec<String> = kinds
            .into_iter()
            .map(|(kind, names)| match is_own && names.len() < most {
                true => format!("{kind} for {}", names.join(", ")),
                false => kind,
            })
            .collect();
        let separator = if is_own { "; " } else { ", " };
        let stand_in = match self.context.kv {
            KvDtype::Fp8DsMla | KvDtype::Fp8PerTokenHead => {
                format!(", attention over fp8 standing in for {}", self.context.kv.name())
            }
            _ => String::new(),
        };
        format!("profile {}, kernels {}{stand_in}", self.profile.name, texts.join(separator))
    }

    /// The profile behind it.
    pub fn profile(&self) -> &Arc<CostProfile> {
        &self.profile
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
    fn decode_run(&self, first: &StepShape, wanted: usize, each: &mut dyn FnMut(&[SimDuration]) -> usize) {
        let padded = self.padded(first);
        let mut fixed = self.tokens.seconds(padded.tokens)
            + self.sampled.seconds(first.sampled_positions())
            + self.prefill_tokens.seconds(first.prefill_tokens)
            + self.decode_requests.seconds(first.decode_tokens());
        if let Some(group) = &self.group {
            fixed += group.seconds(padded);
        }
        let (scale, least) = (self.kernel_scale(first), self.least_seconds(first, padded));
        let rows = first.decode_requests as f64;
        let mut lines: [Option<(&Attention<Surface>, SurfaceRow<'_>)>; MOST_LINES] =
            [const { None }; MOST_LINES];
        for (line, attention) in lines.iter_mut().zip(&self.decode_attention) {
            *line = Some((attention, attention.cost.along(rows)));
        }
        let others = self.decode_attention.get(MOST_LINES..).unwrap_or(&[]);
        price_run(first, wanted, each, |mut context, times| {
            for time in times {
                let mut seconds = fixed;
                for (attention, line) in lines.iter_mut().flatten() {
                    let pairs = windowed(context, first.decode_requests, attention.window_tokens);
                    seconds += attention.layers * line.at(pairs / rows);
                }
                for attention in others {
                    let pairs = windowed(context, first.decode_requests, attention.window_tokens);
                    seconds += attention.layers * attention.cost.at(rows, pairs / rows);
                }
                *time = SimDuration(SimDuration::from_seconds((seconds * scale).max(least)).0.max(1));
                context += first.decode_requests;
            }
        });
    }
}

/// Kinds of decode attention whose place in the table is looked up once per run.
const MOST_LINES: usize = 4;
