//! Latency against throughput over the rows of a sweep, with the knee.

use crate::charts::{Axis, Chart, Mark, Series};
use crate::run_folder::RunFolder;

/// One run of a sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Generated tokens per second.
    pub output_tokens_per_s: f64,
    /// 99th percentile of the time to first token, in ms.
    pub ttft_p99_ms: f64,
    /// 99th percentile of the gaps between tokens, in ms.
    pub itl_p99_ms: f64,
}

impl CurvePoint {
    /// Of a finished run; none when it generated nothing.
    pub fn of(run: &RunFolder) -> Option<CurvePoint> {
        Some(CurvePoint {
            output_tokens_per_s: run.number("/metrics/throughput/output_tokens_per_s")?,
            ttft_p99_ms: run.number("/metrics/ttft_ms/p99")?,
            itl_p99_ms: run.number("/metrics/itl_ms/p99")?,
        })
    }
}

/// The point after which latency climbs much faster than throughput: the one furthest below the straight line from the
/// first to the last point, both axes scaled to 0..1 (Satopää et al., "Finding a Kneedle in a Haystack", 2011). None for
/// fewer than four points or when no point lies clearly below. `points` ascend in x.
pub fn knee(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let ((x0, y0), (x1, y1)) = (*points.first()?, *points.last()?);
    if points.len() < 4 || x1 <= x0 || y1 <= y0 {
        return None;
    }
    let below = |&(x, y): &(f64, f64)| (x - x0) / (x1 - x0) - (y - y0) / (y1 - y0);
    let best = points.iter().copied().max_by(|a, b| below(a).total_cmp(&below(b)))?;
    (below(&best) > 0.1).then_some(best)
}

/// Charts of the curve, with the run that the page is about; none without points.
pub fn charts(points: &[CurvePoint], this: Option<CurvePoint>) -> Vec<Chart> {
    let chart =
        |name: &str, value: fn(&CurvePoint) -> f64| {
            let mut line: Vec<(f64, f64)> =
                points.iter().map(|point| (point.output_tokens_per_s, value(point))).collect();
            line.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let mark = knee(&line).map(|(x, _)| Mark { value: x, text: "knee".into(), on_x: true });
            let mut series = vec![Series::marked("runs of the sweep", line)];
            series.extend(this.as_ref().map(|run| {
                Series::scatter("the run of this page", vec![(run.output_tokens_per_s, value(run))])
            }));
            Chart {
            title: format!("{name} against throughput"),
            note:
                "One dot per run of the sweep. Right of the knee latency climbs and throughput hardly does."
                    .into(),
            x: Axis::linear("output tokens/s"),
            y: Axis::linear(format!("{name} (ms)")),
            series,
            marks: mark.into_iter().collect(),
        }
        };
    if points.is_empty() {
        return Vec::new();
    }
    vec![chart("TTFT p99", |point| point.ttft_p99_ms), chart("ITL p99", |point| point.itl_p99_ms)]
}

#[cfg(test)]
mod tests {
    use super::knee;

    #[test]
    fn the_knee_is_where_a_queue_begins_to_grow() {
        // The waiting time of M/M/1 climbs as 1 / (1 - load).
        let points: Vec<(f64, f64)> =
            (1..=19).map(|k| f64::from(k) * 0.05).map(|load| (load, 1.0 / (1.0 - load))).collect();
        let (load, _) = knee(&points).unwrap();
        assert!((0.7..0.9).contains(&load), "{load}");
        assert_eq!(knee(&[(0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), None, "a straight line has none");
        assert_eq!(knee(&points[..3]), None);
        assert_eq!(knee(&[]), None);
    }
}
