//! How the GPUs of a deployment share a model with experts: degrees of parallelism, how tokens reach the experts, where
//! these are and how much each is used.

use super::file::ScenarioFile;
use super::histogram;
use crate::cost::operators::{Layout, TokenExchange};
use crate::cost::{ExpertDrift, ExpertGroup, ExpertLoad, Placement, Popularity};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::memory::Parallelism;
use crate::model::{FeedForward, MixtureOfExperts, ModelSpec};
use crate::profile::Routing;
use crate::units::{SimDuration, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// How much used the experts of a layer are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum ExpertRouting {
    /// Every expert gets the same share of every step.
    #[serde(rename = "balanced")]
    Balanced,
    /// Every token picks its experts at random, all with the same chance.
    #[serde(rename = "uniform")]
    Uniform,
    /// Popularity falls with the rank to this power, 0 to 4; which expert has which rank is drawn for each layer.
    #[serde(rename = "zipf")]
    Zipf(f64),
    /// Counted tokens of each expert: a .csv file with a line for each layer that has experts and a column for each
    /// expert, or a .yaml file with a list of such lists.
    #[serde(rename = "histogram")]
    Histogram(String),
    /// Kernels as they were timed with popularity falling with the rank to the power 1.01; needs a profile.
    #[serde(rename = "power_law_1.01")]
    PowerLaw101,
    /// Kernels as they were timed with popularity falling with the rank to the power 1.2; needs a profile.
    #[serde(rename = "power_law_1.2")]
    PowerLaw120,
}

/// How the popularity of experts changes: an epoch after the other, a share of each layer's experts passes its popularity
/// on among each other, while the experts stay on the GPUs where the popularity of the start put them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpertDriftSection {
    /// Simulated time that an epoch takes.
    pub every: Span,
    /// Share of a layer's experts, 0 to 1, drawn anew for each epoch.
    pub share: f64,
    /// Epochs, 2 to 64; the last one goes on (16).
    #[serde(default = "epochs")]
    pub epochs: u32,
    /// With enable_eplb: after how many epochs experts are placed anew, by the popularity of the epoch before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance_every: Option<u32>,
}

fn epochs() -> u32 {
    16
}

/// How the data-parallel ranks of a model with experts exchange tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum All2AllBackend {
    /// Every rank gets all tokens; outputs are summed on the way back.
    AllgatherReducescatter,
    /// DeepEP's kernels for small batches.
    DeepepLowLatency,
    /// DeepEP's kernels for large batches.
    DeepepHighThroughput,
}

/// Which GPU holds which experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpertPlacement {
    /// Neighbouring experts together.
    Linear,
    /// In turn.
    RoundRobin,
}

/// The layout of a scenario with what its experts' times depend on.
#[derive(Clone)]
pub(super) struct ResolvedExperts {
    pub layout: Layout,
    /// Under which routing the kernels were measured.
    pub routing: Routing,
    /// The busiest GPU's load, unless the kernels themselves were measured under it.
    pub load: Option<Arc<ExpertLoad>>,
    /// The same in later epochs, where popularity changes.
    pub later_loads: Vec<Arc<ExpertLoad>>,
    /// Time that an epoch takes.
    pub epoch: SimDuration,
}

/// How a stage's GPUs share the weights. Copies of a model without experts share nothing (V-45).
pub(super) fn parallelism(file: &ScenarioFile, model: &ModelSpec) -> Parallelism {
    let deployment = &file.deployment;
    Parallelism {
        tensor: deployment.tensor_parallel,
        pipeline: deployment.pipeline_parallel,
        data: if model.has_experts() { deployment.data_parallel } else { 1 },
        expert: deployment.expert_parallel,
        redundant_experts: file.engine.num_redundant_experts.unwrap_or(0),
    }
}

/// Resolves everything about experts; [`check`] comes first.
pub(super) fn resolve(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    folder: &Path,
) -> Result<ResolvedExperts> {
    let parallel = parallelism(file, model);
    let exchange = match file.engine.all2all_backend {
        None | Some(All2AllBackend::AllgatherReducescatter) => TokenExchange::AllGatherReduceScatter,
        Some(All2AllBackend::DeepepLowLatency) => TokenExchange::LowLatency,
        Some(All2AllBackend::DeepepHighThroughput) => TokenExchange::HighThroughput,
    };
    let mut resolved = ResolvedExperts {
        layout: Layout { parallel, exchange },
        routing: Routing::Balanced,
        load: None,
        later_loads: Vec::new(),
        epoch: SimDuration::ZERO,
    };
    let Some((moe, layers)) = expert_layers(model) else { return Ok(resolved) };
    resolved.routing = match file.engine.expert_routing {
        Some(ExpertRouting::PowerLaw101) => Routing::PowerLaw101,
        Some(ExpertRouting::PowerLaw120) => Routing::PowerLaw120,
        _ => Routing::Balanced,
    };
    let Some(popularity) = popularity(document, file, model, (moe, layers), folder)? else {
        return Ok(resolved);
    };
    let is_eplb = file.engine.enable_eplb == Some(true);
    let group = ExpertGroup {
        experts: moe.experts,
        experts_per_token: moe.experts_per_token,
        layers,
        ranks: parallel.expert.max(1),
        redundant: parallel.redundant_experts,
        placement: match file.engine.expert_placement_strategy {
            _ if is_eplb => Placement::LoadBalanced,
            Some(ExpertPlacement::RoundRobin) => Placement::RoundRobin,
            None | Some(ExpertPlacement::Linear) => Placement::Linear,
        },
    };
    let Some(drift) = &file.engine.expert_drift else {
        resolved.load = Some(Arc::new(ExpertLoad::new(&group, &popularity, file.seed)));
        return Ok(resolved);
    };
    let drift = ExpertDrift {
        every: drift.every.into(),
        share: drift.share,
        epochs: drift.epochs,
        rebalance_every: drift.rebalance_every,
    };
    let mut loads = drift.loads(&group, &popularity, file.seed).into_iter().map(Arc::new);
    resolved.load = loads.next();
    resolved.later_loads = loads.collect();
    resolved.epoch = drift.every;
    Ok(resolved)
}

/// How often the model's experts are used; none where the kernels were measured under that, or all GPUs have the same to do.
fn popularity(
    document: &Document,
    file: &ScenarioFile,
    model: &ModelSpec,
    (moe, layers): (MixtureOfExperts, u32),
    folder: &Path,
) -> Result<Option<Popularity>> {
    let parallel = parallelism(file, model);
    Ok(Some(match &file.engine.expert_routing {
        Some(ExpertRouting::PowerLaw101 | ExpertRouting::PowerLaw120) => return Ok(None),
        None | Some(ExpertRouting::Balanced) => {
            if moe.experts.is_multiple_of(parallel.expert.max(1)) && parallel.redundant_experts == 0 {
                return Ok(None);
            }
            Popularity::Balanced
        }
        Some(ExpertRouting::Uniform) => Popularity::Uniform,
        Some(ExpertRouting::Zipf(exponent)) => {
            if !(0.0..=4.0).contains(exponent) {
                let message = format!("found {exponent}, expected 0 to 4");
                return Err(document.error("engine.expert_routing.zipf", message));
            }
            Popularity::Zipf(*exponent)
        }
        Some(ExpertRouting::Histogram(path)) => {
            let counts = histogram::read(&folder.join(path), &moe, layers, &model.name);
            let place = |e: Error| match e.place() {
                Some(_) => e,
                None => document.error("engine.expert_routing.histogram", e.message()),
            };
            Popularity::Histogram(counts.map_err(place)?)
        }
    }))
}

/// The experts of the layers that have any, and how many such layers there are.
fn expert_layers(model: &ModelSpec) -> Option<(MixtureOfExperts, u32)> {
    let mut found: Option<(MixtureOfExperts, u32)> = None;
    for (kind, count) in model.layer_groups(model.all_layers()) {
        if let FeedForward::Moe(moe) = kind.feed_forward {
            found = Some(found.map_or((moe, count), |(first, layers)| (first, layers + count)));
        }
    }
    found
}

/// Refuses settings that do not go together.
pub(super) fn check(document: &Document, file: &ScenarioFile, model: &ModelSpec) -> Result<()> {
    let parallel = parallelism(file, model);
    let engine = &file.engine;
    let at = |key: &str, message: String| Err(document.error(key, message));
    if !model.has_experts() {
        let keys = [
            ("deployment.expert_parallel", file.deployment.expert_parallel > 1),
            ("engine.expert_routing", engine.expert_routing.is_some()),
            ("engine.expert_drift", engine.expert_drift.is_some()),
            ("engine.all2all_backend", engine.all2all_backend.is_some()),
            ("engine.expert_placement_strategy", engine.expert_placement_strategy.is_some()),
            ("engine.enable_eplb", engine.enable_eplb == Some(true)),
            ("engine.num_redundant_experts", parallel.redundant_experts > 0),
        ];
        return match keys.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => at(key, format!("{} has no experts; leave it out", model.name)),
            None => Ok(()),
        };
    }
    let is_divided = parallel.expert > 1;
    if let Err(e) = parallel.check(model) {
        let key = if e.message().contains("redundant") {
            "engine.num_redundant_experts"
        } else {
            "deployment.expert_parallel"
        };
        return at(key, e.message().to_string());
    }
    let is_eplb = engine.enable_eplb == Some(true);
    let is_measured_skew =
        matches!(engine.expert_routing, Some(ExpertRouting::PowerLaw101 | ExpertRouting::PowerLaw120));
    let is_deepep = engine.all2all_backend.is_some_and(|b| b != All2AllBackend::AllgatherReducescatter);
    let complaints = [
        (
            "engine.num_redundant_experts",
            parallel.redundant_experts > 0 && !is_eplb,
            "needs engine.enable_eplb: true, which decides what is copied",
        ),
        ("engine.enable_eplb", is_eplb && !is_divided, "needs deployment.expert_parallel above 1"),
        (
            "engine.expert_placement_strategy",
            engine.expert_placement_strategy.is_some() && is_eplb,
            "leave it out with enable_eplb, which places the experts",
        ),
        (
            "engine.expert_placement_strategy",
            engine.expert_placement_strategy.is_some() && !is_divided,
            "needs deployment.expert_parallel above 1",
        ),
        (
            "engine.expert_routing",
            is_measured_skew && (is_eplb || engine.expert_placement_strategy.is_some()),
            "kernels timed under a power law come with their own placement; use zipf",
        ),
        (
            "engine.all2all_backend",
            is_deepep && (parallel.data == 1 || !is_divided || parallel.tensor > 1),
            "DeepEP needs data_parallel above 1, as many expert_parallel and tensor_parallel 1",
        ),
    ];
    if let Some((key, _, message)) = complaints.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
        return at(key, message.to_string());
    }
    check_drift(document, file, is_divided, is_eplb)
}

/// Popularity can only drift where it differs and where it matters which GPU has which experts.
fn check_drift(document: &Document, file: &ScenarioFile, is_divided: bool, is_eplb: bool) -> Result<()> {
    let Some(drift) = &file.engine.expert_drift else { return Ok(()) };
    let at = |key: &str, message: &str| Err(document.error(&format!("engine.expert_drift{key}"), message));
    if !matches!(file.engine.expert_routing, Some(ExpertRouting::Zipf(_) | ExpertRouting::Histogram(_))) {
        return at("", "needs engine.expert_routing with zipf or histogram: otherwise all experts are alike");
    }
    if !is_divided {
        return at(
            "",
            "needs deployment.expert_parallel above 1: otherwise each GPU has a slice of all experts",
        );
    }
    if drift.every.0 == 0 {
        return at(".every", "found 0s, expected a longer time");
    }
    if !(0.0..=1.0).contains(&drift.share) {
        return at(".share", &format!("found {}, expected 0 to 1", drift.share));
    }
    if !(2..=64).contains(&drift.epochs) {
        return at(".epochs", &format!("found {}, expected 2 to 64", drift.epochs));
    }
    match drift.rebalance_every {
        Some(0) => at(".rebalance_every", "found 0, expected 1 or more epochs"),
        Some(_) if !is_eplb => at(".rebalance_every", "needs engine.enable_eplb: true, which places by load"),
        _ => Ok(()),
    }
}
