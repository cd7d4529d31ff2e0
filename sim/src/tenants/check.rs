//! Checks of the `tenants:` section: every number, every name, and that every tenant can run something.

use super::spec::{
    CohortSection, QuotaSection, RateLimitSection, TenantSection, TenantsSection, WhenLimited,
};
use super::{QuotaTree, RateLimit, Tenant, Tenants};
use crate::error::Result;
use crate::metrics::Limits;
use crate::units::{SimDuration, Span};
use crate::workload::Locate;

/// Tenants are numbered with 16 bits.
const TENANTS_MAX: usize = 10_000;
const KEY: &str = "tenants";
const MINUTE: Span = Span(60_000_000_000);

impl Tenants {
    /// Checks the section. `slo` is the scenario's, for tenants without one; `locate` makes an error about a key.
    pub fn new(section: &TenantsSection, slo: Limits, locate: Locate) -> Result<Tenants> {
        let members = &section.members;
        if members.is_empty() || members.len() > TENANTS_MAX {
            let message = format!("found {} tenants, expected 1 to {TENANTS_MAX}", members.len());
            return Err(locate(&format!("{KEY}.members"), message));
        }
        let names = members.iter().map(|member| member.name.as_str());
        check_names(names, &format!("{KEY}.members"), locate)?;
        check_names(section.cohorts.iter().map(|c| c.name.as_str()), &format!("{KEY}.cohorts"), locate)?;
        let checked = members.iter().enumerate().map(|(index, member)| tenant(member, index, slo, locate));
        let checked = checked.collect::<Result<Vec<Tenant>>>()?;
        if members.iter().all(|member| member.share == 0.0) {
            let message = "expected at least one tenant with a share above 0";
            return Err(locate(&format!("{KEY}.members"), message.into()));
        }
        let quotas = quota_tree(section, locate)?;
        for (index, member) in members.iter().enumerate() {
            if !quotas.could_fit(index, [1, 1]) {
                let has_own = if member.quota.is_some() { ".quota" } else { "" };
                let message = format!(
                    "tenant `{}` could never run anything: its quota and what it may borrow come to 0",
                    member.name
                );
                return Err(locate(&format!("{KEY}.members.{index}{has_own}"), message));
            }
        }
        Ok(Tenants { members: checked, quotas, fair_sharing: section.fair_sharing })
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a str>, key: &str, locate: Locate) -> Result<()> {
    let names: Vec<&str> = names.collect();
    for (index, name) in names.iter().enumerate() {
        let key = format!("{key}.{index}.name");
        if name.is_empty() {
            return Err(locate(&key, "found an empty name".into()));
        }
        if names[..index].contains(name) {
            return Err(locate(&key, format!("found `{name}` twice; names differ")));
        }
    }
    Ok(())
}

fn tenant(section: &TenantSection, index: usize, slo: Limits, locate: Locate) -> Result<Tenant> {
    let at = |name: &str| format!("{KEY}.members.{index}.{name}");
    for (name, value, low) in [("share", section.share, 0.0), ("weight", section.weight, 0.001)] {
        if !(low..=1e9).contains(&value) {
            return Err(locate(&at(name), format!("found {value}, expected {low} to 1000000000")));
        }
    }
    for (name, value) in [("max_context", section.max_context), ("max_concurrency", section.max_concurrency)]
    {
        if value == Some(0) {
            let message = "found 0, with which the tenant could never run anything; expected 1 or more, or leave it out";
            return Err(locate(&at(name), message.into()));
        }
    }
    if section.when_limited == WhenLimited::Throttle && section.max_queue.is_some() {
        let message =
            "cannot go with `when_limited: throttle`, which lets nothing wait; remove one of the two";
        return Err(locate(&at("max_queue"), message.into()));
    }
    let rate =
        section.rate_limit.as_ref().map(|limit| rate_limit(limit, &at("rate_limit"), locate)).transpose()?;
    Ok(Tenant {
        name: section.name.clone(),
        share: section.share,
        weight_milli: (section.weight * 1_000.0).round() as u64,
        priority: section.priority,
        limits: section.slo.as_ref().map_or(slo, Limits::from),
        max_context: section.max_context,
        max_concurrency: section.max_concurrency,
        rate,
        queue_max: if section.when_limited == WhenLimited::Throttle { Some(0) } else { section.max_queue },
    })
}

fn rate_limit(section: &RateLimitSection, key: &str, locate: Locate) -> Result<RateLimit> {
    let burst = section.burst.unwrap_or(MINUTE);
    if section.requests.is_none() && section.tokens.is_none() {
        let message = "limits nothing; give `requests`, `tokens` or both, for example `requests: 600/min`";
        return Err(locate(key, message.into()));
    }
    for (name, rate) in [("requests", section.requests), ("tokens", section.tokens)] {
        let Some(rate) = rate else { continue };
        let key = format!("{key}.{name}");
        if !(0.001..=1e12).contains(&rate.0) {
            let message = format!("found {rate}, expected a rate of 0.001/s to 1000000000000/s");
            return Err(locate(&key, message));
        }
        if rate.0 * burst.0 as f64 / 1e9 < 1.0 {
            let message = format!("at {rate} a bucket of {burst} never holds 1; raise the rate or `burst`");
            return Err(locate(&key, message));
        }
    }
    Ok(RateLimit { requests: section.requests, tokens: section.tokens, burst: SimDuration::from(burst) })
}

/// Tenants and cohorts as a tree, cohorts that are only named included.
fn quota_tree(section: &TenantsSection, locate: Locate) -> Result<QuotaTree> {
    let tenants = section.members.len();
    let mut cohorts: Vec<CohortSection> = section.cohorts.clone();
    for member in &section.members {
        if let Some(name) = &member.cohort
            && !cohorts.iter().any(|cohort| cohort.name == *name)
        {
            cohorts.push(CohortSection { name: name.clone(), parent: None, quota: None });
        }
    }
    let find =
        |name: &str| cohorts.iter().position(|cohort| cohort.name == name).map(|index| tenants + index);
    let mut nodes: Vec<(Option<usize>, QuotaSection)> = Vec::new();
    for (index, member) in section.members.iter().enumerate() {
        let quota = member.quota.unwrap_or_default();
        check_quota(&quota, member.cohort.is_some(), &format!("{KEY}.members.{index}.quota"), locate)?;
        nodes.push((member.cohort.as_deref().and_then(find), quota));
    }
    for (index, cohort) in cohorts.iter().enumerate() {
        let parent = match &cohort.parent {
            None => None,
            Some(name) => Some(find(name).ok_or_else(|| {
                let names: Vec<&str> = cohorts.iter().map(|cohort| cohort.name.as_str()).collect();
                let message = format!("unknown cohort `{name}`; the cohorts are {}", names.join(", "));
                locate(&format!("{KEY}.cohorts.{index}.parent"), message)
            })?),
        };
        let quota = cohort.quota.unwrap_or_default();
        check_quota(&quota, parent.is_some(), &format!("{KEY}.cohorts.{index}.quota"), locate)?;
        nodes.push((parent, quota));
    }
    for (index, cohort) in cohorts.iter().enumerate() {
        // A way up that is longer than there are cohorts goes round.
        let mut node = nodes[tenants + index].0;
        for _ in 0..cohorts.len() {
            node = node.and_then(|node| nodes[node].0);
        }
        if node.is_some() {
            let message = format!("cohort `{}` is above itself", cohort.name);
            return Err(locate(&format!("{KEY}.cohorts.{index}.parent"), message));
        }
    }
    Ok(QuotaTree::new(&nodes, tenants))
}

fn check_quota(quota: &QuotaSection, has_parent: bool, key: &str, locate: Locate) -> Result<()> {
    for (name, amounts) in [("requests", quota.requests), ("tokens", quota.tokens)] {
        let limits =
            amounts.map(|a| [("borrowing_limit", a.borrowing_limit), ("lending_limit", a.lending_limit)]);
        for (limit, value) in limits.into_iter().flatten() {
            if value.is_some() && !has_parent {
                let message = "needs a cohort to lend to and borrow from; name one with `cohort` (`parent` of a cohort)";
                return Err(locate(&format!("{key}.{name}.{limit}"), message.into()));
            }
        }
    }
    Ok(())
}
