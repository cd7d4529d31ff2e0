//! The charts of one run.

use crate::charts::{Axis, Chart, Mark, Series};
use crate::rows::{RequestRow, StepRow};
use crate::run_folder::RunFolder;
use crate::series::{self, Bins};

/// Spans of time of a chart over time.
const SPANS: usize = 120;

/// A latency limit of the scenario, drawn into the charts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SloMarks {
    /// Time to the first token, in ms.
    pub ttft_ms: Option<f64>,
    /// Largest gap between tokens, in ms.
    pub itl_ms: Option<f64>,
    /// Mean time per token after the first, in ms.
    pub tpot_ms: Option<f64>,
    /// Time to the last token, in ms.
    pub e2el_ms: Option<f64>,
}

/// Charts of a run, in the order in which a page shows them.
pub fn charts(run: &RunFolder, slo: &SloMarks) -> Vec<Chart> {
    let (requests, steps) = (&run.requests, &run.steps);
    let end_ns = series::end_ns(requests, steps);
    let clock = Clock { bins: Bins::over(end_ns, SPANS), unit: TimeUnit::of(end_ns) };
    let usable_blocks = run.number("/metrics/kv/usable_blocks").unwrap_or(1.0).max(1.0);
    let replicas = run.number("/replicas").unwrap_or(1.0).max(1.0);
    vec![
        first_tokens(requests, slo),
        gaps(requests, steps, slo),
        whole_answers(requests, slo),
        first_tokens_over_time(requests, &clock, slo),
        gaps_over_time(steps, &clock, slo),
        throughput_over_time(requests, steps, &clock),
        presence_over_time(requests, &clock),
        batch_over_time(steps, &clock, replicas),
        kv_over_time(steps, &clock, usable_blocks, replicas),
    ]
}

/// The unit of a time axis.
#[derive(Clone, Copy)]
struct TimeUnit {
    seconds: f64,
    name: &'static str,
}

impl TimeUnit {
    fn of(end_ns: u64) -> TimeUnit {
        match end_ns / 1_000_000_000 {
            0..300 => TimeUnit { seconds: 1.0, name: "s" },
            300..14_400 => TimeUnit { seconds: 60.0, name: "min" },
            _ => TimeUnit { seconds: 3600.0, name: "h" },
        }
    }
}

struct Clock {
    bins: Bins,
    unit: TimeUnit,
}

impl Clock {
    fn axis(&self) -> Axis {
        let end_s = self.bins.count as f64 * self.bins.width_ns as f64 / 1e9;
        Axis::linear(format!("time since the start ({})", self.unit.name)).to(end_s / self.unit.seconds)
    }

    fn line(&self, name: &str, values: &[Option<f64>]) -> Series {
        let points = self.bins.points(values).into_iter().map(|(s, v)| (s / self.unit.seconds, v)).collect();
        Series::line(name, points)
    }
}

fn limit(name: &str, value: Option<f64>, on_x: bool) -> Vec<Mark> {
    value.map(|value| Mark { value, text: format!("SLO {name}"), on_x }).into_iter().collect()
}

/// The unit of a latency axis: seconds where the largest value is above ten of them.
#[derive(Clone, Copy)]
struct LatencyUnit {
    ms: f64,
    name: &'static str,
}

impl LatencyUnit {
    fn of(largest_ms: f64) -> LatencyUnit {
        if largest_ms > 10_000.0 {
            LatencyUnit { ms: 1000.0, name: "s" }
        } else {
            LatencyUnit { ms: 1.0, name: "ms" }
        }
    }

    fn of_ns(values: impl Iterator<Item = u64>) -> LatencyUnit {
        LatencyUnit::of(ms(values.max().unwrap_or(0)))
    }

    fn limit(self, name: &str, value_ms: Option<f64>, on_x: bool) -> Vec<Mark> {
        limit(name, value_ms.map(|value| value / self.ms), on_x)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The gap of each decoding request is the length of the step, since steps follow each other without a pause while
/// requests run.
fn step_gaps(steps: &[StepRow]) -> impl Iterator<Item = (u64, f64, u64)> + '_ {
    steps.iter().map(|step| (step.end_ns(), ms(step.duration_ns), step.decode_requests))
}

fn shares() -> Axis {
    Axis::linear("share of requests (%)").to(100.0)
}

fn first_tokens(requests: &[RequestRow], slo: &SloMarks) -> Chart {
    let unit = LatencyUnit::of_ns(requests.iter().filter_map(|r| r.ttft_ns));
    let ttft = requests.iter().filter_map(|r| Some((ms(r.ttft_ns?) / unit.ms, 1))).collect();
    let queue = requests
        .iter()
        .filter_map(|r| Some((ms(r.first_scheduled_ns?.checked_sub(r.arrival_ns)?) / unit.ms, 1)))
        .collect();
    Chart {
        title: "Time to first token".into(),
        note: "Share of requests that had their first token within the time. Queue: the part spent waiting for a step."
            .into(),
        x: Axis::log(format!("time ({})", unit.name)),
        y: shares(),
        series: vec![
            Series::line("TTFT", series::distribution(ttft)),
            Series::line("queue", series::distribution(queue)),
        ],
        marks: unit.limit("TTFT", slo.ttft_ms, true),
    }
}

fn gaps(requests: &[RequestRow], steps: &[StepRow], slo: &SloMarks) -> Chart {
    let itl = step_gaps(steps).map(|(_, gap_ms, count)| (gap_ms, count)).filter(|gap| gap.1 > 0).collect();
    let tpot = requests.iter().filter_map(|r| Some((ms(r.tpot_ns?), 1))).collect();
    Chart {
        title: "Time between tokens".into(),
        note: "ITL: every gap between two tokens of a request. TPOT: the mean gap of each request.".into(),
        x: Axis::log("time (ms)"),
        y: Axis::linear("share (%)").to(100.0),
        series: vec![
            Series::line("ITL", series::distribution(itl)),
            Series::line("TPOT", series::distribution(tpot)),
        ],
        marks: limit("ITL", slo.itl_ms, true).into_iter().chain(limit("TPOT", slo.tpot_ms, true)).collect(),
    }
}

fn whole_answers(requests: &[RequestRow], slo: &SloMarks) -> Chart {
    let e2el = requests.iter().filter_map(|r| Some((ms(r.e2el_ns?) / 1e3, 1))).collect();
    Chart {
        title: "Time to the whole answer".into(),
        note: "Share of requests that had their last token within the time (E2EL).".into(),
        x: Axis::log("time (s)"),
        y: shares(),
        series: vec![Series::line("E2EL", series::distribution(e2el))],
        marks: limit("E2EL", slo.e2el_ms.map(|ms| ms / 1e3), true),
    }
}

fn first_tokens_over_time(requests: &[RequestRow], clock: &Clock, slo: &SloMarks) -> Chart {
    let unit = LatencyUnit::of_ns(requests.iter().filter_map(|r| r.ttft_ns));
    let values = requests.iter().filter_map(|r| Some((r.arrival_ns, ms(r.ttft_ns?) / unit.ms, 1)));
    let lines = clock.bins.percentile(values, &[50.0, 99.0]);
    Chart {
        title: "Time to first token over time".into(),
        note:
            "Of the requests that arrived in each span. A line that climbs means the deployment falls behind."
                .into(),
        x: clock.axis(),
        y: Axis::linear(format!("TTFT ({})", unit.name)),
        series: vec![clock.line("median", &lines[0]), clock.line("99th percentile", &lines[1])],
        marks: unit.limit("TTFT", slo.ttft_ms, false),
    }
}

fn gaps_over_time(steps: &[StepRow], clock: &Clock, slo: &SloMarks) -> Chart {
    let lines = clock.bins.percentile(step_gaps(steps), &[50.0, 99.0]);
    Chart {
        title: "Time between tokens over time".into(),
        note: "Gaps between tokens in each span. Long ones come from prompts computed in the same step."
            .into(),
        x: clock.axis(),
        y: Axis::linear("ITL (ms)"),
        series: vec![clock.line("median", &lines[0]), clock.line("99th percentile", &lines[1])],
        marks: limit("ITL", slo.itl_ms, false),
    }
}

fn throughput_over_time(requests: &[RequestRow], steps: &[StepRow], clock: &Clock) -> Chart {
    let mut output = clock.bins.per_second(steps, |step| step.sampled_requests);
    // With drafts a request gets several tokens from a step: their mean over the run stands for each.
    let finished = requests.iter().filter(|request| request.last_token_ns.is_some());
    let tokens: u64 = finished.map(|request| u64::from(request.output_tokens)).sum();
    let chunks: u64 = steps.iter().map(|step| step.sampled_requests).sum();
    if tokens > chunks && chunks > 0 {
        output.iter_mut().flatten().for_each(|rate| *rate *= tokens as f64 / chunks as f64);
    }
    let prompt = clock.bins.per_second(steps, |step| step.prefill_tokens);
    Chart {
        title: "Throughput over time".into(),
        note:
            "Tokens of all replicas together; prompt tokens are those computed, not those found in the cache."
                .into(),
        x: clock.axis(),
        y: Axis::linear("tokens/s"),
        series: vec![clock.line("output tokens", &output), clock.line("prompt tokens", &prompt)],
        marks: Vec::new(),
    }
}

/// Requests in their two states over time, from when they arrived, were first scheduled and ended.
fn presence_over_time(requests: &[RequestRow], clock: &Clock) -> Chart {
    let spans = |from: fn(&RequestRow) -> Option<u64>, to: fn(&RequestRow) -> Option<u64>| {
        let span = |r: &RequestRow| Some((from(r)?, to(r)?));
        let mut sums = vec![0.0; clock.bins.count];
        for (from_ns, to_ns) in requests.iter().filter_map(span) {
            let mut at_ns = from_ns;
            while at_ns < to_ns {
                let index = clock.bins.index(at_ns);
                let last = index + 1 == clock.bins.count;
                let bin_end_ns = if last { u64::MAX } else { (index as u64 + 1) * clock.bins.width_ns };
                let until_ns = to_ns.min(bin_end_ns);
                sums[index] += (until_ns - at_ns) as f64 / clock.bins.width_ns as f64;
                at_ns = until_ns;
            }
        }
        sums.into_iter().map(Some).collect::<Vec<_>>()
    };
    let running = spans(|r| r.first_scheduled_ns, |r| r.last_token_ns);
    let waiting = spans(|r| Some(r.arrival_ns), |r| r.first_scheduled_ns);
    Chart {
        title: "Requests in the system".into(),
        note: "Mean in each span, all replicas together. Waiting: no step has run them yet.".into(),
        x: clock.axis(),
        y: Axis::linear("requests"),
        series: vec![clock.line("running", &running), clock.line("waiting", &waiting)],
        marks: Vec::new(),
    }
}

fn batch_over_time(steps: &[StepRow], clock: &Clock, replicas: f64) -> Chart {
    let busy = clock.bins.time_mean(steps, |_| 1.0);
    let batch = clock.bins.time_mean(steps, |step| step.batch_requests as f64);
    let per_step: Vec<_> = batch
        .iter()
        .zip(&busy)
        .map(|(batch, busy)| Some(batch.as_ref()? / busy.filter(|busy| *busy > 0.0)?))
        .collect();
    let idle = busy.iter().flatten().sum::<f64>() / (busy.len() as f64 * replicas);
    Chart {
        title: "Batch size".into(),
        note: format!(
            "Requests in a step, weighted by its length. The replicas were busy {:.0} % of the time.",
            idle * 100.0
        ),
        x: clock.axis(),
        y: Axis::linear("requests per step"),
        series: vec![clock.line("requests per step", &per_step)],
        marks: Vec::new(),
    }
}

fn kv_over_time(steps: &[StepRow], clock: &Clock, usable_blocks: f64, replicas: f64) -> Chart {
    let used = clock
        .bins
        .time_mean(steps, |step| 100.0 * (1.0 - f64::from(step.free_blocks) / usable_blocks) / replicas);
    Chart {
        title: "KV cache in use".into(),
        note: "Share of the blocks held by requests, mean in each span. At 100 % requests are preempted."
            .into(),
        x: clock.axis(),
        y: Axis::linear("KV blocks held (%)").to(100.0),
        series: vec![clock.line("held", &used)],
        marks: Vec::new(),
    }
}
