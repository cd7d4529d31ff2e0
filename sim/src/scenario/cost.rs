//! Which cost model a scenario gets, and what it rests on.

use super::file::{CostSection, ExpertRouting, ScenarioFile};
use super::{Engine, EnginePreset};
use crate::catalogue;
use crate::cost::operators::operators;
use crate::cost::{
    Context, CostModel, CudaGraphs, DatasheetCost, HostTime, LinearCost, PipelineCost, ProfiledCost,
};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::memory::Parallelism;
use crate::model::ModelSpec;
use crate::profile::{CostProfile, GpuLimits, Routing};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The cost model of a scenario with where its times come from.
#[derive(Clone)]
pub struct Pricing {
    /// Gives each step its time.
    pub model: Arc<dyn CostModel>,
    /// The measured kernels behind it, when it rests on a profile.
    pub profiled: Option<Arc<ProfiledCost>>,
    /// Where the step times come from, in words.
    pub provenance: String,
}

/// Makes the cost model.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    engine: &Engine,
    folder: &Path,
) -> Result<Pricing> {
    let ranks = file.deployment.tensor_parallel;
    match &file.cost {
        CostSection::Linear { base, per_token, per_context_token } => Ok(Pricing {
            model: Arc::new(LinearCost {
                base_ns: base.0,
                per_token_ns: per_token.0,
                per_context_token_ns: per_context_token.0,
            }),
            profiled: None,
            provenance: "given: linear in the tokens of a step, as the scenario states".to_string(),
        }),
        CostSection::Datasheet => Ok(Pricing {
            model: staged(file, model, gpu, |layers| {
                let operators = operators(model, &engine.weights, engine.kv, ranks, layers);
                Ok(Arc::new(DatasheetCost::new(operators, gpu, ranks)) as Arc<dyn CostModel>)
            })?,
            profiled: None,
            provenance: "assumed: roofline of the GPU's data sheet with assumed efficiencies, no measurement"
                .to_string(),
        }),
        CostSection::Auto | CostSection::Profile(_) => {
            let name = match &file.cost {
                CostSection::Profile(name) => Some(name.as_str()),
                _ => None,
            };
            let profile = find_profile(name, gpu, engine.preset, folder)
                .map_err(|e| if e.place().is_some() { e } else { document.error("cost", e.message()) })?;
            let context = Context { ranks, kv: engine.kv, routing: routing(file) };
            let graphs = cuda_graphs(engine, ranks);
            let priced = |layers| {
                let operators = operators(model, &engine.weights, engine.kv, ranks, layers);
                ProfiledCost::new(profile.clone(), operators, context, graphs.clone(), engine.host).map_err(
                    |e| {
                        document.error("cost", format!("{}; `cost: datasheet` needs no kernels", e.message()))
                    },
                )
            };
            let cost = Arc::new(priced(model.all_layers())?);
            let model: Arc<dyn CostModel> = match file.deployment.pipeline_parallel {
                1 => cost.clone(),
                _ => staged(file, model, gpu, |layers| Ok(Arc::new(priced(layers)?) as Arc<dyn CostModel>))?,
            };
            let host = if file.engine.host_time.is_some() { "given" } else { "assumed" };
            let stand_in =
                if engine.preset.has_own_kernels() { "" } else { ", standing in for the engine's own" };
            let provenance = format!("{}{stand_in}; host time {host}", cost.basis());
            Ok(Pricing { model, profiled: Some(cost), provenance })
        }
    }
}

/// One cost model for all layers, or one per pipeline stage (V-43).
fn staged(
    file: &ScenarioFile,
    model: &ModelSpec,
    gpu: &GpuSpec,
    stage: impl Fn(Range<u32>) -> Result<Arc<dyn CostModel>>,
) -> Result<Arc<dyn CostModel>> {
    let pipeline = file.deployment.pipeline_parallel;
    if pipeline == 1 {
        return stage(model.all_layers());
    }
    let layers = Parallelism { pipeline, ..Parallelism::SINGLE }.stages(model.layers());
    let stages = layers.into_iter().map(stage).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(PipelineCost::new(stages, model.hidden_size, gpu)))
}

/// The profile of that name or file; without a name the one of the GPU, or the nearest one scaled to it.
fn find_profile(
    name: Option<&str>,
    gpu: &GpuSpec,
    preset: EnginePreset,
    folder: &Path,
) -> Result<CostProfile> {
    let entries = catalogue::profiles();
    let named = |wanted: &str| entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(wanted));
    if let Some(name) = name {
        return match named(name) {
            Some(entry) => embedded(entry),
            None if name.ends_with(".yaml") => CostProfile::read(&folder.join(name)),
            None => {
                let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
                let hint = crate::document::hint(name, &names);
                Err(Error::new(format!(
                    "unknown profile `{name}`{hint}; see `servesim list profiles`, or give the path of a .yaml file"
                )))
            }
        };
    }
    let engine = preset.profile_suffix();
    if let Some(entry) = named(&format!("{}-{engine}", gpu.name)) {
        return embedded(entry);
    }
    let limits = GpuLimits::of(gpu);
    let mut nearest: Option<(f64, CostProfile)> = None;
    for entry in entries.iter().filter(|entry| entry.name.ends_with(engine)) {
        let profile = embedded(entry)?;
        let distance = profile.gpu.distance(&limits);
        if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
            nearest = Some((distance, profile));
        }
    }
    match nearest {
        Some((_, profile)) => Ok(profile.scaled_to(limits)),
        None => Err(Error::new(format!("no profile for {}; `cost: datasheet` needs none", gpu.name))),
    }
}

/// An embedded profile, parsed once per process: reading and checking one takes longer than many a simulation.
fn embedded(entry: &catalogue::Entry) -> Result<CostProfile> {
    static PARSED: Mutex<BTreeMap<&'static str, CostProfile>> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(profile) = parsed.get(entry.name) {
        return Ok(profile.clone());
    }
    let profile = CostProfile::parse(entry.name, entry.text)?;
    parsed.insert(entry.name, profile.clone());
    Ok(profile)
}

/// The host time of an engine: the scenario's, or the preset's.
pub(super) fn host_time(file: &ScenarioFile) -> HostTime {
    match &file.engine.host_time {
        Some(given) => HostTime { base_ns: given.base.0, per_request_ns: given.per_request.0 },
        None => file.engine.preset.host_time(),
    }
}

/// The batch sizes that the engine captures.
fn cuda_graphs(engine: &Engine, ranks: u32) -> CudaGraphs {
    match engine.preset {
        EnginePreset::Sglang => CudaGraphs::sglang(ranks),
        EnginePreset::TrtLlm => CudaGraphs::trtllm(),
        EnginePreset::Tgi => CudaGraphs::tgi(),
        // The schedulers of the literature run on vLLM's graphs, so that they differ from it in scheduling alone.
        _ => CudaGraphs::vllm(engine.scheduler.max_num_seqs, engine.scheduler.max_num_batched_tokens),
    }
}

/// How tokens spread over experts; evenly unless the scenario says otherwise.
fn routing(file: &ScenarioFile) -> Routing {
    match file.engine.expert_routing {
        None | Some(ExpertRouting::Balanced) => Routing::Balanced,
        Some(ExpertRouting::PowerLaw101) => Routing::PowerLaw101,
        Some(ExpertRouting::PowerLaw120) => Routing::PowerLaw120,
    }
}
