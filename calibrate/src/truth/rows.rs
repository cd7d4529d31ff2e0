//! Every figure beside its predictions, as CSV.

use super::score::Scores;
use std::fmt::Write;

/// One line per figure; times in ms, throughput in generated tokens per second.
pub fn rows(scores: &Scores) -> String {
    let mut out =
        "engine,gpu,workload,part,saturated,figure,statistic,measured,as_it_is,fitted\n".to_string();
    for engine in &scores.engines {
        for run in &engine.runs {
            let workload = &run.run.workload;
            for (statistic, measured) in &run.measured {
                let cell = |value: Option<&f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
                let _ = writeln!(
                    out,
                    "{},{},{},{},{},{},{},{measured:.4},{},{}",
                    engine.measured.engine.name,
                    engine.measured.facts.gpu,
                    workload.name,
                    workload.part().name(),
                    run.run.is_saturated(),
                    statistic.0.name(),
                    statistic.1.name(),
                    cell(run.today.as_ref().and_then(|today| today.figures.get(statistic))),
                    cell(run.fitted.figures.get(statistic))
                );
            }
        }
    }
    out
}
