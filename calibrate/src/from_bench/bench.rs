//! A run as every format states it.

use super::recorded::Recorded;
use crate::fidelity::{Metric, Stat, Statistic};
use sim::workload::TokenRun;
use std::collections::BTreeMap;

/// How requests were sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BenchLoad {
    /// All at once.
    Burst,
    /// So many per second, at random.
    Rate(f64),
    /// So many clients that wait for their answers.
    Clients(u32),
    /// Not stated: the scenario's own workload stands for it.
    Unknown,
}

/// One request that finished.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchRequest {
    /// When it was sent, in seconds, where known.
    pub sent_s: Option<f64>,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Time to first token, ms.
    pub ttft_ms: f64,
    /// Time to last token, ms.
    pub e2el_ms: f64,
    /// The prompt's content, where known; empty when it shares none with others.
    pub content: Vec<TokenRun>,
}

/// One benchmark run.
#[derive(Debug, Clone)]
pub struct Bench {
    /// File, with a number where it holds several runs.
    pub label: String,
    /// What wrote it.
    pub format: &'static str,
    /// The model, where stated.
    pub model: Option<String>,
    /// The GPU, where stated.
    pub gpu: Option<String>,
    /// How requests were sent.
    pub load: BenchLoad,
    /// Requests that finished.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// Mean prompt tokens, where stated.
    pub prompt_tokens: Option<f64>,
    /// Mean generated tokens, where stated.
    pub output_tokens: Option<f64>,
    /// The requests, where the file has them.
    pub requests: Vec<BenchRequest>,
    /// Means and percentiles: of the requests where there are any, as stated otherwise. Throughput is in generated tokens
    /// per second.
    pub figures: BTreeMap<Statistic, f64>,
    /// What the engine said of itself, where the file has it.
    pub recorded: Option<Recorded>,
}

/// With more steps than this before the first token, in the median, requests queued.
const QUEUED_STEPS: f64 = 5.0;
/// A late quarter of requests that waits this many times as long as the first one has queued.
const QUEUE_GROWTH: f64 = 3.0;
/// And at least this long.
const QUEUED_MS: f64 = 1000.0;

impl Bench {
    /// Why its requests queued, by the measurement alone; none when they did not. Then only throughput says something of
    /// the engine.
    pub fn saturation(&self) -> Option<String> {
        if let BenchLoad::Clients(_) = self.load {
            return None;
        }
        if self.load == BenchLoad::Burst {
            return Some("all requests were sent at once".to_string());
        }
        if let Some((first, last)) = self.quarters()
            && last > QUEUED_MS
            && last > QUEUE_GROWTH * first
        {
            return Some(format!(
                "the last quarter of the requests waited {last:.0} ms for the first token, the first quarter {first:.0} ms"
            ));
        }
        let get = |metric| self.headline(metric).map(|(_, value)| value);
        match (get(Metric::Ttft), get(Metric::Tpot).or(get(Metric::Itl))) {
            (Some(ttft), Some(tpot)) if ttft > QUEUED_STEPS * tpot && ttft > QUEUED_MS => Some(format!(
                "the median first token took {ttft:.0} ms, {:.0} times as long as a later one",
                ttft / tpot
            )),
            _ => None,
        }
    }

    /// Median TTFT of the first and of the last quarter of the requests, by the time they were sent.
    fn quarters(&self) -> Option<(f64, f64)> {
        let mut timed: Vec<(f64, f64)> =
            self.requests.iter().filter_map(|request| Some((request.sent_s?, request.ttft_ms))).collect();
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let quarter = timed.len() / 4;
        if quarter < 5 {
            return None;
        }
        let median = |part: &[(f64, f64)]| percentile(part.iter().map(|(_, ttft)| *ttft).collect(), 0.5);
        Some((median(timed.get(..quarter)?)?, median(timed.get(timed.len() - quarter..)?)?))
    }

    /// The median of a metric where it is known, the mean otherwise.
    pub fn headline(&self, metric: Metric) -> Option<(Statistic, f64)> {
        [Stat::P50, Stat::Mean]
            .into_iter()
            .find_map(|stat| Some(((metric, stat), *self.figures.get(&(metric, stat))?)))
    }

    /// Figures of the requests for which `choose` says yes by position.
    pub fn figures_of(&self, choose: impl Fn(usize) -> bool) -> BTreeMap<Statistic, f64> {
        let chosen: Vec<&BenchRequest> = self
            .requests
            .iter()
            .enumerate()
            .filter(|(index, _)| choose(*index))
            .map(|(_, request)| request)
            .collect();
        let mut figures = BTreeMap::new();
        let mut put = |metric: Metric, values: Vec<f64>| {
            let count = values.len();
            if count == 0 {
                return;
            }
            figures.insert((metric, Stat::Mean), values.iter().sum::<f64>() / count as f64);
            for (stat, share) in [(Stat::P50, 0.5), (Stat::P90, 0.9), (Stat::P99, 0.99)] {
                figures.extend(percentile(values.clone(), share).map(|value| ((metric, stat), value)));
            }
        };
        put(Metric::Ttft, chosen.iter().map(|request| request.ttft_ms).collect());
        put(Metric::E2el, chosen.iter().map(|request| request.e2el_ms).collect());
        let tpot = |request: &&BenchRequest| {
            let later = request.output_tokens.checked_sub(1).filter(|later| *later > 0)?;
            Some((request.e2el_ms - request.ttft_ms) / f64::from(later))
        };
        put(Metric::Tpot, chosen.iter().filter_map(tpot).collect());
        figures
    }
}

/// Between neighbours; none of nothing.
fn percentile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = share * values.len().checked_sub(1)? as f64;
    let (below, above) = (*values.get(at.floor() as usize)?, *values.get(at.ceil() as usize)?);
    Some(below + (above - below) * at.fract())
}
