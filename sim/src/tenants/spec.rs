//! The `tenants:` section of a scenario, as written.

use crate::scenario::SloSection;
use crate::units::{Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who sends requests, and what each may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct TenantsSection {
    /// The tenants, one or more.
    pub members: Vec<TenantSection>,
    /// Groups whose members lend each other quota; a cohort that is only named in a member has no quota of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cohorts: Vec<CohortSection>,
    /// Admits first whose use above its nominal quota is the smallest share of what its cohort lends, by weight.
    #[serde(default)]
    pub fair_sharing: bool,
}

/// One tenant. What is left out is not limited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSection {
    /// Its name.
    pub name: String,
    /// How often requests that name no tenant are its own, relative to the shares of the others.
    #[serde(default = "one")]
    pub share: f64,
    /// What it is entitled to, relative to the others: in fair sharing, and in the fairness index.
    #[serde(default = "one")]
    pub weight: f64,
    /// Takes the place of its requests' priorities; smaller is more important.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Its own limits for a good request; the scenario's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloSection>,
    /// Most tokens of a request, prompt and output together; a longer one is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
    /// Most requests in the fleet at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Token buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSection>,
    /// What it may use, and lend and borrow within its cohort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSection>,
    /// The cohort with which it shares quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<String>,
    /// What becomes of a request that may not pass yet.
    #[serde(default)]
    pub when_limited: WhenLimited,
    /// Most requests that wait; more are throttled. Without it the queue has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
}

fn one() -> f64 {
    1.0
}

/// What becomes of a request that may not pass yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum WhenLimited {
    /// It waits at the gate.
    #[default]
    Queue,
    /// It is turned away at once, as HTTP status 429 does.
    Throttle,
}

/// A rate limit: buckets that fill at a rate and hold so much time's worth; a request takes one of the requests and its
/// prompt and output tokens of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitSection {
    /// Requests per time, for example `600/min`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
    /// Prompt and output tokens per time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Rate>,
    /// How much time's worth a full bucket holds; a minute's when absent. Buckets start full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<Span>,
}

/// Quotas of what runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct QuotaSection {
    /// Requests past the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<QuotaAmounts>,
    /// Their prompt and output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<QuotaAmounts>,
}

/// A quota as Kueue has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct QuotaAmounts {
    /// Its own.
    pub nominal: u64,
    /// Most that it may borrow from its cohort; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowing_limit: Option<u64>,
    /// Most of its own that others may borrow; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lending_limit: Option<u64>,
}

/// A group of tenants, or of cohorts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CohortSection {
    /// Its name.
    pub name: String,
    /// The cohort that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Quota of its own, for its members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSection>,
}
