//! A measured workload under a cost model: the same requests, of the same clients or at the times at which they were sent.

use super::plan::generator;
use super::record::MeasuredRun;
use crate::fidelity::{Metric, Residual, Stat, Statistic};
use sim::Result;
use sim::cost::{CostModel, LinearCost};
use sim::metrics::{Distribution, Limits};
use sim::report::Metrics;
use sim::scenario::Scenario;
use sim::simulation::FrontEndTime;
use sim::units::SimTime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every figure of a workload; times in ms, throughput in generated tokens per second.
pub type Figures = BTreeMap<Statistic, f64>;

/// Where step times come from, with the time of a request outside the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pricing {
    /// Linear in the sums of a step, and ns outside the engine.
    Linear(LinearCost, u64),
    /// The scenario's profile with this residual.
    Profile(Residual),
}

impl Pricing {
    pub(super) fn cost(&self, scenario: &Scenario) -> Arc<dyn CostModel> {
        match self {
            Pricing::Linear(cost, _) => Arc::new(*cost),
            Pricing::Profile(residual) => residual.cost(scenario),
        }
    }

    pub(super) fn front_end(&self) -> FrontEndTime {
        match self {
            Pricing::Linear(_, latency_ns) => FrontEndTime { latency_ns: *latency_ns, ..FrontEndTime::NONE },
            Pricing::Profile(residual) => residual.front_end,
        }
    }
}

/// When a request was sent and had its first and its last token, ns since the start, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestTimes {
    /// Sent.
    pub sent_ns: u64,
    /// First token.
    pub first_ns: u64,
    /// Last token.
    pub last_ns: u64,
}

/// A workload as it was predicted.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Its figures.
    pub figures: Figures,
    /// Prompt tokens found in the prefix cache, by request.
    pub cached_tokens: Vec<u32>,
    /// Times, by request.
    pub times_ns: Vec<RequestTimes>,
}

fn put(figures: &mut Figures, metric: Metric, distribution: Option<Distribution>) {
    let Some(d) = distribution else { return };
    for (stat, ms) in [(Stat::Mean, d.mean), (Stat::P50, d.p50), (Stat::P90, d.p90), (Stat::P99, d.p99)] {
        figures.insert((metric, stat), ms);
    }
}

/// Simulates `run`'s requests. Time outside the engine is on the way in: it delays the first token and, of clients that
/// wait for their answers, the next request.
///
/// # Errors
/// When the simulation fails, as for a request that the engine could never have run.
pub fn replay(scenario: &Scenario, run: &MeasuredRun, pricing: &Pricing) -> Result<Replay> {
    replay_under(scenario, run, &pricing.cost(scenario), pricing.front_end())
}

/// The same under a cost model.
pub(super) fn replay_under(
    scenario: &Scenario,
    run: &MeasuredRun,
    cost: &Arc<dyn CostModel>,
    front_end: FrontEndTime,
) -> Result<Replay> {
    let clients = run.workload.concurrency;
    let sent: Vec<u64> = run.requests.iter().map(|request| request.sent_us).collect();
    let mut order: Vec<usize> = (0..sent.len()).collect();
    if clients.is_none() {
        order.sort_by_key(|index| sent.get(*index).copied().unwrap_or(0));
    }
    let arrival = |index: &usize| {
        let at = if clients.is_some() { 0 } else { sent.get(*index).copied().unwrap_or(0) };
        run.workload.requests.get(*index).map(|request| request.arrival(at))
    };
    let workload = generator(order.iter().filter_map(arrival).collect(), clients);
    let simulated = scenario.simulate_with(cost, front_end, workload, &mut ())?;
    let config = &scenario.engine.scheduler;
    let metrics = Metrics::new(&simulated, config.block_size, config.prefix_caching, &Limits::default());
    let mut figures = Figures::new();
    put(&mut figures, Metric::Ttft, metrics.ttft_ms);
    put(&mut figures, Metric::Tpot, metrics.tpot_ms);
    put(&mut figures, Metric::Itl, metrics.itl_ms);
    put(&mut figures, Metric::E2el, metrics.e2el_ms);
    figures.insert((Metric::Throughput, Stat::Mean), metrics.throughput.output_tokens_per_s);
    let table = &simulated.table;
    let mut cached_tokens = vec![0; sent.len()];
    let mut times_ns = vec![RequestTimes::default(); sent.len()];
    for (id, index) in table.ids().zip(&order) {
        let row = id.index();
        let ns = |column: &[SimTime]| column.get(row).map_or(0, |time| time.0);
        if let (Some(cached), Some(times)) = (cached_tokens.get_mut(*index), times_ns.get_mut(*index)) {
            *cached = table.cached_tokens.get(row).copied().unwrap_or(0);
            *times = RequestTimes {
                sent_ns: ns(&table.arrival),
                first_ns: ns(&table.first_token),
                last_ns: ns(&table.last_token),
            };
        }
    }
    Ok(Replay { figures, cached_tokens, times_ns })
}

impl MeasuredRun {
    /// Its figures, by the same definitions.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::new();
        let later = |gaps: &[u64]| gaps.iter().skip(1).sum::<u64>();
        let mut of = |metric: Metric, values: Vec<u64>| {
            put(&mut figures, metric, Distribution::of_values(values));
        };
        let requests = || self.requests.iter().map(|request| &request.gaps_us[..]);
        of(Metric::Ttft, requests().filter_map(|gaps| Some(gaps.first()? * 1000)).collect());
        of(Metric::E2el, requests().map(|gaps| gaps.iter().sum::<u64>() * 1000).collect());
        let tpot = |gaps: &[u64]| {
            let count = gaps.len().checked_sub(1).filter(|count| *count > 0)? as u64;
            Some(later(gaps) * 1000 / count)
        };
        of(Metric::Tpot, requests().filter_map(tpot).collect());
        // Tokens that a busy client took together are one chunk, and gaps lie between chunks (V-61).
        let gaps =
            requests().flat_map(|gaps| gaps.iter().skip(1)).filter(|gap| **gap > 0).map(|gap| gap * 1000);
        of(Metric::Itl, gaps.collect());
        let first = self.requests.iter().map(|request| request.sent_us).min();
        let last =
            self.requests.iter().map(|request| request.sent_us + request.gaps_us.iter().sum::<u64>()).max();
        let tokens: usize = requests().map(<[u64]>::len).sum();
        if let (Some(first), Some(last)) = (first, last)
            && last > first
        {
            let rate = tokens as f64 * 1e6 / (last - first) as f64;
            figures.insert((Metric::Throughput, Stat::Mean), rate);
        }
        figures
    }

    /// Whether requests queued more and more, by the measurement alone: they came at times of their own, and the last
    /// quarter of them waited three times as long for the first token as the first quarter, and over a second. Then first tokens tell how long the run was.
    pub fn is_saturated(&self) -> bool {
        if self.workload.concurrency.is_some() {
            return false;
        }
        let mut timed: Vec<(u64, u64)> = self
            .requests
            .iter()
            .filter_map(|request| Some((request.sent_us, *request.gaps_us.first()?)))
            .collect();
        timed.sort_unstable();
        let quarter = timed.len() / 4;
        let median = |part: Option<&[(u64, u64)]>| {
            let mut waits: Vec<u64> = part?.iter().map(|(_, wait)| *wait).collect();
            waits.sort_unstable();
            waits.get(waits.len() / 2).copied()
        };
        let first = median(timed.get(..quarter)).unwrap_or(0);
        let last = median(timed.get(timed.len() - quarter..)).unwrap_or(0);
        last > 3 * first && last > 1_000_000
    }

    /// The figures that it is judged by: the medians of first tokens and of gaps between tokens, and the throughput;
    /// where requests queued more and more, not the first tokens.
    pub fn judged(&self) -> Vec<(Statistic, f64)> {
        let figures = self.figures();
        let wanted = [(Metric::Ttft, Stat::P50), (Metric::Itl, Stat::P50), (Metric::Throughput, Stat::Mean)];
        let skipped = usize::from(self.is_saturated());
        let found = wanted.into_iter().skip(skipped);
        found.filter_map(|statistic| Some((statistic, *figures.get(&statistic)?))).collect()
    }
}
