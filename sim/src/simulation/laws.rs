//! The laws that every run obeys: nothing is lost, nothing comes before its cause, and sums agree.

use super::RunResult;
use crate::folded::FoldedRequests;
use crate::request::{Outcome, RequestTable};
use crate::tenants::check_rows as check_tenant_rows;
use crate::units::{SimDuration, SimTime};

impl RunResult {
    /// Checks the laws that every run obeys; the text says which one broke. A broken law is a defect of the simulator.
    pub fn check_laws(&self) -> Result<(), String> {
        let (sojourn_ns, started, tokens) = match &self.folded {
            Some(folded) => check_folded(folded)?,
            None => check_rows(&self.table, self.end)?,
        };
        if sojourn_ns != self.request_ns {
            return Err(format!("Little: {sojourn_ns} request-ns in sojourns, {} counted", self.request_ns));
        }
        if self.held_blocks != 0 {
            return Err(format!("KV accounting: {} blocks are still held at the end", self.held_blocks));
        }
        if let Some(tenants) = &self.tenants {
            check_tenant_rows(tenants.as_ref().map_err(String::clone)?, &self.table)?;
        }
        let gaps = self.token_gaps.count();
        let company: u64 = self.replicas.iter().map(|totals| totals.speculation.tokens_in_company).sum();
        if gaps + started + company != tokens {
            return Err(format!(
                "conservation: {tokens} tokens, but {gaps} gaps, {started} first tokens and {company} in one step with others"
            ));
        }
        let span = SimDuration((self.end - SimTime::ZERO).0);
        let mut replicas = self.replicas.iter().zip(&self.usable_blocks);
        match replicas.position(|(r, usable_blocks)| r.busy > span || r.blocks_max > *usable_blocks) {
            Some(replica) => Err(format!(
                "replica {replica} was busy longer than the run, or held more blocks than it has"
            )),
            None => Ok(()),
        }
    }
}

/// Request-nanoseconds in the system, requests that started, and tokens; or the law that a request broke.
fn check_rows(table: &RequestTable, end: SimTime) -> Result<(u128, u64, u64), String> {
    let mut sojourn_ns: u128 = 0;
    for id in table.ids() {
        match table.outcome[id.index()] {
            Outcome::Rejected | Outcome::Throttled => {}
            Outcome::Unfinished => {
                return Err(format!("conservation: request {} neither finished nor was rejected", id.0));
            }
            Outcome::Finished => sojourn_ns += u128::from(table.check_finished(id, end)?.0),
        }
    }
    let tokens = table.generated_tokens.iter().map(|&n| u64::from(n)).sum();
    let started = table.generated_tokens.iter().filter(|&&n| n > 0).count() as u64;
    Ok((sojourn_ns, started, tokens))
}

/// The same where rows were not kept.
fn check_folded(folded: &FoldedRequests) -> Result<(u128, u64, u64), String> {
    let sums = &folded.sums;
    if let Some(law) = &folded.broken_law {
        return Err(law.clone());
    }
    if sums.arrived != sums.finished + sums.rejected {
        return Err(format!(
            "conservation: {} requests arrived, {} finished and {} were rejected",
            sums.arrived, sums.finished, sums.rejected
        ));
    }
    Ok((sums.sojourn_ns, sums.finished, sums.generated_tokens))
}
