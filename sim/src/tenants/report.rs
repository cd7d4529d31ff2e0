//! What a run says of each tenant, and how evenly they were served.

use super::{Tenant, TenantTotals, Tenants};
use crate::metrics::{self, Distribution};
use crate::report::Goodput;
use crate::request::{Outcome, RequestId, RequestTable};
use crate::simulation::RunResult;
use serde::Serialize;

/// A tenant's requests by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TenantRequests {
    /// All that arrived.
    pub arrived: u64,
    /// Finished with all their tokens.
    pub finished: u64,
    /// Too long for the tenant, its limits or the engine.
    pub rejected: u64,
    /// Turned away because of a rate, budget or quota, or by the router.
    pub throttled: u64,
    /// Admitted with quota that was borrowed.
    pub borrowed: u64,
}

/// One tenant. Every time is in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantReport {
    /// Its name.
    pub name: String,
    /// Its requests.
    pub requests: TenantRequests,
    /// Prompt tokens of the finished ones.
    pub prompt_tokens: u64,
    /// Tokens that they generated.
    pub output_tokens: u64,
    /// Generated tokens per second, over the span of the whole run.
    pub output_tokens_per_s: f64,
    /// Time to first token.
    pub ttft_ms: Option<Distribution>,
    /// The largest gap between two tokens of each request with more than one.
    pub max_itl_ms: Option<Distribution>,
    /// Mean time per output token after the first.
    pub tpot_ms: Option<Distribution>,
    /// Time to last token.
    pub e2el_ms: Option<Distribution>,
    /// Time at the gate, of the finished ones.
    pub gate_ms: Option<Distribution>,
    /// With an SLO: the requests that met it.
    pub goodput: Option<Goodput>,
    /// Most past the gate at once.
    pub running_max: u32,
    /// Most that waited at the gate at once.
    pub queue_max: u32,
}

/// All tenants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantsReport {
    /// Jain's index of the tokens (prompt and output, of finished requests) per weight, over the tenants that sent
    /// anything: 1 when all got the same, 1/n when one got everything.
    pub fairness: f64,
    /// In the scenario's order.
    pub members: Vec<TenantReport>,
}

impl TenantsReport {
    /// Of a run with these tenants.
    pub fn new(tenants: &Tenants, totals: &[TenantTotals], run: &RunResult) -> TenantsReport {
        let table = &run.table;
        let span_ns = metrics::span(table).map_or(0, |(first, last)| (last - first).0);
        let mut finished: Vec<Vec<RequestId>> = vec![Vec::new(); tenants.members.len()];
        for id in metrics::finished(table) {
            finished[usize::from(table.tenant[id.index()])].push(id);
        }
        let members: Vec<TenantReport> = tenants
            .members
            .iter()
            .zip(totals)
            .zip(&finished)
            .map(|((tenant, totals), finished)| TenantReport::new(tenant, totals, table, finished, span_ns))
            .collect();
        let service = members.iter().zip(&tenants.members).filter(|(report, _)| report.requests.arrived > 0);
        let service = service.map(|(report, tenant)| {
            (report.prompt_tokens + report.output_tokens) as f64 * 1_000.0 / tenant.weight_milli.max(1) as f64
        });
        TenantsReport { fairness: jain(&service.collect::<Vec<_>>()), members }
    }

    /// Good requests of all tenants, each by its own SLO; none when no tenant has one.
    pub fn goodput(&self) -> Option<Goodput> {
        let parts: Vec<(&Goodput, u64)> =
            self.members.iter().filter_map(|m| Some((m.goodput.as_ref()?, m.requests.arrived))).collect();
        let arrived: u64 = parts.iter().map(|part| part.1).sum();
        (!parts.is_empty()).then(|| Goodput {
            requests_per_s: parts.iter().map(|part| part.0.requests_per_s).sum(),
            share: parts.iter().map(|part| part.0.share * part.1 as f64).sum::<f64>() / arrived.max(1) as f64,
        })
    }
}

/// Jain's fairness index (R. Jain et al., DEC-TR-301, 1984); 1 of nothing.
fn jain(values: &[f64]) -> f64 {
    let (sum, squares) = (values.iter().sum::<f64>(), values.iter().map(|x| x * x).sum::<f64>());
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 1.0 }
}

impl TenantReport {
    fn new(
        tenant: &Tenant,
        totals: &TenantTotals,
        table: &RequestTable,
        finished: &[RequestId],
        span_ns: u64,
    ) -> TenantReport {
        let per_second = |amount: u64| if span_ns == 0 { 0.0 } else { amount as f64 * 1e9 / span_ns as f64 };
        let of = |f: &dyn Fn(RequestId) -> Option<u64>| {
            Distribution::of_values(finished.iter().filter_map(|&id| f(id)).collect())
        };
        let sum = |column: &[u32]| finished.iter().map(|id| u64::from(column[id.index()])).sum::<u64>();
        let good = finished.iter().filter(|&&id| tenant.limits.met_by(table, id)).count() as u64;
        let output_tokens = sum(&table.generated_tokens);
        TenantReport {
            name: tenant.name.clone(),
            requests: TenantRequests {
                arrived: totals.arrived,
                finished: finished.len() as u64,
                rejected: totals.rejected,
                throttled: totals.throttled,
                borrowed: totals.borrowed,
            },
            prompt_tokens: sum(&table.prompt_tokens),
            output_tokens,
            output_tokens_per_s: per_second(output_tokens),
            ttft_ms: of(&|id| Some(metrics::ttft_ns(table, id))),
            max_itl_ms: of(&|id| {
                (table.generated_tokens[id.index()] > 1).then(|| table.max_gap_ns[id.index()])
            }),
            tpot_ms: of(&|id| metrics::tpot_ns(table, id)),
            e2el_ms: of(&|id| Some(metrics::e2el_ns(table, id))),
            gate_ms: of(&|id| Some((table.admitted[id.index()] - table.arrival[id.index()]).0)),
            goodput: (!tenant.limits.is_empty()).then(|| Goodput {
                requests_per_s: per_second(good),
                share: good as f64 / totals.arrived.max(1) as f64,
            }),
            running_max: totals.running_max,
            queue_max: totals.queue_max,
        }
    }
}

/// Checks that the gate and the rows tell the same of every tenant.
pub(crate) fn check_rows(totals: &[TenantTotals], table: &RequestTable) -> Result<(), String> {
    let mut counted = vec![[0u64; 4]; totals.len()];
    for id in table.ids() {
        let tenant = usize::from(table.tenant[id.index()]);
        let column = match table.outcome[id.index()] {
            Outcome::Unfinished => 0,
            Outcome::Finished => 1,
            Outcome::Rejected => 2,
            Outcome::Throttled => 3,
        };
        counted[tenant][column] += 1;
    }
    for (tenant, (totals, found)) in totals.iter().zip(counted).enumerate() {
        if found != [0, totals.admitted, totals.rejected, totals.throttled] {
            return Err(format!("tenants: of tenant {tenant} rows say {found:?}, the gate {totals:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn jain_is_one_when_equal_and_one_over_n_when_one_has_all() {
        assert_eq!((super::jain(&[3.0, 3.0, 3.0]), super::jain(&[5.0, 0.0, 0.0, 0.0])), (1.0, 0.25));
        assert_eq!(super::jain(&[]), 1.0);
    }
}
