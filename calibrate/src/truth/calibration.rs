//! What was fitted to a version of vLLM, as files that scenarios name in `engine.calibration`.

use super::deploy::gpu_name;
use super::page::median;
use super::plan::Part;
use super::residual::Sharing;
use super::score::{EngineScore, Scores, VersionScore};
use crate::fidelity::{Metric, Residual};
use sim::scenario::{Calibration, FrontEndSection, HostTimeSection};
use sim::units::Span;
use std::collections::BTreeSet;

impl Scores {
    /// The calibrations of every version: one, or one for each engine where that is clearly better; none where predictions do
    /// as well without.
    pub fn calibrations(&self) -> Vec<Calibration> {
        self.versions.iter().flat_map(|version| self.of_version(version)).collect()
    }

    fn of_version(&self, version: &VersionScore) -> Vec<Calibration> {
        let members = || version.engines.iter().filter_map(|index| self.engines.get(*index));
        let name = format!("vllm-{}", version.version);
        match version.fitted.sharing {
            Sharing::Nothing => Vec::new(),
            Sharing::Version => {
                let engines: Vec<&EngineScore> = members().collect();
                vec![calibration(name, &version.fitted.version, &engines)]
            }
            Sharing::Engine => {
                let same = |score: &EngineScore| {
                    members().filter(|other| other.measured.engine.name == score.measured.engine.name).count()
                };
                let of = |(score, residual): (&EngineScore, &Residual)| {
                    let mut name = format!("{name}-{}", score.measured.engine.name);
                    // The same engine on several GPUs.
                    if same(score) > 1 {
                        name = format!("{name}-{}", gpu_name(&score.measured.facts.gpu));
                    }
                    calibration(name, residual, &[score])
                };
                let pairs = members().zip(&version.fitted.engines);
                pairs.map(of).collect()
            }
        }
    }
}

fn calibration(name: String, residual: &Residual, engines: &[&EngineScore]) -> Calibration {
    let Residual { host, gpu, front_end } = *residual;
    let list = |of: fn(&EngineScore) -> &str| {
        let found: BTreeSet<&str> = engines.iter().map(|score| of(score)).collect();
        found.into_iter().collect::<Vec<_>>().join(", ")
    };
    let version = list(|score| &score.measured.facts.version);
    Calibration {
        name,
        engine: format!("vLLM {version}"),
        host_time: HostTimeSection { base: Span(host.base_ns), per_request: Span(host.per_request_ns) },
        decode_scale: gpu.decode_scale,
        prefill_scale: gpu.prefill_scale,
        prefill_launch: gpu.prefill_launch_ns.map(Span),
        matrix_slowdown: gpu.matrix_slowdown,
        front_end: FrontEndSection::of(front_end),
        fitted_on: format!(
            "{} workloads of {} on {}, vLLM {version} with random weights, the development part of reports/results/truth.md; \
             requests came as token ids, without a tokenizer and without a server between",
            engines.iter().map(|score| score.workloads(Part::Development)).sum::<usize>(),
            list(|score| &score.measured.engine.name),
            list(|score| &score.measured.facts.gpu)
        ),
        held_out: held_out(engines),
    }
}

/// Errors of the untouched part, with the calibration and without.
fn held_out(engines: &[&EngineScore]) -> String {
    let of = |metric: Metric, is_fitted: bool| {
        let errors = engines.iter().flat_map(|score| score.errors(Part::Untouched, metric, is_fitted));
        let absolute: Vec<f64> = errors.map(f64::abs).collect();
        format!("{} {:.1} %", metric.name(), 100.0 * median(&absolute).unwrap_or(0.0))
    };
    let all = |is_fitted: bool| {
        [Metric::Ttft, Metric::Itl, Metric::Throughput].map(|metric| of(metric, is_fitted)).join(", ")
    };
    let workloads: usize = engines.iter().map(|score| score.workloads(Part::Untouched)).sum();
    if workloads == 0 {
        return "no untouched workload was measured".to_string();
    }
    format!(
        "median error of {workloads} untouched workloads: {}; without the calibration: {}",
        all(true),
        all(false)
    )
}

impl EngineScore {
    fn workloads(&self, part: Part) -> usize {
        let is_counted = |run: &&super::score::RunScore| {
            run.run.workload.part() == part && run.run.workload.repeats().is_none()
        };
        self.runs.iter().filter(is_counted).count()
    }
}
