//! Tenants: who may send how much. A gate before the router holds each tenant to its context cap, concurrency budget,
//! rate limit and quota; what may not pass waits there or is turned away.
//!
//! Quotas follow Kueue (rules ): a tenant is a ClusterQueue with nominal quota, a borrowing and a
//! lending limit, in a tree of cohorts. A request that runs is not taken back, so there is no preemption (Kueue's
//! default is Never), and the queues are strict: a tenant's head holds up what is behind it.

mod bucket;
mod check;
mod gate;
mod quota;
mod report;
mod spec;

pub use gate::TenantTotals;
pub(crate) use gate::{Gate, Held};
pub use quota::QuotaTree;
pub(crate) use report::check_rows;
pub use report::{TenantReport, TenantRequests, TenantsReport};
pub use spec::{
    CohortSection, QuotaAmounts, QuotaSection, RateLimitSection, TenantSection, TenantsSection, WhenLimited,
};

use crate::metrics::Limits;
use crate::units::{Rate, SimDuration};
use crate::workload::TenantShare;

/// All tenants of a scenario, checked.
#[derive(Debug, Clone)]
pub struct Tenants {
    /// In the scenario's order.
    pub members: Vec<Tenant>,
    /// Their quotas, with nothing used.
    pub quotas: QuotaTree,
    /// Whether heads are admitted by dominant resource share instead of priority and age.
    pub fair_sharing: bool,
}

/// One tenant.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// How often requests without a tenant are its own, relative to the others.
    pub share: f64,
    /// What it is entitled to, relative to the others, in thousandths.
    pub weight_milli: u64,
    /// Takes the place of its requests' priorities.
    pub priority: Option<i32>,
    /// Its SLO.
    pub limits: Limits,
    /// Most tokens of a request, prompt and output together.
    pub max_context: Option<u32>,
    /// Most requests past the gate at once.
    pub max_concurrency: Option<u32>,
    /// Its rate limit.
    pub rate: Option<RateLimit>,
    /// Most requests that wait at the gate; none is no limit.
    pub queue_max: Option<u32>,
}

/// Token buckets: rates, and the time over which they are filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests.
    pub requests: Option<Rate>,
    /// Prompt and output tokens.
    pub tokens: Option<Rate>,
    /// A full bucket holds this much time's worth.
    pub burst: SimDuration,
}

impl Tenants {
    /// As the workload knows them.
    pub fn shares(&self) -> Vec<TenantShare> {
        let share = |tenant: &Tenant| TenantShare { name: tenant.name.clone(), share: tenant.share };
        self.members.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests;
