//! Which cost model a scenario gets, and what it rests on.

mod profiles;

use super::experts::{self, ResolvedExperts};
use super::file::{CostSection, ScenarioFile};
use super::{Calibration, Engine, EnginePreset, SpeculativeMethod};
use crate::cost::operators::{Layout, Operator, operators};
use crate::cost::{
    Context, CostModel, CudaGraphs, DatasheetCost, DraftSchedule, DriftingCost, ExpertLoad, HostTime,
    LinearCost, PipelineCost, ProfiledCost, SpeculativeCost,
};
use crate::document::Document;
use crate::error::Result;
use crate::gpu::GpuSpec;
use crate::memory::Parallelism;
use crate::model::ModelSpec;
use crate::profile::CostProfile;
use crate::step::StepShape;
use crate::units::Span;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The cost model of a scenario with where its times come from.
#[derive(Clone)]
pub struct Pricing {
    /// Gives each step its time.
    pub model: Arc<dyn CostModel>,
    /// The measured kernels behind it, when it rests on a profile; of several epochs, in the first.
    pub profiled: Option<Arc<ProfiledCost>>,
    /// The same in later epochs.
    later_profiled: Vec<Arc<ProfiledCost>>,
    /// The same for the passes of a drafter.
    pub drafting: Option<DraftPricing>,
    /// Where the step times come from, in words.
    pub provenance: String,
    /// How unevenly experts are used, where they are; of several epochs, in the first.
    pub expert_load: Option<Arc<ExpertLoad>>,
    /// The same in later epochs.
    pub later_loads: Vec<Arc<ExpertLoad>>,
}

impl Pricing {
    /// The measured kernels behind the steps, epoch by epoch.
    pub fn profiled_by_epoch(&self) -> impl Iterator<Item = &ProfiledCost> {
        self.profiled.iter().chain(&self.later_profiled).map(|cost| &**cost)
    }

    /// The measured kernels behind a step of this epoch.
    pub fn profiled_at(&self, epoch: u32) -> Option<&ProfiledCost> {
        let later = (epoch as usize).checked_sub(1).and_then(|index| self.later_profiled.get(index));
        later.or(self.profiled.as_ref()).map(|cost| &**cost)
    }
}

/// The measured kernels behind a drafter's passes.
#[derive(Clone)]
pub struct DraftPricing {
    first: Arc<ProfiledCost>,
    later: Arc<ProfiledCost>,
    schedule: DraftSchedule,
}

impl DraftPricing {
    /// What prices the passes.
    pub fn profiles(&self) -> impl Iterator<Item = &ProfiledCost> {
        [&*self.first, &*self.later].into_iter()
    }

    /// The passes after a step, each with its shape.
    pub fn passes(&self, step: &StepShape) -> impl Iterator<Item = (&ProfiledCost, StepShape)> {
        let step = *step;
        let first = std::iter::once((&*self.first, self.schedule.first(&step)));
        let later = 1..=self.schedule.later_passes;
        first.chain(later.map(move |n| (&*self.later, self.schedule.later(&step, n))))
    }
}

/// What a cost model is made for.
pub(super) struct Target<'a> {
    pub document: &'a Document,
    pub file: &'a ScenarioFile,
    pub model: &'a ModelSpec,
    pub gpu: &'a GpuSpec,
    pub engine: &'a Engine,
    pub calibration: Option<&'a Calibration>,
    /// Where the scenario's paths start.
    pub folder: &'a Path,
}

impl Target<'_> {
    /// Makes the cost model.
    pub fn resolve(&self) -> Result<Pricing> {
        self.with_drafts(self.without_drafts()?)
    }

    /// The cost model of the target alone.
    fn without_drafts(&self) -> Result<Pricing> {
        let experts = experts::resolve(self.document, self.file, self.model, self.folder)?;
        if let CostSection::Linear { base, per_token, per_context_token, per_request, floor } =
            &self.file.cost
        {
            let ns = |span: &Option<Span>| span.map_or(0, |span| span.0);
            let cost = LinearCost {
                base_ns: base.0,
                per_token_ns: per_token.0,
                per_context_token_ns: per_context_token.0,
                per_request_ns: ns(per_request),
                floor_ns: ns(floor),
            };
            let provenance = "given: linear in the tokens of a step, as the scenario states";
            return Ok(pricing(Arc::new(cost), &experts, provenance.to_string()));
        }
        check_links(self.document, self.gpu, &experts.layout)?;
        match &self.file.cost {
            CostSection::Datasheet => self.by_datasheet(&experts),
            _ => self.by_profile(&experts),
        }
    }

    fn by_datasheet(&self, experts: &ResolvedExperts) -> Result<Pricing> {
        let in_epoch = |load: Option<Arc<ExpertLoad>>| {
            self.staged(|layers| {
                let cost = DatasheetCost::new(
                    self.operators(experts, layers),
                    self.gpu,
                    experts.layout,
                    load.clone(),
                );
                Ok(Arc::new(cost) as Arc<dyn CostModel>)
            })
        };
        let first = in_epoch(experts.load.clone())?;
        let later = experts.later_loads.iter().map(|load| in_epoch(Some(load.clone())));
        let cost = over_epochs(first, later.collect::<Result<_>>()?, experts);
        let provenance =
            "assumed: roofline of the GPU's data sheet with assumed efficiencies, no measurement";
        Ok(pricing(cost, experts, provenance.to_string()))
    }

    fn by_profile(&self, experts: &ResolvedExperts) -> Result<Pricing> {
        let profile = self.profile()?;
        let graphs = self.graphs(experts.layout.parallel.tensor);
        let in_epoch = |load: Option<Arc<ExpertLoad>>| -> Result<_> {
            let context =
                Context { layout: experts.layout, kv: self.engine.kv, routing: experts.routing, load };
            let priced = |layers| {
                let (profile, context) = (profile.clone(), context.clone());
                let operators = self.operators(experts, layers);
                let cost = ProfiledCost::new(profile, operators, context, graphs.clone(), self.engine.host)
                    .map_err(|e| {
                    let message = format!("{}; `cost: datasheet` needs no kernels", e.message());
                    self.document.error("cost", message)
                })?;
                Ok(match self.calibration {
                    Some(calibration) => cost.with_residual(self.engine.host, calibration.residual())?,
                    None => cost,
                })
            };
            let whole = Arc::new(priced(self.model.all_layers())?);
            let model: Arc<dyn CostModel> = match self.file.deployment.pipeline_parallel {
                1 => whole.clone(),
                _ => self.staged(|layers| Ok(Arc::new(priced(layers)?) as _))?,
            };
            Ok((whole, model))
        };
        let (profiled, first) = in_epoch(experts.load.clone())?;
        let later = experts.later_loads.iter().map(|load| in_epoch(Some(load.clone())));
        let (later_profiled, later) = later.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let provenance = self.basis(&profiled);
        let cost = over_epochs(first, later, experts);
        Ok(Pricing { profiled: Some(profiled), later_profiled, ..pricing(cost, experts, provenance) })
    }

    /// Adds what proposing drafts costs, if there are any, priced as the target is.
    fn with_drafts(&self, target: Pricing) -> Result<Pricing> {
        let Some(speculation) = &self.engine.speculation else { return Ok(target) };
        let (ranks, kv) = (self.file.deployment.tensor_parallel, self.engine.kv);
        let layout = Layout::tensor(ranks);
        let schedule = speculation.schedule();
        let passes =
            speculation.drafter.passes(self.model, &self.engine.weights, kv, ranks, speculation.drafts);
        let mut drafting = None;
        let mut models: Option<(Arc<dyn CostModel>, Arc<dyn CostModel>)> = None;
        match (&self.file.cost, &target.profiled, passes) {
            (CostSection::Linear { .. }, ..) | (_, _, None) => {}
            (_, Some(profiled), Some(passes)) => {
                let routing = profiled.context().routing;
                let priced = |operators| {
                    let (profile, graphs) = (Arc::clone(profiled.profile()), self.graphs(ranks));
                    let context = Context { layout, kv, routing, load: None };
                    ProfiledCost::new(profile, operators, context, graphs, HostTime::NONE)
                        .map(Arc::new)
                        .map_err(|e| self.document.error("engine.speculative_config", e.message()))
                };
                let (first, later) = (priced(passes.first)?, priced(passes.later)?);
                models = Some((first.clone(), later.clone()));
                drafting = Some(DraftPricing { first, later, schedule });
            }
            (_, None, Some(passes)) => {
                let priced = |operators| Arc::new(DatasheetCost::new(operators, self.gpu, layout, None));
                models = Some((priced(passes.first), priced(passes.later)));
            }
        }
        let is_given = matches!(self.file.cost, CostSection::Linear { .. });
        let drafts_cost = match (is_given, speculation.method) {
            (true, _) => "nothing, as linear step times say nothing of it",
            (false, SpeculativeMethod::Ngram) => "assumed host time",
            (false, _) => "priced as the model is",
        };
        let provenance = format!(
            "{}; drafting with {} {drafts_cost}; acceptance {}",
            target.provenance,
            speculation.method.name(),
            speculation.acceptance_source
        );
        let looks_up = !is_given && speculation.method == SpeculativeMethod::Ngram;
        let cost = SpeculativeCost { target: target.model.clone(), passes: models, schedule, looks_up };
        Ok(Pricing { model: Arc::new(cost), drafting, provenance, ..target })
    }

    fn operators(&self, experts: &ResolvedExperts, layers: Range<u32>) -> Vec<Operator> {
        operators(self.model, &self.engine.weights, self.engine.kv, &experts.layout, layers)
    }

    /// The batch sizes that the engine captures on so many tensor-parallel ranks.
    fn graphs(&self, ranks: u32) -> CudaGraphs {
        let s = &self.engine.scheduler;
        match self.engine.preset {
            EnginePreset::Sglang => CudaGraphs::sglang(ranks),
            EnginePreset::TrtLlm => CudaGraphs::trtllm(),
            EnginePreset::Tgi => CudaGraphs::tgi(),
            // The schedulers of the literature run on vLLM's graphs.
            _ => CudaGraphs::vllm_with_drafts(s.max_num_seqs, s.max_num_batched_tokens, s.draft_tokens),
        }
    }

    /// The profile that the scenario names, or that fits its GPU best.
    fn profile(&self) -> Result<Arc<CostProfile>> {
        let name = match &self.file.cost {
            CostSection::Profile(name) => Some(name.as_str()),
            _ => None,
        };
        profiles::find(name, self.gpu, self.engine.preset, self.folder)
            .map_err(|e| if e.place().is_some() { e } else { self.document.error("cost", e.message()) })
    }

    /// What step times from a profile rest on, in words.
    fn basis(&self, cost: &ProfiledCost) -> String {
        let host = match (&self.file.engine.host_time, self.calibration) {
            (Some(_), None) => "host time given".to_string(),
            (None, None) => "host time assumed".to_string(),
            (given, Some(calibration)) => format!(
                "kernels times {} in decode and {} in prefill, launches{} by calibration {}, fitted on {}",
                calibration.decode_scale,
                calibration.prefill_scale,
                if given.is_some() { "" } else { " and host time" },
                calibration.name,
                calibration.fitted_on
            ),
        };
        let stand_in =
            if self.engine.preset.has_own_kernels() { "" } else { ", standing in for the engine's own" };
        format!("{}{stand_in}; {host}", cost.basis())
    }

    /// One cost model for all layers, or one per pipeline stage (V-43).
    fn staged(&self, stage: impl Fn(Range<u32>) -> Result<Arc<dyn CostModel>>) -> Result<Arc<dyn CostModel>> {
        let pipeline = self.file.deployment.pipeline_parallel;
        if pipeline == 1 {
            return stage(self.model.all_layers());
        }
        let layers = Parallelism { pipeline, ..Parallelism::SINGLE }.stages(self.model.layers());
        let stages = layers.into_iter().map(stage).collect::<Result<Vec<_>>>()?;
        let carried_states = self.engine.speculation.as_ref().map_or(0, super::Speculation::carried_states);
        Ok(Arc::new(PipelineCost::new(stages, self.model.hidden_size, carried_states, self.gpu)))
    }
}

/// Step times without measured kernels behind them.
fn pricing(model: Arc<dyn CostModel>, experts: &ResolvedExperts, provenance: String) -> Pricing {
    Pricing {
        model,
        profiled: None,
        later_profiled: Vec::new(),
        drafting: None,
        provenance,
        expert_load: experts.load.clone(),
        later_loads: experts.later_loads.clone(),
    }
}

/// One cost model for all times, or one per epoch.
fn over_epochs(
    first: Arc<dyn CostModel>,
    later: Vec<Arc<dyn CostModel>>,
    experts: &ResolvedExperts,
) -> Arc<dyn CostModel> {
    if later.is_empty() {
        return first;
    }
    Arc::new(DriftingCost::new(first, later.into_iter(), experts.epoch))
}

/// The data-parallel ranks of a model with experts exchange tokens over the links between GPUs; nothing is known of
/// networks between nodes.
fn check_links(document: &Document, gpu: &GpuSpec, layout: &Layout) -> Result<()> {
    let gpus = layout.parallel.stage_gpus();
    match &gpu.interconnect.peer_links {
        Some(links) if layout.parallel.data > 1 && gpus > links.gpus => Err(document.error(
            "deployment.data_parallel",
            format!(
                "found {gpus} GPUs that share experts (tensor_parallel x data_parallel), but {} links {} of {} and no \
                 network between nodes is modelled; use at most {}",
                links.kind, links.gpus, gpu.name, links.gpus
            ),
        )),
        _ => Ok(()),
    }
}

/// The host time of an engine: the scenario's, or the preset's.
pub(super) fn host_time(file: &ScenarioFile) -> HostTime {
    match &file.engine.host_time {
        Some(given) => HostTime { base_ns: given.base.0, per_request_ns: given.per_request.0 },
        None => file.engine.preset.host_time(),
    }
}
