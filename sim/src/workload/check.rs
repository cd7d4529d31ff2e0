//! Checks of the `workload:` section: every number, and what goes with what.

use super::MAX_TOKENS;
use super::spec::{
    ArrivalSpec, GapSpec, LengthSpec, PrioritySpec, SharedPrefixSpec, TraceSpec, WorkloadSpec,
};
use crate::digits::decimal;
use crate::error::{Error, Result};
use crate::units::Rate;

/// Makes an error about the key with a dotted path, for example `Document::error`.
pub type Locate<'a> = &'a dyn Fn(&str, String) -> Error;

/// Paced arrivals are at least this far apart on average: a million seconds.
const RATE_MIN: f64 = 1e-6;
/// One arrival per nanosecond, the resolution of time.
const RATE_MAX: f64 = 1e9;
/// Coefficients of variation of gamma gaps.
const CV_GAMMA: (f64, f64) = (0.001, 1000.0);
/// Coefficients of variation of Weibull gaps: shapes from 0.1 to 100.
pub(super) const CV_WEIBULL: (f64, f64) = (0.02, 400.0);
/// Clients are kept in a queue.
const CLIENTS_MAX: u32 = 1_000_000;
/// System prompts are kept in a table.
const SYSTEM_PROMPTS_MAX: u32 = 1_000_000;

/// Requests are numbered in 32 bits.
const REQUESTS_MAX: u64 = u32::MAX as u64;

/// The most classes of a workload.
const CLASSES_MAX: usize = 1000;

/// Checks the whole section without reading any file.
pub(super) fn check(spec: &WorkloadSpec, locate: Locate) -> Result<()> {
    if let Some(name) = &spec.name {
        let message = format!("found `{name}`, but only a class of `workload.classes` has a name");
        return Err(locate("workload.name", message));
    }
    if spec.classes.is_empty() {
        return check_class(spec, "workload", false, locate);
    }
    check_ends(spec, "workload", locate)?;
    let beside = WorkloadSpec { requests: None, duration: None, classes: Vec::new(), ..spec.clone() };
    if beside != WorkloadSpec::default() {
        let message =
            "with `classes` only `requests` and `duration` stand beside it; put the rest into a class";
        return Err(locate("workload.classes", message.to_string()));
    }
    if spec.classes.len() > CLASSES_MAX {
        let message = format!("found {} classes, expected at most {CLASSES_MAX}", spec.classes.len());
        return Err(locate("workload.classes", message));
    }
    let is_ended = spec.requests.is_some() || spec.duration.is_some();
    for (index, class) in spec.classes.iter().enumerate() {
        let key = format!("workload.classes.{index}");
        let Some(name) = class.name.as_ref().filter(|name| !name.is_empty()) else {
            let message = "is missing; a class needs a name, for example `name: chat`";
            return Err(locate(&format!("{key}.name"), message.to_string()));
        };
        if spec.classes[..index].iter().any(|earlier| earlier.name.as_ref() == Some(name)) {
            return Err(locate(&format!("{key}.name"), format!("found `{name}` twice; names differ")));
        }
        if !class.classes.is_empty() {
            let message = "a class cannot have classes; list them in `workload.classes`";
            return Err(locate(&format!("{key}.classes"), message.to_string()));
        }
        check_class(class, &key, is_ended, locate)?;
    }
    Ok(())
}

fn check_ends(spec: &WorkloadSpec, key: &str, locate: Locate) -> Result<()> {
    if let Some(requests) = spec.requests
        && !(1..=REQUESTS_MAX).contains(&requests)
    {
        let message = format!("found {requests}, expected 1 to {REQUESTS_MAX}");
        return Err(locate(&format!("{key}.requests"), message));
    }
    if spec.duration.is_some_and(|duration| duration.0 == 0) {
        let message = "found no time, expected more than 0, for example `10min`";
        return Err(locate(&format!("{key}.duration"), message.into()));
    }
    Ok(())
}

/// Checks one workload at `key`; `is_ended` says that something around it ends it.
fn check_class(spec: &WorkloadSpec, key: &str, is_ended: bool, locate: Locate) -> Result<()> {
    check_ends(spec, key, locate)?;
    super::shape::check(spec, key, locate)?;
    if spec.servegen.is_none() {
        check_sources(spec, key, locate)?;
        check_arrivals(spec, key, is_ended, locate)?;
    }
    for (name, length) in [("prompt", &spec.prompt), ("output", &spec.output)] {
        if let Some(length) = length {
            check_length(length, &format!("{key}.{name}"), locate)?;
        }
    }
    if let Some(prefix) = &spec.shared_prefix {
        check_prefix(prefix, &format!("{key}.shared_prefix"), locate)?;
    }
    if let Some(PrioritySpec::Classes(classes)) = &spec.priority {
        check_weights(classes.iter().map(|class| class.weight), &format!("{key}.priority.classes"), locate)?;
    }
    let Some(trace) = &spec.trace else { return Ok(()) };
    if trace.rate.is_some() && spec.arrivals.as_ref().is_some_and(|arrivals| *arrivals != ArrivalSpec::Trace)
    {
        let message = "cannot go with `arrivals`, which have a rate of their own; remove one of the two";
        return Err(locate(&format!("{key}.trace.rate"), message.into()));
    }
    check_trace(trace, &format!("{key}.trace"), locate)
}

/// Exactly one source of lengths.
fn check_sources(spec: &WorkloadSpec, key: &str, locate: Locate) -> Result<()> {
    let fail = |name: &str, message: &str| Err(locate(&format!("{key}{name}"), message.to_string()));
    let drawn = [
        ("prompt", spec.prompt.is_some()),
        ("output", spec.output.is_some()),
        ("lengths", spec.lengths.is_some()),
        ("shared_prefix", spec.shared_prefix.is_some()),
    ];
    if spec.trace.is_some() {
        return match drawn.iter().find(|(_, present)| *present) {
            Some((name, _)) => fail(
                &format!(".{name}"),
                "cannot go with `trace`, which brings its own prompts and outputs; remove one of the two",
            ),
            None => Ok(()),
        };
    }
    match (&spec.lengths, &spec.prompt, &spec.output) {
        (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
        (Some(_), Some(_), _) => fail(".prompt", "cannot go with `lengths`; remove one of the two"),
        (Some(_), None, Some(_)) => fail(".output", "cannot go with `lengths`; remove one of the two"),
        (None, Some(_), None) => {
            fail(".output", "is missing; give the output length, for example `output: {constant: 128}`")
        }
        (None, None, Some(_)) => {
            fail(".prompt", "is missing; give the prompt length, for example `prompt: {constant: 512}`")
        }
        (None, None, None) => fail(
            "",
            "says nothing about the requests; give `prompt` and `output`, or `lengths`, `trace`, `servegen` or `classes`",
        ),
    }
}

fn check_arrivals(spec: &WorkloadSpec, key: &str, is_ended: bool, locate: Locate) -> Result<()> {
    let fail = |name: &str, message: String| Err(locate(&format!("{key}.arrivals{name}"), message));
    let ended = is_ended || spec.requests.is_some() || spec.duration.is_some() || spec.trace.is_some();
    let arrivals = match &spec.arrivals {
        Some(arrivals) => arrivals,
        None if spec.trace.is_some() => return Ok(()),
        None => {
            return fail("", "is missing; say when requests arrive, for example `{poisson: 12/s}`".into());
        }
    };
    let mut single_group = false;
    match arrivals {
        ArrivalSpec::Constant(rate) => check_rate(*rate, &format!("{key}.arrivals.constant"), locate)?,
        ArrivalSpec::Poisson(rate) => check_rate(*rate, &format!("{key}.arrivals.poisson"), locate)?,
        ArrivalSpec::Gamma(gaps) => check_gaps(gaps, CV_GAMMA, &format!("{key}.arrivals.gamma"), locate)?,
        ArrivalSpec::Weibull(gaps) => {
            check_gaps(gaps, CV_WEIBULL, &format!("{key}.arrivals.weibull"), locate)?;
        }
        ArrivalSpec::Burst(burst) => {
            if burst.size == 0 {
                return fail(".burst.size", "found 0, expected 1 or more requests".into());
            }
            if burst.every.is_some_and(|every| every.0 == 0) {
                return fail(".burst.every", "found no time, expected more than 0, for example `10s`".into());
            }
            single_group = burst.every.is_none();
        }
        ArrivalSpec::ClosedLoop(clients) => {
            if !(1..=CLIENTS_MAX).contains(&clients.clients) {
                let message = format!("found {}, expected 1 to {CLIENTS_MAX} clients", clients.clients);
                return fail(".closed_loop.clients", message);
            }
        }
        ArrivalSpec::Trace => {
            if spec.trace.is_none() {
                return fail("", "found `trace`, but there is no `workload.trace` to take times from".into());
            }
        }
    }
    if !ended && !single_group {
        let message = "nothing ends this workload; give `requests` (a number), `duration` (a time), or both";
        return Err(locate(key, message.to_string()));
    }
    Ok(())
}

fn check_gaps(gaps: &GapSpec, (low, high): (f64, f64), key: &str, locate: Locate) -> Result<()> {
    check_rate(gaps.rate, &format!("{key}.rate"), locate)?;
    if (low..=high).contains(&gaps.cv) {
        return Ok(());
    }
    Err(locate(
        &format!("{key}.cv"),
        format!("found {}, expected {low} to {high} (1 is Poisson)", decimal(gaps.cv)),
    ))
}

pub(super) fn check_rate(rate: Rate, key: &str, locate: Locate) -> Result<()> {
    if (RATE_MIN..=RATE_MAX).contains(&rate.0) {
        return Ok(());
    }
    Err(locate(key, format!("found {rate}, expected a rate above 0: {RATE_MIN}/s to {RATE_MAX:.0}/s")))
}

pub(super) fn check_tokens(tokens: u32, key: &str, locate: Locate) -> Result<()> {
    if (1..=MAX_TOKENS).contains(&tokens) {
        return Ok(());
    }
    Err(locate(key, format!("found {tokens}, expected 1 to {MAX_TOKENS} tokens")))
}

pub(super) fn check_real(value: f64, low: f64, high: f64, key: &str, locate: Locate) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(locate(key, format!("found {}, expected {low} to {high}", decimal(value))))
}

/// Bounds of a distribution: each a token count, and in order.
fn check_bounds(min: Option<u32>, max: Option<u32>, key: &str, locate: Locate) -> Result<()> {
    if let Some(min) = min {
        check_tokens(min, &format!("{key}.min"), locate)?;
    }
    if let Some(max) = max {
        check_tokens(max, &format!("{key}.max"), locate)?;
    }
    match (min, max) {
        (Some(min), Some(max)) if min > max => {
            Err(locate(&format!("{key}.min"), format!("found {min}, expected at most `max`, which is {max}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_length(spec: &LengthSpec, key: &str, locate: Locate) -> Result<()> {
    let tokens_max = f64::from(MAX_TOKENS);
    match spec {
        LengthSpec::Constant(tokens) => check_tokens(*tokens, &format!("{key}.constant"), locate),
        LengthSpec::Uniform(s) => check_bounds(Some(s.min), Some(s.max), &format!("{key}.uniform"), locate),
        LengthSpec::Normal(s) => {
            let key = format!("{key}.normal");
            check_real(s.mean, 1.0, tokens_max, &format!("{key}.mean"), locate)?;
            check_real(s.std, 0.0, tokens_max, &format!("{key}.std"), locate)?;
            check_bounds(s.min, s.max, &key, locate)
        }
        LengthSpec::Lognormal(s) => {
            let key = format!("{key}.lognormal");
            check_real(s.median, 1.0, tokens_max, &format!("{key}.median"), locate)?;
            check_real(s.sigma, 0.0, 10.0, &format!("{key}.sigma"), locate)?;
            check_bounds(s.min, s.max, &key, locate)
        }
        LengthSpec::Quantiles(s) => check_quantiles(s, &format!("{key}.quantiles"), locate),
        LengthSpec::Mixture(parts) => {
            let key = format!("{key}.mixture");
            check_weights(parts.iter().map(|part| part.weight), &key, locate)?;
            for (index, part) in parts.iter().enumerate() {
                let key = format!("{key}.{index}.length");
                if matches!(part.length, LengthSpec::Mixture(_)) {
                    return Err(locate(&key, "a mixture cannot hold a mixture; list its parts here".into()));
                }
                check_length(&part.length, &key, locate)?;
            }
            Ok(())
        }
    }
}

fn check_quantiles(points: &[(f64, u32)], key: &str, locate: Locate) -> Result<()> {
    let ends = (points.first().map(|point| point.0), points.last().map(|point| point.0));
    if ends != (Some(0.0), Some(100.0)) {
        let message = "expected pairs of percent and tokens, the first at 0 percent and the last at 100";
        return Err(locate(key, message.into()));
    }
    for (index, (_, tokens)) in points.iter().enumerate() {
        check_tokens(*tokens, &format!("{key}.{index}.1"), locate)?;
    }
    for (index, pair) in points.windows(2).enumerate() {
        let key = format!("{key}.{}", index + 1);
        // Not `<=`: NaN is refused too.
        if pair[0].0.partial_cmp(&pair[1].0) != Some(std::cmp::Ordering::Less) {
            let message = format!("found {} percent, expected more than the pair before it", pair[1].0);
            return Err(locate(&format!("{key}.0"), message));
        }
        if pair[0].1 > pair[1].1 {
            let message = format!("found {} tokens, fewer than the pair before it", pair[1].1);
            return Err(locate(&format!("{key}.1"), message));
        }
    }
    Ok(())
}

/// Weights are finite, not negative, and not all 0.
fn check_weights(weights: impl Iterator<Item = f64>, key: &str, locate: Locate) -> Result<()> {
    let mut total = 0.0;
    for (index, weight) in weights.enumerate() {
        check_real(weight, 0.0, 1e9, &format!("{key}.{index}.weight"), locate)?;
        total += weight;
    }
    if total > 0.0 {
        return Ok(());
    }
    Err(locate(key, "expected at least one entry with a weight above 0".into()))
}

fn check_prefix(prefix: &SharedPrefixSpec, key: &str, locate: Locate) -> Result<()> {
    if !(1..=SYSTEM_PROMPTS_MAX).contains(&prefix.prompts) {
        let message = format!("found {}, expected 1 to {SYSTEM_PROMPTS_MAX} prompts", prefix.prompts);
        return Err(locate(&format!("{key}.prompts"), message));
    }
    check_tokens(prefix.tokens, &format!("{key}.tokens"), locate)?;
    check_real(prefix.zipf, 0.0, 10.0, &format!("{key}.zipf"), locate)
}

fn check_trace(trace: &TraceSpec, place: &str, locate: Locate) -> Result<()> {
    let key = |name: &str| format!("{place}.{name}");
    if trace.limit == Some(0) {
        return Err(locate(&key("limit"), "found 0, expected 1 or more rows".into()));
    }
    if let Some(until) = trace.until {
        let from = trace.from.map_or(0, |from| from.0);
        if until.0 <= from {
            let message = format!("found {until}, expected more than `from`; the window is empty");
            return Err(locate(&key("until"), message));
        }
    }
    if let Some(scale) = trace.time_scale {
        check_real(scale, 1e-9, 1e9, &key("time_scale"), locate)?;
    }
    if let Some(rate) = trace.rate {
        check_rate(rate, &key("rate"), locate)?;
        if trace.time_scale.is_some() {
            return Err(locate(&key("rate"), "cannot go with `time_scale`; remove one of the two".into()));
        }
    }
    for (name, cap) in
        [("max_prompt_tokens", trace.max_prompt_tokens), ("max_output_tokens", trace.max_output_tokens)]
    {
        if let Some(cap) = cap {
            check_tokens(cap, &key(name), locate)?;
        }
    }
    Ok(())
}
