//! The scenario as it is typed: strict sections, units in the text, defaults left open.

mod engine;

pub use engine::{EngineSection, FrontEndSection, HostTimeSection};

use super::groups::ReplicaGroup;
use super::plan::PlanSection;
use crate::metrics::Limits;
use crate::router::RouterSection;
use crate::tenants::TenantsSection;
use crate::units::{HourlyPrice, Span};
use crate::workload::WorkloadSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A scenario: one deployment of a model under one traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// What the scenario is about, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A model of the catalogue, or the path of a Hugging Face config.json.
    pub model: String,
    /// What it runs on.
    pub hardware: HardwareSection,
    /// How many copies, and how each is spread over GPUs.
    #[serde(default)]
    pub deployment: DeploymentSection,
    /// Replicas that are not all alike, in place of `deployment.replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica_groups: Vec<ReplicaGroup>,
    /// How requests are spread over replicas.
    #[serde(default)]
    pub router: RouterSection,
    /// The serving engine and its settings.
    #[serde(default)]
    pub engine: EngineSection,
    /// The traffic.
    pub workload: WorkloadSpec,
    /// Who sends the traffic, and what each may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<TenantsSection>,
    /// Limits that a request must keep to count as good.
    #[serde(default, skip_serializing_if = "SloSection::is_empty")]
    pub slo: SloSection,
    /// Where step times come from.
    #[serde(default)]
    pub cost: CostSection,
    /// What `servesim plan` looks for; the other commands leave it aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanSection>,
    /// Seed of every random draw.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

fn default_seed() -> u64 {
    1
}

/// The GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HardwareSection {
    /// A GPU of the catalogue, or the path of a GPU file.
    pub gpu: String,
    /// What one GPU costs; without it no cost is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<HourlyPrice>,
}

/// Copies of the model and how each is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentSection {
    /// Independent engines behind a router.
    #[serde(default = "one")]
    pub replicas: u32,
    /// GPUs that share each layer.
    #[serde(default = "one")]
    pub tensor_parallel: u32,
    /// Stages that share the layers.
    #[serde(default = "one")]
    pub pipeline_parallel: u32,
    /// Copies of the attention inside a replica, each with its own requests and KV cache behind one front end. With
    /// experts they share those and step together; without, they are engines of their own.
    #[serde(default = "one")]
    pub data_parallel: u32,
    /// GPUs that share the experts: 1, or all the GPUs of the tensor and data parallel group.
    #[serde(default = "one")]
    pub expert_parallel: u32,
}

fn one() -> u32 {
    1
}

impl Default for DeploymentSection {
    fn default() -> Self {
        DeploymentSection {
            replicas: 1,
            tensor_parallel: 1,
            pipeline_parallel: 1,
            data_parallel: 1,
            expert_parallel: 1,
        }
    }
}

/// Limits per request; a request that keeps all of them counts for goodput.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct SloSection {
    /// Time to the first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Span>,
    /// Mean time per output token after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Span>,
    /// Largest gap between two tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl: Option<Span>,
    /// Time to the last token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el: Option<Span>,
}

impl From<&SloSection> for Limits {
    fn from(slo: &SloSection) -> Limits {
        Limits {
            ttft_ns: slo.ttft.map(|span| span.0),
            tpot_ns: slo.tpot.map(|span| span.0),
            itl_ns: slo.itl.map(|span| span.0),
            e2el_ns: slo.e2el.map(|span| span.0),
        }
    }
}

impl SloSection {
    fn is_empty(&self) -> bool {
        *self == SloSection::default()
    }
}

/// Where the duration of a step comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CostSection {
    /// The profile of the GPU and engine; for a GPU without one, the nearest profile scaled by the data sheets.
    #[default]
    Auto,
    /// A profile of the catalogue, or the path of a profile file.
    Profile(String),
    /// A roofline from the GPU's data sheet over the model's operators, with assumed efficiencies.
    Datasheet,
    /// Linear in the step's tokens.
    Linear {
        /// Time of every step.
        base: Span,
        /// Time per token computed.
        per_token: Span,
        /// Time per token of context, this step's tokens included.
        per_context_token: Span,
        /// Time per request in the batch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per_request: Option<Span>,
        /// Time that a step takes at least: to read the weights, however few tokens it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        floor: Option<Span>,
    },
}
