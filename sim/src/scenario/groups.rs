//! Replicas that are not all alike: groups with their own GPU, parallelism, KV cache and limits.

use super::check::check_deployment;
use super::cost::{self, Pricing};
use super::engine::{self, Engine};
use super::file::{EngineSection, ScenarioFile};
use super::{Calibration, experts, in_folder, speculation};
use crate::catalogue;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::ModelSpec;
use crate::router::GroupSize;
use crate::units::HourlyPrice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Equal replicas among others. What is left out is as in the rest of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicaGroup {
    /// Names it in reports and in `router.weights`.
    pub name: String,
    /// Engines in it.
    #[serde(default = "one")]
    pub replicas: u32,
    /// A GPU of the catalogue, or the path of a GPU file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// What one GPU costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<HourlyPrice>,
    /// GPUs that share each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<u32>,
    /// KV blocks per replica, the reserved null block included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_gpu_blocks_override: Option<u32>,
    /// Share of GPU memory that the engine may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_utilization: Option<f64>,
    /// Requests that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    /// Tokens that a step may compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// Tokens that a request may have, prompt and output together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Data type of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Data type of the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<String>,
}

fn one() -> u32 {
    1
}

impl ReplicaGroup {
    /// The scenario of this group alone.
    fn apply(&self, file: &ScenarioFile) -> ScenarioFile {
        let mut own = file.clone();
        if let Some(gpu) = &self.gpu {
            own.hardware.gpu.clone_from(gpu);
            own.hardware.price = None;
        }
        own.hardware.price = self.price.or(own.hardware.price);
        own.deployment.replicas = self.replicas;
        own.deployment.tensor_parallel = self.tensor_parallel.unwrap_or(own.deployment.tensor_parallel);
        let engine = own.engine;
        own.engine = EngineSection {
            num_gpu_blocks_override: self.num_gpu_blocks_override.or(engine.num_gpu_blocks_override),
            gpu_memory_utilization: self.gpu_memory_utilization.or(engine.gpu_memory_utilization),
            max_num_seqs: self.max_num_seqs.or(engine.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.or(engine.max_num_batched_tokens),
            max_model_len: self.max_model_len.or(engine.max_model_len),
            quantization: self.quantization.clone().or(engine.quantization.clone()),
            kv_cache_dtype: self.kv_cache_dtype.clone().or(engine.kv_cache_dtype.clone()),
            ..engine
        };
        own
    }
}

/// A group with everything found and checked; the whole deployment where replicas are all alike.
#[derive(Clone)]
pub struct Group {
    /// Its name; empty where replicas are all alike.
    pub name: String,
    /// Engines in it.
    pub replicas: u32,
    /// GPUs of each engine.
    pub gpus_per_replica: u32,
    /// The GPU.
    pub gpu: GpuSpec,
    /// The price of one GPU: the scenario's, or the catalogue's.
    pub price: Option<HourlyPrice>,
    /// The engine.
    pub engine: Engine,
    /// Where step times come from.
    pub pricing: Pricing,
}

impl Group {
    /// As the router needs to know it.
    pub fn size(&self) -> GroupSize<'_> {
        GroupSize { name: &self.name, replicas: self.replicas }
    }
}

/// Most replicas of a deployment.
pub(super) const MOST_REPLICAS: u32 = 100_000;

/// Resolves the groups; one without a name where the scenario lists none.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    folder: &Path,
) -> Result<Vec<Group>> {
    let groups = &file.replica_groups;
    if groups.is_empty() {
        return Ok(vec![resolve_one(document, file, model, folder, "")?]);
    }
    let at = |key: &str, message: String| Err(document.error(key, message));
    if file.deployment.replicas != 1 {
        return at(
            "deployment.replicas",
            "counts nothing beside replica_groups, which count their own".into(),
        );
    }
    let mut resolved = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        if group.name.is_empty() || groups[..index].iter().any(|other| other.name == group.name) {
            let message = format!("replica group {} needs a name that no other has", index + 1);
            return at("replica_groups", message);
        }
        if !(1..=MOST_REPLICAS).contains(&group.replicas) {
            let (name, found) = (&group.name, group.replicas);
            let message =
                format!("replica group `{name}`: replicas: found {found}, expected 1 to {MOST_REPLICAS}");
            return at("replica_groups", message);
        }
        let own = resolve_one(document, &group.apply(file), model, folder, &group.name).map_err(|error| {
            let message =
                format!("replica group `{}`: {}: {}", group.name, error.key_path(), error.message());
            document.error("replica_groups", message)
        })?;
        resolved.push(own);
    }
    let replicas: u64 = groups.iter().map(|group| u64::from(group.replicas)).sum();
    if replicas > u64::from(MOST_REPLICAS) {
        return at("replica_groups", format!("found {replicas} replicas in all, at most {MOST_REPLICAS}"));
    }
    Ok(resolved)
}

fn resolve_one(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    folder: &Path,
    name: &str,
) -> Result<Group> {
    let at = |key: &str, e: Error| if e.place().is_some() { e } else { document.error(key, e.message()) };
    let gpu =
        catalogue::find_gpu(&in_folder(folder, &file.hardware.gpu)).map_err(|e| at("hardware.gpu", e))?;
    check_deployment(document, &file.deployment, model)?;
    engine::check_settings(document, file)?;
    experts::check(document, file, model)?;
    let speculation = speculation::resolve(document, file, model, folder)?;
    let mut engine = engine::resolve(document, file, model, &gpu, speculation)?;
    let calibration = match &file.engine.calibration {
        Some(name) => Some(Calibration::find(name, folder).map_err(|e| at("engine.calibration", e))?),
        None => None,
    };
    if let (Some(calibration), None) = (&calibration, &file.engine.host_time) {
        engine.host = calibration.host();
    }
    if let (Some(calibration), None) = (&calibration, &file.engine.front_end) {
        engine.front_end = calibration.front_end.time();
    }
    let calibration = calibration.as_ref();
    let target = cost::Target { document, file, model, gpu: &gpu, engine: &engine, calibration, folder };
    let pricing = target.resolve()?;
    let d = &file.deployment;
    Ok(Group {
        name: name.to_string(),
        replicas: d.replicas,
        gpus_per_replica: d.tensor_parallel * d.pipeline_parallel * d.data_parallel,
        price: file.hardware.price.or(gpu.price),
        gpu,
        engine,
        pricing,
    })
}
