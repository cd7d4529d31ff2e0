//! What the parts of a scenario must have in common.

use super::{CostSection, DeploymentSection, Engine, ScenarioFile, groups};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::router::RouterConfig;
use crate::scheduler::EngineRules;
use crate::workload::WorkloadGenerator;

pub(super) fn check_deployment(
    document: &Document,
    deployment: &DeploymentSection,
    model: &ModelSpec,
) -> Result<()> {
    let at = |key: &str, message: String| document.error(&format!("deployment.{key}"), message);
    let degrees = [
        ("replicas", deployment.replicas, groups::MOST_REPLICAS),
        ("tensor_parallel", deployment.tensor_parallel, 1024),
        ("pipeline_parallel", deployment.pipeline_parallel, 1024),
        ("data_parallel", deployment.data_parallel, 1024),
        ("expert_parallel", deployment.expert_parallel, 4096),
    ];
    for (key, value, most) in degrees {
        if !(1..=most).contains(&value) {
            return Err(at(key, format!("found {value}, expected 1 to {most}")));
        }
    }
    model
        .check_tensor_parallel(deployment.tensor_parallel)
        .map_err(|e| at("tensor_parallel", e.message().into()))?;
    if deployment.pipeline_parallel > model.layers() {
        let layers = model.layers();
        return Err(at(
            "pipeline_parallel",
            format!("found more stages than the {layers} layers of {}", model.name),
        ));
    }
    let group = deployment.tensor_parallel * deployment.data_parallel;
    if deployment.expert_parallel != 1 && deployment.expert_parallel != group {
        return Err(at(
            "expert_parallel",
            format!(
                "found {}, expected 1, or tensor_parallel x data_parallel = {group}",
                deployment.expert_parallel
            ),
        ));
    }
    Ok(())
}

/// The router finds in requests and replicas what it goes by.
pub(super) fn check_router(
    document: &Document,
    file: &ScenarioFile,
    router: &RouterConfig,
    workload: &WorkloadGenerator,
    engine: &Engine,
) -> Result<()> {
    let policy = file.router.policy.name();
    let refuse = |message: String| Err(document.error("router.policy", format!("{policy} {message}")));
    if router.needs_prefixes() && !workload.has_prefix_identity() {
        return refuse(
            "compares prompts, but this workload does not say which tokens are equal; use a trace with block \
             identities (docs/traces.md), workload.shared_prefix, workload.sessions, or another policy"
                .to_string(),
        );
    }
    if router.needs_sessions() && !workload.has_sessions() {
        return refuse(
            "keeps sessions together, but this workload has none; use a workload with sessions, or another policy"
                .to_string(),
        );
    }
    if router.kv_events_delay().is_some() && !engine.scheduler.prefix_caching {
        return refuse(
            "goes by the blocks in the replicas' caches, but engine.enable_prefix_caching is off".to_string(),
        );
    }
    if router.kv_events_delay().is_some() && engine.scheduler.rules != EngineRules::Vllm {
        return refuse(format!(
            "goes by what the replicas tell of their blocks, which only vLLM's do here, not {}",
            engine.preset.name()
        ));
    }
    Ok(())
}

/// Degrees that are understood but cannot be stepped.
pub(super) fn refuse_to_simulate(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
) -> Option<Error> {
    let deployment = &file.deployment;
    if deployment.pipeline_parallel > 1 && matches!(file.cost, CostSection::Linear { .. }) {
        let message =
            format!("found {}; linear step times say nothing of stages", deployment.pipeline_parallel);
        return Some(document.error("deployment.pipeline_parallel", message));
    }
    if deployment.data_parallel == 1 || !model.has_experts() {
        return None;
    }
    let message = format!(
        "found {}: the data-parallel ranks of a model with experts step together, one step at a time",
        deployment.data_parallel
    );
    if deployment.pipeline_parallel > 1 {
        let message = format!("{message}; use pipeline_parallel 1");
        return Some(document.error("deployment.data_parallel", message));
    }
    if file.engine.speculative_config.is_some() {
        let message = format!("{message}; speculative_config is not modelled with that");
        return Some(document.error("deployment.data_parallel", message));
    }
    None
}
