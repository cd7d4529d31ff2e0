//! Which term of a bad prediction is off, from what the run itself says: where its time goes, what it waits for, and
//! what is known of its settings.

use super::deployment::Case;
use super::predict::Prediction;
use super::runs::{EngineName, Metric};
use sim::cost::{Bound, UsageReport};
use sim::model::{Part, WeightDtype};
use sim::scheduler::EngineRules;
use sim::simulation::FrontEndTime;

/// A share of the time that counts as the main one.
const LARGE_SHARE: f64 = 0.25;
/// Predicted over measured throughput, or the inverse, from which a setting that is not stated is likelier than a term.
const BEYOND_ANY_TERM: f64 = 2.5;

/// Where the time of a case goes.
pub fn usage(case: &Case) -> Option<UsageReport> {
    let cost = &case.scenario.pricing.model;
    case.scenario.simulate_with(cost, FrontEndTime::NONE, case.workload(), &mut ()).ok()?.usage
}

/// The term that explains the error of `metric`, with its evidence.
pub fn diagnose(case: &Case, prediction: &Prediction, metric: Metric, error: f64) -> String {
    let Some(usage) = usage(case) else { return "no profile to look into".to_string() };
    let share =
        |bound: Bound| usage.by_bound.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, share)| *share);
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let weights = &case.scenario.engine.weights;
    let is_8_bit = [Part::DenseMlp, Part::Experts]
        .iter()
        .any(|part| [WeightDtype::Fp8, WeightDtype::Fp8Block].contains(&weights.dtype(*part)));
    if is_8_bit && case.scenario.gpu.compute.fp8.is_none() {
        return "kernel: this GPU has no 8-bit floating point, its engine expands the weights and multiplies in 16 bits"
            .to_string();
    }
    if case.run.tensor > 1 && case.scenario.gpu.interconnect.peer_links.is_none() {
        return "communication: these GPUs have no links of their own, and all-reduces over PCIe were not timed".to_string();
    }
    if metric == Metric::Ttft && !case.run.is_saturated() && error < 0.0 {
        return "host: launches of a prefill step, or time of a request in the front end".to_string();
    }
    if !(1.0 / BEYOND_ANY_TERM..=BEYOND_ANY_TERM).contains(&(1.0 + error)) {
        return format!(
            "unknown setting: off by more than any term explains (host {}, links {} of the predicted time)",
            percent(share(Bound::Host)),
            percent(share(Bound::Interconnect))
        );
    }
    if prediction.preemptions_per_request > 0.2 || usage.waiting_for_blocks > 2.0 * LARGE_SHARE {
        return format!(
            "memory: requests wait for KV blocks in {} of the time, so the size of the cache decides",
            percent(usage.waiting_for_blocks)
        );
    }
    if share(Bound::Interconnect) > LARGE_SHARE {
        return format!(
            "communication: {} of the predicted time is on the links",
            percent(share(Bound::Interconnect))
        );
    }
    if share(Bound::Host) > LARGE_SHARE {
        return format!("host: {} of the predicted time", percent(share(Bound::Host)));
    }
    let own_rules = case.scenario.engine.scheduler.rules != EngineRules::Vllm;
    if case.run.engine != EngineName::Vllm && !own_rules {
        return format!(
            "scheduling: {} under vLLM's scheduler; kernels are {} of the predicted time",
            case.run.engine.name(),
            percent(1.0 - share(Bound::Host) - share(Bound::Interconnect))
        );
    }
    if usage.outside_measured_range > LARGE_SHARE {
        return format!(
            "kernel: {} of the time lies outside what was measured",
            percent(usage.outside_measured_range)
        );
    }
    let largest = usage.by_operator.first().map_or("none", |(name, _)| name.as_str());
    format!("kernel: {largest} is the largest part, host {}", percent(share(Bound::Host)))
}
