//! Calibrations from measurements that the simulator made with one that the fit does not know.

use super::made::{Noise, gpu_facts, simulated};
use crate::cli::answer;
use calibrate::fidelity::Residual;
use calibrate::truth::{EnginePlan, Machine, Measured, Pricing, Sharing, figures, plan, score};
use sim::scenario::Calibration;
use tempfile::TempDir;

/// Development and untouched workloads in which steps are short and long, and requests wait and do not.
const KEPT: [&str; 8] = [
    "clients-1",
    "clients-16",
    "poisson-half",
    "poisson-near",
    "azure",
    "decode-heavy",
    "long-prompts",
    "turns",
];

const NOISE: Noise = Noise { share: 0.01, late_us: 300 };

fn plans(names: &[&str]) -> Vec<EnginePlan> {
    let mut plans = plan(&Machine::Gpu("h200-sxm".to_string()), 1.0).unwrap();
    plans.retain(|plan| names.contains(&plan.name.as_str()));
    for plan in &mut plans {
        plan.workloads.retain(|workload| KEPT.contains(&workload.name.as_str()));
    }
    plans
}

fn measured(plan: &EnginePlan, hidden: Residual, is_async: bool) -> Measured {
    simulated(plan, &gpu_facts(is_async), &Pricing::Profile(hidden), NOISE)
}

fn hidden(decode: f64, prefill: f64, base_ns: u64, latency_ns: u64) -> Residual {
    let mut hidden = Residual::NONE;
    (hidden.gpu.decode_scale, hidden.gpu.prefill_scale) = (decode, prefill);
    (hidden.host.base_ns, hidden.front_end.latency_ns) = (base_ns, latency_ns);
    hidden
}

/// Median absolute errors of a figure on untouched workloads, as it is and fitted.
fn untouched(rows: &str, figure: &str, statistic: &str) -> [f64; 2] {
    let of = |column: usize| {
        let wanted = rows.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let wanted = wanted.filter(|row| (row[3], row[5], row[6]) == ("untouched", figure, statistic));
        let number = |cell: &str| cell.parse::<f64>().unwrap();
        let mut errors: Vec<f64> =
            wanted.map(|row| (number(row[column]) / number(row[7]) - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    };
    [of(8), of(9)]
}

fn near(what: &str, found: f64, put_in: f64, tolerance: f64) {
    assert!((found - put_in).abs() <= tolerance, "{what}: {found} found, {put_in} put in");
}

/// Host time is seen where steps wait for it: without asynchronous scheduling.
#[test]
fn a_hidden_calibration_is_found_within_its_tolerance_and_holds_on_the_untouched_third() {
    let put_in = hidden(1.12, 1.3, 2_000_000, 6_000_000);
    let folder = TempDir::new().unwrap();
    for plan in plans(&["llama-3.1-8b", "qwen3-32b"]) {
        let path = folder.path().join(format!("packs/{}.json.gz", plan.name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, measured(&plan, put_in, false).to_bytes(true)).unwrap();
    }
    let score_them =
        ["truth", "score", "packs", "--calibrations", "found", "--rows", "rows.csv", "--out", "page.md"];
    let said = answer(folder.path(), &score_them);
    assert!(said.contains("found/vllm-0.26.yaml: median error of "), "{said}");
    let page = std::fs::read_to_string(folder.path().join("page.md")).unwrap();
    assert!(page.contains("**one calibration for all engines**"), "{page}");
    assert!(page.contains("| qwen3-32b | untouched | as it is |"), "{page}");
    let rows = std::fs::read_to_string(folder.path().join("rows.csv")).unwrap();
    assert!(rows.contains("\nllama-3.1-8b,NVIDIA H200,clients-16,untouched,false,TTFT,p50,"), "{rows}");

    let found = Calibration::find("found/vllm-0.26.yaml", folder.path()).unwrap();
    near("decode", found.decode_scale / 1.12, 1.0, 0.03);
    near("prefill", found.prefill_scale / 1.3, 1.0, 0.05);
    near("host time, ms", found.host().base_ns as f64 * 1e-6, 2.0, 0.3);
    near("outside, ms", found.front_end.time().latency_ns as f64 * 1e-6, 6.0, 1.0);
    assert_eq!(found.engine, "vLLM 0.26.0");
    assert!(found.fitted_on.contains("of llama-3.1-8b, qwen3-32b on NVIDIA H200"), "{}", found.fitted_on);
    assert!(found.held_out.contains("without the calibration: TTFT"), "{}", found.held_out);
    // As a user would have it.
    let used = ["simulate", "quickstart", "--no-band", "--set", "engine.calibration=found/vllm-0.26.yaml"];
    assert!(answer(folder.path(), &used).contains("vllm-0.26"), "the report says which calibration it used");

    for (figure, statistic, most) in
        [("TTFT", "p50", 0.03), ("ITL", "p50", 0.03), ("throughput", "mean", 0.02)]
    {
        let [today, fitted] = untouched(&rows, figure, statistic);
        assert!(fitted < most && fitted <= today, "{figure}: {today} as it is, {fitted} fitted");
    }
}

/// Asynchronous scheduling hides the host behind the GPU: its time is left as it was.
#[test]
fn engines_that_differ_by_other_factors_get_a_calibration_each() {
    let plans = plans(&["llama-3.1-8b", "qwen3-32b"]);
    let factors = [(1.35, 1.5), (1.0, 1.05)];
    let measured = plans
        .iter()
        .zip(factors)
        .map(|(plan, (decode, prefill))| measured(plan, hidden(decode, prefill, 1_200_000, 0), true));
    let scores = score(measured.collect()).unwrap();
    assert_eq!(scores.versions[0].fitted.sharing, Sharing::Engine, "{}", figures(&scores));
    let found = scores.calibrations();
    let names: Vec<&str> = found.iter().map(|calibration| calibration.name.as_str()).collect();
    assert_eq!(names, ["vllm-0.26-llama-3.1-8b", "vllm-0.26-qwen3-32b"]);
    for (calibration, (decode, prefill)) in found.iter().zip(factors) {
        near("decode", calibration.decode_scale / decode, 1.0, 0.03);
        near("prefill", calibration.prefill_scale / prefill, 1.0, 0.05);
        near("host time, ms", calibration.host().base_ns as f64 * 1e-6, 1.2, 0.0);
    }
}

#[test]
fn predictions_that_are_right_get_no_calibration() {
    let plan = &plans(&["llama-3.1-8b"])[0];
    let scores = score(vec![measured(plan, Residual::NONE, true)]).unwrap();
    assert_eq!(scores.versions[0].fitted.sharing, Sharing::Nothing, "{}", figures(&scores));
    assert!(scores.calibrations().is_empty());
}
