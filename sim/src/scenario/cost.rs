//! Which cost model a scenario gets, and what it rests on.

use super::experts::{self, ResolvedExperts};
use super::file::{CostSection, ScenarioFile};
use super::{Calibration, Engine, EnginePreset, SpeculativeMethod};
use crate::catalogue;
use crate::cost::operators::{Layout, operators};
use crate::cost::{
    Context, CostModel, CudaGraphs, DatasheetCost, DraftSchedule, DriftingCost, ExpertLoad, HostTime,
    LinearCost, PipelineCost, ProfiledCost, SpeculativeCost,
};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::memory::Parallelism;
use crate::model::ModelSpec;
use crate::profile::{CostProfile, GpuLimits};
use crate::step::StepShape;
use crate::units::Span;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Makes the cost model.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    engine: &Engine,
    calibration: Option<&Calibration>,
    folder: &Path,
) -> Result<Pricing> {
    let pricing = of_target(document, file, model, gpu, engine, calibration, folder)?;
    with_drafts(document, file, pricing, model, gpu, engine)
}

/// Adds what proposing drafts costs, if there are any, priced as the target is.
fn with_drafts(
    document: &Document,
    file: &ScenarioFile,
    target: Pricing,
    model: &ModelSpec,
    gpu: &GpuSpec,
    engine: &Engine,
) -> Result<Pricing> {
    let Some(speculation) = &engine.speculation else { return Ok(target) };
    let ranks = file.deployment.tensor_parallel;
    let layout = Layout::tensor(ranks);
    let schedule = speculation.schedule();
    let passes = speculation.drafter.passes(model, &engine.weights, engine.kv, ranks, speculation.drafts);
    let mut drafting = None;
    let mut models: Option<(Arc<dyn CostModel>, Arc<dyn CostModel>)> = None;
    match (&file.cost, &target.profiled, passes) {
        (CostSection::Linear { .. }, ..) | (_, _, None) => {}
        (_, Some(profiled), Some(passes)) => {
            let routing = profiled.context().routing;
            let priced = |operators| {
                let graphs = graphs(engine, ranks);
                let context = Context { layout, kv: engine.kv, routing, load: None };
                ProfiledCost::new(Arc::clone(profiled.profile()), operators, context, graphs, HostTime::NONE)
                    .map(Arc::new)
                    .map_err(|e| document.error("engine.speculative_config", e.message()))
            };
            let (first, later) = (priced(passes.first)?, priced(passes.later)?);
            models = Some((first.clone(), later.clone()));
            drafting = Some(DraftPricing { first, later, schedule });
        }
        (_, None, Some(passes)) => {
            let priced = |operators| Arc::new(DatasheetCost::new(operators, gpu, layout, None));
            models = Some((priced(passes.first), priced(passes.later)));
        }
    }
    let is_given = matches!(file.cost, CostSection::Linear { .. });
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

/// The batch sizes that the engine captures on so many tensor-parallel ranks.
fn graphs(engine: &Engine, ranks: u32) -> CudaGraphs {
    let s = &engine.scheduler;
    match engine.preset {
        EnginePreset::Sglang => CudaGraphs::sglang(ranks),
        EnginePreset::TrtLlm => CudaGraphs::trtllm(),
        EnginePreset::Tgi => CudaGraphs::tgi(),
        // The schedulers of the literature run on vLLM's graphs.
        _ => CudaGraphs::vllm_with_drafts(s.max_num_seqs, s.max_num_batched_tokens, s.draft_tokens),
    }
}

/// The cost model of the target alone.
fn of_target(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    engine: &Engine,
    calibration: Option<&Calibration>,
    folder: &Path,
) -> Result<Pricing> {
    let experts = experts::resolve(document, file, model, folder)?;
    if !matches!(file.cost, CostSection::Linear { .. }) {
        check_links(document, gpu, &experts.layout)?;
    }
    let pricing = |model: Arc<dyn CostModel>, provenance: &str| Pricing {
        model,
        profiled: None,
        later_profiled: Vec::new(),
        drafting: None,
        provenance: provenance.to_string(),
        expert_load: experts.load.clone(),
        later_loads: experts.later_loads.clone(),
    };
    match &file.cost {
        CostSection::Linear { base, per_token, per_context_token, per_request, floor } => {
            let ns = |span: &Option<Span>| span.map_or(0, |span| span.0);
            let cost = LinearCost {
                base_ns: base.0,
                per_token_ns: per_token.0,
                per_context_token_ns: per_context_token.0,
                per_request_ns: ns(per_request),
                floor_ns: ns(floor),
            };
            Ok(pricing(Arc::new(cost), "given: linear in the tokens of a step, as the scenario states"))
        }
        CostSection::Datasheet => {
            let in_epoch = |load: Option<Arc<ExpertLoad>>| {
                staged(file, model, gpu, engine, |layers| {
                    let operators = operators(model, &engine.weights, engine.kv, &experts.layout, layers);
                    let cost = DatasheetCost::new(operators, gpu, experts.layout, load.clone());
                    Ok(Arc::new(cost) as Arc<dyn CostModel>)
                })
            };
            let first = in_epoch(experts.load.clone())?;
            let later = experts.later_loads.iter().map(|load| in_epoch(Some(load.clone())));
            let cost = over_epochs(first, later.collect::<Result<_>>()?, &experts);
            let provenance =
                "assumed: roofline of the GPU's data sheet with assumed efficiencies, no measurement";
            Ok(pricing(cost, provenance))
        }
        CostSection::Auto | CostSection::Profile(_) => {
            let profile = profile(document, file, gpu, engine, folder)?;
            let graphs = graphs(engine, experts.layout.parallel.tensor);
            let in_epoch = |load: Option<Arc<ExpertLoad>>| -> Result<_> {
                let context =
                    Context { layout: experts.layout, kv: engine.kv, routing: experts.routing, load };
                let priced = |layers| {
                    let operators = operators(model, &engine.weights, engine.kv, &experts.layout, layers);
                    let (profile, context) = (profile.clone(), context.clone());
                    let cost = ProfiledCost::new(profile, operators, context, graphs.clone(), engine.host)
                        .map_err(|e| {
                            let message = format!("{}; `cost: datasheet` needs no kernels", e.message());
                            document.error("cost", message)
                        })?;
                    Ok(match calibration {
                        Some(calibration) => cost.with_residual(engine.host, calibration.residual())?,
                        None => cost,
                    })
                };
                let whole = Arc::new(priced(model.all_layers())?);
                let model: Arc<dyn CostModel> = match file.deployment.pipeline_parallel {
                    1 => whole.clone(),
                    _ => staged(file, model, gpu, engine, |layers| Ok(Arc::new(priced(layers)?) as _))?,
                };
                Ok((whole, model))
            };
            let (profiled, first) = in_epoch(experts.load.clone())?;
            let later = experts.later_loads.iter().map(|load| in_epoch(Some(load.clone())));
            let (later_profiled, later) = later.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let provenance = basis(file, engine, calibration, &profiled);
            let cost = over_epochs(first, later, &experts);
            Ok(Pricing { profiled: Some(profiled), later_profiled, ..pricing(cost, &provenance) })
        }
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

/// The profile that the scenario names, or that fits its GPU best.
fn profile(
    document: &Document,
    file: &ScenarioFile,
    gpu: &GpuSpec,
    engine: &Engine,
    folder: &Path,
) -> Result<Arc<CostProfile>> {
    let name = match &file.cost {
        CostSection::Profile(name) => Some(name.as_str()),
        _ => None,
    };
    find_profile(name, gpu, engine.preset, folder)
        .map_err(|e| if e.place().is_some() { e } else { document.error("cost", e.message()) })
}

/// What step times from a profile rest on, in words.
fn basis(
    file: &ScenarioFile,
    engine: &Engine,
    calibration: Option<&Calibration>,
    cost: &ProfiledCost,
) -> String {
    let host = match (&file.engine.host_time, calibration) {
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
    let stand_in = if engine.preset.has_own_kernels() { "" } else { ", standing in for the engine's own" };
    format!("{}{stand_in}; {host}", cost.basis())
}

/// One cost model for all layers, or one per pipeline stage (V-43).
fn staged(
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    engine: &Engine,
    stage: impl Fn(Range<u32>) -> Result<Arc<dyn CostModel>>,
) -> Result<Arc<dyn CostModel>> {
    let pipeline = file.deployment.pipeline_parallel;
    if pipeline == 1 {
        return stage(model.all_layers());
    }
    let layers = Parallelism { pipeline, ..Parallelism::SINGLE }.stages(model.layers());
    let stages = layers.into_iter().map(stage).collect::<Result<Vec<_>>>()?;
    let carried_states = engine.speculation.as_ref().map_or(0, super::Speculation::carried_states);
    Ok(Arc::new(PipelineCost::new(stages, model.hidden_size, carried_states, gpu)))
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

/// The profile of that name or file; without a name the one of the GPU, or the nearest one. A profile of another GPU is
/// scaled to this one.
fn find_profile(
    name: Option<&str>,
    gpu: &GpuSpec,
    preset: EnginePreset,
    folder: &Path,
) -> Result<Arc<CostProfile>> {
    let entries = catalogue::profiles();
    let named = |wanted: &str| entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(wanted));
    let limits = GpuLimits::of(gpu);
    let scaled =
        |profile: Arc<CostProfile>| Arc::new(Arc::unwrap_or_clone(profile).scaled_to(limits.clone()));
    if let Some(name) = name {
        let profile = match named(name) {
            Some(entry) => embedded(entry)?,
            None if name.ends_with(".yaml") => Arc::new(CostProfile::read(&folder.join(name))?),
            None => {
                let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
                let hint = crate::document::hint(name, &names);
                return Err(Error::new(format!(
                    "unknown profile `{name}`{hint}; see `servesim list profiles`, or give the path of a .yaml file"
                )));
            }
        };
        return Ok(if profile.gpu.is_like(&limits) { profile } else { scaled(profile) });
    }
    let engine = preset.profile_suffix();
    if let Some(entry) = named(&format!("{}-{engine}", gpu.name)) {
        return embedded(entry);
    }
    let mut nearest: Option<(f64, Arc<CostProfile>)> = None;
    for entry in entries.iter().filter(|entry| entry.name.ends_with(engine)) {
        let profile = embedded(entry)?;
        let distance = profile.gpu.distance(&limits);
        if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
            nearest = Some((distance, profile));
        }
    }
    match nearest {
        Some((_, profile)) => Ok(scaled(profile)),
        None => Err(Error::new(format!("no profile for {}; `cost: datasheet` needs none", gpu.name))),
    }
}

/// An embedded profile, parsed once per process.
fn embedded(entry: &catalogue::Entry) -> Result<Arc<CostProfile>> {
    static PARSED: Mutex<BTreeMap<&'static str, Arc<CostProfile>>> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(profile) = parsed.get(entry.name) {
        return Ok(Arc::clone(profile));
    }
    let profile = match CostProfile::parse_known(entry.text) {
        Some(profile) => profile,
        None => CostProfile::parse(entry.name, entry.text)?,
    };
    let profile = Arc::new(profile);
    parsed.insert(entry.name, Arc::clone(&profile));
    Ok(profile)
}

/// The host time of an engine: the scenario's, or the preset's.
pub(super) fn host_time(file: &ScenarioFile) -> HostTime {
    match &file.engine.host_time {
        Some(given) => HostTime { base_ns: given.base.0, per_request_ns: given.per_request.0 },
        None => file.engine.preset.host_time(),
    }
}
