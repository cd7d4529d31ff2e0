//! Sections that are refused, each at its place.

use super::tests::*;
use super::*;
use std::path::Path;

#[test]
fn wrong_sections_are_located() {
    const OK: &str = "prompt: {constant: 5}, output: {constant: 5}";
    let prompt = |length: &str| {
        format!("requests: 1, arrivals: {{poisson: 1/s}}, prompt: {{{length}}}, output: {{constant: 5}}")
    };
    let arrivals = |arrivals: &str| format!("requests: 1, {OK}, arrivals: {arrivals}");
    let cases = [
        (String::new(), "1:11: workload: says nothing about the requests"),
        (format!("{OK}, arrivals: {{poisson: 1/s}}"), "1:11: workload: nothing ends this workload"),
        (format!("requests: 1, {OK}"), "workload.arrivals: is missing"),
        (format!("requests: 0, {OK}, arrivals: {{poisson: 1/s}}"), "1:22: workload.requests: found 0"),
        (format!("duration: 0s, {OK}, arrivals: {{poisson: 1/s}}"), "workload.duration: found no time"),
        (
            "requests: 1, trace: {path: x}, prompt: {constant: 5}".into(),
            "workload.prompt: cannot go with `trace`",
        ),
        ("requests: 1, prompt: {constant: 5}".into(), "workload.output: is missing"),
        (format!("lengths: {{pairs: x}}, {OK}"), "workload.prompt: cannot go with `lengths`"),
        (arrivals("trace"), "workload.arrivals: found `trace`, but there is no `workload.trace`"),
        (arrivals("{poisson: -1/s}"), "found `-1/s`, but a rate cannot be negative"),
        (arrivals("{poisson: 0/s}"), "workload.arrivals.poisson: found 0/s, expected a rate above 0"),
        (arrivals("{poisson: 12}"), "found `12` without a unit"),
        (arrivals("{poison: 12/s}"), "found `poison`, expected one of constant, poisson"),
        (
            arrivals("{gamma: {rate: 1/s, cv: 0}}"),
            "workload.arrivals.gamma.cv: found 0, expected 0.001 to 1000",
        ),
        (arrivals("{gamma: {rate: 1/s, cv: .nan}}"), "not valid YAML: non-finite float `.nan` rejected"),
        (arrivals("{burst: {size: 0}}"), "workload.arrivals.burst.size: found 0"),
        (arrivals("{burst: {size: 1, every: 0s}}"), "workload.arrivals.burst.every: found no time"),
        (arrivals("{closed_loop: {clients: 0}}"), "workload.arrivals.closed_loop.clients: found 0"),
        (prompt("constant: 0"), "workload.prompt.constant: found 0, expected 1 to 16777216 tokens"),
        (prompt("constant: 20000000"), "workload.prompt.constant: found 20000000"),
        (prompt("uniform: {min: 9, max: 8}"), "workload.prompt.uniform.min: found 9, expected at most `max`"),
        (prompt("normal: {mean: 5, std: -1}"), "workload.prompt.normal.std: found -1"),
        (prompt("lognormal: {median: 0, sigma: 1}"), "workload.prompt.lognormal.median: found 0"),
        (prompt("lognormal: {median: .inf, sigma: 1}"), "not valid YAML: non-finite float `.inf` rejected"),
        (prompt("lognormal: {median: 5, sigma: .nan}"), "not valid YAML: non-finite float `.nan` rejected"),
        (prompt("lognormal: {median: 5, sigma: 1, mas: 1}"), "unknown key (did you mean `max`?)"),
        (prompt("quantiles: []"), "workload.prompt.quantiles: expected pairs of percent and tokens"),
        (prompt("quantiles: [[0, 1], [50, 3], [50, 4], [100, 5]]"), "quantiles.2.0: found 50 percent"),
        (prompt("quantiles: [[0, 1], [50, 3], [100, 2]]"), "quantiles.2.1: found 2 tokens, fewer"),
        (prompt("mixture: []"), "workload.prompt.mixture: expected at least one entry"),
        (prompt("mixture: [{weight: -1, length: {constant: 1}}]"), "mixture.0.weight: found -1"),
        (prompt("mixture: [{weight: 1, length: {constant: 0}}]"), "mixture.0.length.constant: found 0"),
        (prompt("mixture: [{weight: 1, length: {mixture: []}}]"), "a mixture cannot hold a mixture"),
        (
            format!("{}, shared_prefix: {{prompts: 0, tokens: 5}}", prompt("constant: 5")),
            "prefix.prompts: found 0",
        ),
        (
            format!("{}, priority: {{classes: []}}", prompt("constant: 5")),
            "workload.priority.classes: expected",
        ),
        ("trace: {path: x, limit: 0}".into(), "workload.trace.limit: found 0"),
        ("trace: {path: x, from: 2s, until: 1s}".into(), "workload.trace.until: found 1s"),
        ("trace: {path: x, rate: 0/s}".into(), "workload.trace.rate: found 0/s"),
        (
            "trace: {path: x, rate: 1/s, time_scale: 2}".into(),
            "workload.trace.rate: cannot go with `time_scale`",
        ),
        (
            "trace: {path: x, rate: 1/s}, arrivals: {poisson: 1/s}".into(),
            "trace.rate: cannot go with `arrivals`",
        ),
        ("trace: {path: x, time_scale: 0}".into(), "workload.trace.time_scale: found 0"),
        ("trace: {path: x, max_prompt_tokens: 0}".into(), "workload.trace.max_prompt_tokens: found 0"),
        (
            "trace: {path: x, format: parquet}".into(),
            "found `parquet`, expected one of azure, mooncake, burstgpt",
        ),
    ];
    for (section, expected) in cases {
        let error =
            generator_at(&format!("workload: {{{section}}}"), 1, Path::new("")).unwrap_err().to_string();
        assert!(error.starts_with("s.yaml:1:"), "{section}: {error}");
        assert!(error.contains(expected), "{section}\nfound    {error}\nexpected {expected}");
    }
}

#[test]
fn numbers_that_are_none_are_refused_without_yaml_too() {
    let spec = |cv, median| WorkloadSpec {
        requests: Some(1),
        arrivals: Some(ArrivalSpec::Gamma(GapSpec { rate: crate::units::Rate(1.0), cv })),
        prompt: Some(LengthSpec::Lognormal(LognormalSpec { median, sigma: 1.0, min: None, max: None })),
        output: Some(LengthSpec::Quantiles(vec![(0.0, 1), (f64::NAN, 2), (100.0, 3)])),
        ..WorkloadSpec::default()
    };
    let message = |spec| {
        let locate = |key: &str, message: String| crate::Error::new(message).key(key);
        WorkloadGenerator::new(&spec, 1, Path::new(""), &locate).unwrap_err().to_string()
    };
    assert!(message(spec(f64::NAN, 5.0)).starts_with("workload.arrivals.gamma.cv: found NaN"));
    assert!(message(spec(1.0, f64::INFINITY)).starts_with("workload.prompt.lognormal.median: found inf"));
    assert!(message(spec(1.0, 5.0)).starts_with("workload.output.quantiles.1.0: found NaN percent"));
}
