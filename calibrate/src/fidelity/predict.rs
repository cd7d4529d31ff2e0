//! A run under a cost model.

use super::deployment::Case;
use super::runs::{Metric, Stat, Statistic, ThroughputUnit};
use sim::Result;
use sim::cost::CostModel;
use sim::metrics::{self, Distribution, Limits};
use sim::report::Metrics;
use sim::request::{RequestId, RequestTable};
use sim::scenario::Scenario;
use sim::simulation::FrontEndTime;
use sim::workload::WorkloadGenerator;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the simulator says of a run.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Every figure that a row may have.
    pub figures: BTreeMap<Statistic, f64>,
    /// Preemptions per request.
    pub preemptions_per_request: f64,
    /// Largest share of the KV blocks held.
    pub kv_peak_share: f64,
}

impl Prediction {
    /// Predicted over measured, less 1.
    pub fn error(&self, statistic: Statistic, measured: f64) -> Option<f64> {
        Some(self.figures.get(&statistic)? / measured - 1.0)
    }
}

/// Simulates the run; what is known of its version's front end comes on top of `front_end`.
pub fn predict(case: &Case, cost: &Arc<dyn CostModel>, front_end: FrontEndTime) -> Result<Prediction> {
    let per_request_ns = front_end.per_request_ns + case.run.known_front_end_ns();
    let front_end = FrontEndTime { per_request_ns, ..front_end };
    predict_workload(&case.scenario, case.workload(), cost, front_end, case.run.unit, None)
}

/// The same of a scenario and its requests. With a `half`, 0 or 1, latencies are of every second request from that one on.
pub(crate) fn predict_workload(
    scenario: &Scenario,
    workload: WorkloadGenerator,
    cost: &Arc<dyn CostModel>,
    front_end: FrontEndTime,
    unit: ThroughputUnit,
    half: Option<usize>,
) -> Result<Prediction> {
    let run = scenario.simulate_with(cost, front_end, workload, &mut ())?;
    let config = &scenario.engine.scheduler;
    let metrics = Metrics::new(&run, config.block_size, config.prefix_caching, &Limits::default());
    let mut figures = BTreeMap::new();
    let mut put = |metric: Metric, distribution: Option<Distribution>| {
        let Some(d) = distribution else { return };
        for (stat, ms) in [(Stat::Mean, d.mean), (Stat::P50, d.p50), (Stat::P90, d.p90), (Stat::P99, d.p99)] {
            figures.insert((metric, stat), ms);
        }
    };
    let latencies = match half {
        None => [metrics.ttft_ms, metrics.tpot_ms, metrics.e2el_ms],
        Some(half) => {
            let chosen = || metrics::finished(&run.table).filter(|id| id.index() % 2 == half);
            let of = |f: fn(&RequestTable, RequestId) -> u64| {
                Distribution::of_values(chosen().map(|id| f(&run.table, id)).collect())
            };
            let tpot = chosen().filter_map(|id| metrics::tpot_ns(&run.table, id)).collect();
            [of(metrics::ttft_ns), Distribution::of_values(tpot), of(metrics::e2el_ns)]
        }
    };
    let [ttft, tpot, e2el] = latencies;
    put(Metric::Ttft, ttft);
    put(Metric::Tpot, tpot);
    put(Metric::Itl, metrics.itl_ms);
    put(Metric::E2el, e2el);
    let throughput = match unit {
        ThroughputUnit::OutputTokens => metrics.throughput.output_tokens_per_s,
        ThroughputUnit::AllTokens => metrics.throughput.total_tokens_per_s,
        ThroughputUnit::Requests => metrics.throughput.requests_per_s,
    };
    figures.insert((Metric::Throughput, Stat::Mean), throughput);
    Ok(Prediction {
        figures,
        preemptions_per_request: metrics.steps.preemptions as f64 / metrics.requests.arrived.max(1) as f64,
        kv_peak_share: metrics.kv.peak_share,
    })
}
