//! The gate before the router: a queue per tenant, and who passes when.

use super::Tenants;
use super::bucket::Buckets;
use super::quota::{Amounts, QuotaTree};
use crate::request::RequestId;
use crate::units::SimTime;
use crate::workload::Arrival;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A request at the gate.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub id: RequestId,
    pub arrival: Arrival,
    /// As the engine will cut it.
    pub output_tokens: u32,
}

impl Held {
    /// Its prompt and output tokens.
    pub fn tokens(&self) -> u64 {
        u64::from(self.arrival.prompt_tokens) + u64::from(self.output_tokens)
    }
}

/// What a request of so many tokens takes.
fn amounts(tokens: u64) -> Amounts {
    [1, i64::try_from(tokens).unwrap_or(i64::MAX / 4)]
}

/// Order within a tenant's queue: priority, then age.
type Rank = (i32, u64);

/// What a tenant's requests came to at the gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantTotals {
    /// All that came.
    pub arrived: u64,
    /// Let through to the router.
    pub admitted: u64,
    /// Of those, with quota that was borrowed.
    pub borrowed: u64,
    /// Turned away because they could never pass, or never run.
    pub rejected: u64,
    /// Turned away because of a rate, budget or quota, or by the router.
    pub throttled: u64,
    /// Most past the gate at once.
    pub running_max: u32,
    /// Most that waited at once.
    pub queue_max: u32,
    /// Past the gate at the end: none.
    pub running: u32,
}

/// The gate of a run.
#[derive(Debug)]
pub(crate) struct Gate {
    tenants: Arc<Tenants>,
    quotas: QuotaTree,
    queues: Vec<BTreeMap<Rank, Held>>,
    buckets: Vec<Option<Buckets>>,
    totals: Vec<TenantTotals>,
    /// Requests that came at this instant.
    fresh: Vec<(usize, Rank)>,
    made: u64,
    /// Whether something happened since the last release.
    is_changed: bool,
    next_at: SimTime,
}

impl Gate {
    /// With nothing at it.
    pub fn new(tenants: Arc<Tenants>) -> Gate {
        let count = tenants.members.len();
        Gate {
            quotas: tenants.quotas.clone(),
            queues: vec![BTreeMap::new(); count],
            buckets: tenants.members.iter().map(|tenant| tenant.rate.as_ref().map(Buckets::new)).collect(),
            totals: vec![TenantTotals::default(); count],
            tenants,
            fresh: Vec::new(),
            made: 0,
            is_changed: false,
            next_at: SimTime::NEVER,
        }
    }

    fn index(&self, tenant: u16) -> usize {
        usize::from(tenant).min(self.queues.len() - 1)
    }

    /// The priority of a request: its tenant's, if that has one.
    pub fn priority(&self, arrival: &Arrival) -> i32 {
        self.tenants.members[self.index(arrival.tenant)].priority.unwrap_or(arrival.priority)
    }

    /// A request comes that the engines refuse.
    pub fn refused(&mut self, tenant: u16) {
        let index = self.index(tenant);
        self.totals[index].arrived += 1;
        self.totals[index].rejected += 1;
    }

    /// A request comes; false when it can never pass. Whether it passes now, the next release tells.
    pub fn offer(&mut self, held: Held) -> bool {
        let index = self.index(held.arrival.tenant);
        let tenant = &self.tenants.members[index];
        self.totals[index].arrived += 1;
        let asked = u64::from(held.arrival.prompt_tokens) + u64::from(held.arrival.output_tokens);
        let tokens = held.tokens();
        let can_pass = tenant.max_context.is_none_or(|most| asked <= u64::from(most))
            && self.quotas.could_fit(index, amounts(tokens))
            && self.buckets[index].as_ref().is_none_or(|buckets| buckets.hold_ever(tokens));
        if !can_pass {
            self.totals[index].rejected += 1;
            return false;
        }
        let rank = (self.priority(&held.arrival), self.made);
        self.made += 1;
        self.fresh.push((index, rank));
        self.queues[index].insert(rank, held);
        self.is_changed = true;
        true
    }

    /// A request of so many tokens that had passed has finished.
    pub fn finish(&mut self, tenant: u16, tokens: u64) {
        let index = self.index(tenant);
        self.totals[index].running -= 1;
        self.quotas.remove(index, amounts(tokens));
        self.is_changed = true;
    }

    /// A request of so many tokens that had passed was turned away by the router.
    pub fn shed(&mut self, tenant: u16, tokens: u64) {
        let index = self.index(tenant);
        self.finish(tenant, tokens);
        self.totals[index].admitted -= 1;
        self.totals[index].throttled += 1;
    }

    /// When the gate opens by itself, by the filling of a bucket.
    pub fn next_at(&self) -> SimTime {
        self.next_at
    }

    /// Lets pass who may at `now`, in order, and turns away those that came now and may neither pass nor wait.
    pub fn release(&mut self, now: SimTime, admitted: &mut Vec<Held>, throttled: &mut Vec<Held>) {
        if !self.is_changed && self.next_at > now {
            return;
        }
        self.is_changed = false;
        while self.run_cycle(now, admitted) {}
        self.turn_away(throttled);
        self.next_at = SimTime::NEVER;
        for index in 0..self.queues.len() {
            self.totals[index].queue_max = self.totals[index].queue_max.max(self.queues[index].len() as u32);
            let ready = self.head_ready_at(index, now);
            if let Some(ready) = ready.filter(|ready| *ready > now) {
                self.next_at = self.next_at.min(ready);
            }
        }
    }

    /// When the buckets let the head of a queue pass; none of an empty queue.
    fn head_ready_at(&mut self, index: usize, now: SimTime) -> Option<SimTime> {
        let tokens = self.queues[index].first_key_value()?.1.tokens();
        Some(self.buckets[index].as_mut().map_or(now, |buckets| buckets.ready_at(now, tokens)))
    }

    /// One cycle over the heads of all queues: without borrowing first, then by priority, then by age; or by
    /// dominant resource share. Each admission counts before the next is looked at. Tells whether any passed.
    fn run_cycle(&mut self, now: SimTime, admitted: &mut Vec<Held>) -> bool {
        let mut heads: Vec<usize> =
            (0..self.queues.len()).filter(|&index| self.may_pass(index, now)).collect();
        let any = !heads.is_empty();
        if !self.tenants.fair_sharing {
            heads.sort_by_key(|&index| (self.head_borrows(index), self.head_rank(index)));
        }
        while !heads.is_empty() {
            let position = if self.tenants.fair_sharing {
                let key = |&(_, index): &(usize, &usize)| (self.head_share(*index), self.head_rank(*index));
                heads.iter().enumerate().min_by_key(key).map_or(0, |(position, _)| position)
            } else {
                0
            };
            let index = heads.remove(position);
            if self.may_pass(index, now) {
                self.admit(index, admitted);
            }
        }
        any
    }

    fn may_pass(&mut self, index: usize, now: SimTime) -> bool {
        let Some((_, head)) = self.queues[index].first_key_value() else { return false };
        let within_budget =
            self.tenants.members[index].max_concurrency.is_none_or(|most| self.totals[index].running < most);
        within_budget
            && self.quotas.fits(index, amounts(head.tokens()))
            && self.head_ready_at(index, now) == Some(now)
    }

    fn head_rank(&self, index: usize) -> Option<Rank> {
        self.queues[index].first_key_value().map(|(rank, _)| *rank)
    }

    fn head_amounts(&self, index: usize) -> Amounts {
        self.queues[index].first_key_value().map_or([0, 0], |(_, head)| amounts(head.tokens()))
    }

    fn head_borrows(&self, index: usize) -> bool {
        self.quotas.borrows(index, self.head_amounts(index))
    }

    fn head_share(&self, index: usize) -> u128 {
        self.quotas.dominant_share(index, self.head_amounts(index), self.tenants.members[index].weight_milli)
    }

    fn admit(&mut self, index: usize, admitted: &mut Vec<Held>) {
        let Some((_, held)) = self.queues[index].pop_first() else { return };
        let wanted = amounts(held.tokens());
        let totals = &mut self.totals[index];
        totals.admitted += 1;
        totals.borrowed += u64::from(self.quotas.borrows(index, wanted));
        totals.running += 1;
        totals.running_max = totals.running_max.max(totals.running);
        self.quotas.add(index, wanted);
        if let Some(buckets) = &mut self.buckets[index] {
            buckets.take(held.tokens());
        }
        admitted.push(held);
    }

    /// Those that came at this instant, the last first, while their tenant's queue is too long.
    fn turn_away(&mut self, throttled: &mut Vec<Held>) {
        while let Some((index, rank)) = self.fresh.pop() {
            let most = self.tenants.members[index].queue_max;
            let is_too_long = most.is_some_and(|most| self.queues[index].len() > most as usize);
            if is_too_long && let Some(held) = self.queues[index].remove(&rank) {
                self.totals[index].throttled += 1;
                throttled.push(held);
            }
        }
    }

    /// What was counted, by tenant; or what is left behind, which must be nothing.
    pub fn into_totals(self) -> Result<Vec<TenantTotals>, String> {
        if !self.quotas.is_unused() || !self.queues.iter().all(BTreeMap::is_empty) {
            return Err("tenants: quota is in use, or requests wait at the gate, at the end".into());
        }
        for (index, (totals, tenant)) in self.totals.iter().zip(&self.tenants.members).enumerate() {
            totals.check(index, tenant.max_concurrency)?;
        }
        Ok(self.totals)
    }
}

impl TenantTotals {
    /// Checks that everything that came has left.
    pub(crate) fn check(&self, tenant: usize, budget: Option<u32>) -> Result<(), String> {
        if self.arrived != self.admitted + self.rejected + self.throttled || self.running != 0 {
            return Err(format!("tenants: of tenant {tenant} not all that arrived has left: {self:?}"));
        }
        if budget.is_some_and(|most| self.running_max > most) {
            return Err(format!("tenants: tenant {tenant} ran {} at once", self.running_max));
        }
        Ok(())
    }
}
