//! What is left out before anything is simulated.

use super::Planner;
use crate::answer::latency_name;
use crate::bounds::{Bounds, SLACK};
use crate::search::rounded;
use sim::scenario::Scenario;

impl Planner {
    /// Why the step times alone rule a deployment out, and by what factor it misses.
    pub(super) fn ruled_out(&self, bounds: &Bounds) -> Option<(String, f64)> {
        let gap_limits = self.limits.iter().filter(|l| l.key.starts_with("itl") || l.key.starts_with("tpot"));
        for limit in gap_limits {
            if bounds.gap_ms > limit.most_ms * SLACK {
                let reason = format!(
                    "a request alone takes {:.1} ms per token, {} allows {:.1} ms",
                    bounds.gap_ms,
                    latency_name(limit.key),
                    limit.most_ms
                );
                return Some((reason, bounds.gap_ms / limit.most_ms));
            }
        }
        let wanted = self.wanted_per_s.filter(|_| !self.chooses_replicas())?;
        (bounds.rate_per_s * SLACK < wanted).then(|| {
            let reason = format!(
                "at most {} requests/s with every step full, {} wanted",
                rounded(bounds.rate_per_s),
                rounded(wanted)
            );
            (reason, wanted / bounds.rate_per_s)
        })
    }

    /// Why a deployment costs too much, and by what factor.
    pub(super) fn over_budget(&self, scenario: &Scenario) -> Option<(String, f64)> {
        let goal = &self.section.goal;
        let gpus = scenario.gpus();
        if let Some(most) = goal.max_gpus.filter(|most| gpus > *most) {
            return Some((
                format!("needs {gpus} GPUs, {most} allowed"),
                f64::from(gpus) / f64::from(most.max(1)),
            ));
        }
        let (budget, usd_per_hour) = (goal.budget?, scenario.usd_per_hour()?);
        (usd_per_hour > budget.0).then(|| {
            (
                format!("costs {usd_per_hour:.2} USD/h, {:.2} allowed", budget.0),
                usd_per_hour / budget.0.max(1e-9),
            )
        })
    }
}
