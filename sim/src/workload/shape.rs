//! Shapes of traffic in the `workload:` section: sessions, envelopes and ServeGen's clients, as written and checked.

use super::check::{Locate, check_length, check_real, check_tokens};
use super::spec::{ArrivalSpec, LengthSpec, WorkloadSpec};
use crate::error::Result;
use crate::units::{Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Conversations. Each prompt is the one before it, its reply, and `prompt` new tokens; `shared_prefix` opens the
/// first. The next turn is sent `think` after the answer. A session ends early when a turn is refused.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// Turns of a session, 1 or more.
    pub turns: LengthSpec,
    /// Time between the end of an answer and the next turn.
    pub think: DelaySpec,
    /// Length of the first turn's own prompt in tokens; as `prompt` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_prompt: Option<LengthSpec>,
    /// A turn whose prompt and reply would exceed this many tokens is not sent, and ends the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
}

/// A distribution of times.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum DelaySpec {
    /// Always the same.
    Constant(Span),
    /// Exponential with this mean.
    Exponential(Span),
    /// A time whose logarithm is normal.
    Lognormal(LognormalDelaySpec),
}

/// A lognormal time.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LognormalDelaySpec {
    /// Median.
    pub median: Span,
    /// Standard deviation of the natural logarithm.
    pub sigma: f64,
}

/// Straight lines between points of time and factor; two points at one time are a jump.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSpec {
    /// Pairs of time and factor, the first at 0s, for example `[[0s, 0.2], [14h, 1], [24h, 0.2]]`. After the last
    /// point its factor holds.
    pub points: Vec<(Span, f64)>,
    /// Starts over after this time, for example `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
}

/// Clients of ServeGen (arXiv 2505.09999): per window of 10 minutes the rate of each and the coefficient of variation
/// and family of its gaps; per window of 6 hours its lengths.
#[derive(Deserialize, Serialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ServegenSpec {
    /// CSV, may be gzipped: client, window_start_s, rate_rps, cv, family, and others that are not used.
    pub arrivals: PathBuf,
    /// JSONL, may be gzipped: client, t, input_tokens and output_tokens as histograms. Clients without lengths are left
    /// out, and counted.
    pub lengths: PathBuf,
    /// Leave out windows before this time, which becomes time 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Span>,
    /// Leave out windows that start at and after this time of the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Span>,
    /// Mean rate of all used clients together; the rates of the files when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Only these clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Vec<u32>>,
}

/// The longest session.
const TURNS_MAX: u32 = 100_000;
/// The largest factor of an envelope.
const FACTOR_MAX: f64 = 1e6;

/// Checks the sections of this file, and what goes with what.
pub(super) fn check(spec: &WorkloadSpec, key: &str, locate: Locate) -> Result<()> {
    if let Some(sessions) = &spec.sessions {
        check_sessions(spec, sessions, &format!("{key}.sessions"), locate)?;
    }
    if let Some(envelope) = &spec.envelope {
        check_envelope(spec, envelope, &format!("{key}.envelope"), locate)?;
    }
    if let Some(servegen) = &spec.servegen {
        check_servegen(spec, servegen, &format!("{key}.servegen"), locate)?;
    }
    Ok(())
}

fn check_sessions(spec: &WorkloadSpec, sessions: &SessionSpec, key: &str, locate: Locate) -> Result<()> {
    if spec.trace.is_some() {
        let message = "cannot go with `trace`: only a trace of sessions has turns, and it brings them along";
        return Err(locate(key, message.into()));
    }
    let turns = format!("{key}.turns");
    if let LengthSpec::Constant(count) = sessions.turns
        && !(1..=TURNS_MAX).contains(&count)
    {
        return Err(locate(
            &format!("{turns}.constant"),
            format!("found {count}, expected 1 to {TURNS_MAX}"),
        ));
    }
    check_length(&sessions.turns, &turns, locate)?;
    if let Some(first) = &sessions.first_prompt {
        if spec.lengths.is_some() {
            let message = "cannot go with `lengths`, which gives all prompts; remove one of the two";
            return Err(locate(&format!("{key}.first_prompt"), message.into()));
        }
        check_length(first, &format!("{key}.first_prompt"), locate)?;
    }
    if let Some(most) = sessions.max_context {
        check_tokens(most, &format!("{key}.max_context"), locate)?;
    }
    match &sessions.think {
        DelaySpec::Lognormal(s) => {
            check_real(s.sigma, 0.0, 10.0, &format!("{key}.think.lognormal.sigma"), locate)
        }
        DelaySpec::Constant(_) | DelaySpec::Exponential(_) => Ok(()),
    }
}

fn check_envelope(spec: &WorkloadSpec, envelope: &EnvelopeSpec, key: &str, locate: Locate) -> Result<()> {
    let is_paced = matches!(
        spec.arrivals,
        Some(
            ArrivalSpec::Constant(_)
                | ArrivalSpec::Poisson(_)
                | ArrivalSpec::Gamma(_)
                | ArrivalSpec::Weibull(_)
        )
    );
    if !is_paced {
        let message = "needs arrivals with a rate: constant, poisson, gamma or weibull";
        return Err(locate(key, message.into()));
    }
    if envelope.points.first().map(|point| point.0.0) != Some(0) {
        let message = "expected pairs of time and factor, the first at 0s, such as `[[0s, 1], [1h, 3]]`";
        return Err(locate(&format!("{key}.points"), message.into()));
    }
    for (index, point) in envelope.points.iter().enumerate() {
        let key = format!("{key}.points.{index}");
        check_real(point.1, 0.0, FACTOR_MAX, &format!("{key}.1"), locate)?;
        if index > 0 && point.0.0 < envelope.points[index - 1].0.0 {
            return Err(locate(
                &format!("{key}.0"),
                format!("found {}, before the point before it", point.0),
            ));
        }
    }
    let last = envelope.points.last().map_or(Span(0), |point| point.0);
    if let Some(every) = envelope.every
        && (every.0 == 0 || every.0 < last.0)
    {
        let message =
            format!("found {every}, expected more than 0 and at least the last point's time, {last}");
        return Err(locate(&format!("{key}.every"), message));
    }
    if envelope.points.iter().all(|point| point.1 == 0.0) {
        return Err(locate(&format!("{key}.points"), "expected at least one factor above 0".into()));
    }
    Ok(())
}

fn check_servegen(spec: &WorkloadSpec, servegen: &ServegenSpec, key: &str, locate: Locate) -> Result<()> {
    let others = [
        ("arrivals", spec.arrivals.is_some()),
        ("prompt", spec.prompt.is_some()),
        ("output", spec.output.is_some()),
        ("lengths", spec.lengths.is_some()),
        ("trace", spec.trace.is_some()),
        ("sessions", spec.sessions.is_some()),
    ];
    if let Some((other, _)) = others.iter().find(|(_, present)| *present) {
        let parent = key.rsplit_once('.').map_or("", |parts| parts.0);
        let message = "cannot go with `servegen`, which brings arrivals and lengths; remove one of the two";
        return Err(locate(&format!("{parent}.{other}"), message.into()));
    }
    if let (from, Some(until)) = (servegen.from.map_or(0, |from| from.0), servegen.until)
        && until.0 <= from
    {
        let message = format!("found {until}, expected more than `from`; the window is empty");
        return Err(locate(&format!("{key}.until"), message));
    }
    match servegen.rate {
        Some(rate) => super::check::check_rate(rate, &format!("{key}.rate"), locate),
        None => Ok(()),
    }
}
