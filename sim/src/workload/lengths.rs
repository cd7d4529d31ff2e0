//! Where the lengths of requests come from.

use super::sample::{LengthSampler, Weighted, below};
use super::spec::{TraceFormat, TraceSpec, WorkloadSpec};
use super::trace::{self, SessionScript, Trace, TraceRow};
use super::{Locate, TokenRun};
use crate::error::{Error, Result};
use crate::rng::stream;
use crate::units::SimTime;
use rand_pcg::Pcg64;
use std::path::Path;
use std::sync::Arc;

/// Values with how often each occurs.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    values: Vec<u32>,
    choice: Weighted,
}

impl Histogram {
    /// Of pairs of value and weight; at least one weight is above 0.
    pub(super) fn new(pairs: &[(u32, f64)]) -> Histogram {
        Histogram {
            values: pairs.iter().map(|pair| pair.0).collect(),
            choice: Weighted::new(pairs.iter().map(|pair| pair.1)),
        }
    }

    /// A value, at least 1.
    fn draw(&self, random: &mut Pcg64) -> u32 {
        self.values.get(self.choice.draw(random)).copied().unwrap_or(1).max(1)
    }

    fn longest(&self) -> u32 {
        self.values.iter().copied().max().unwrap_or(1)
    }
}

/// Lengths from a time on.
#[derive(Debug, Clone)]
pub(super) struct LengthWindow {
    pub from: SimTime,
    pub prompt: Histogram,
    pub output: Histogram,
}

/// Where prompt and output lengths come from.
#[derive(Debug, Clone)]
pub(super) enum Lengths {
    Drawn { prompt: Box<(LengthSampler, Pcg64)>, output: Box<(LengthSampler, Pcg64)> },
    Pairs { rows: Arc<Vec<TraceRow>>, random: Pcg64 },
    Windows { windows: Arc<Vec<LengthWindow>>, prompt_random: Pcg64, output_random: Pcg64 },
    Trace { rows: Arc<Vec<TraceRow>>, next: usize },
    Sessions { scripts: Arc<Vec<SessionScript>>, next: usize },
}

/// Lengths, and what else their file says.
pub(super) struct Source {
    pub lengths: Lengths,
    pub skipped_rows: u64,
    /// By row of a trace: the name of its tenant; empty when no row has one.
    pub tenants: Vec<Option<Box<str>>>,
}

impl Source {
    /// The source of a workload that has been checked, at `key`.
    pub(super) fn new(
        spec: &WorkloadSpec,
        key: &str,
        (seed, stream_of): (u64, &dyn Fn(&str) -> String),
        base_dir: &Path,
        locate: Locate,
    ) -> Result<Source> {
        let plain = |lengths| Source { lengths, skipped_rows: 0, tenants: Vec::new() };
        match (&spec.trace, &spec.lengths, &spec.prompt, &spec.output) {
            (Some(trace_spec), ..) => {
                let trace = read(trace_spec, base_dir, &format!("{key}.trace.path"), locate)?;
                Source::of_trace(trace, spec, key, locate)
            }
            (None, Some(pairs), ..) => {
                let trace_spec = TraceSpec {
                    format: Some(TraceFormat::Lengths),
                    on_error: pairs.on_error,
                    ..TraceSpec::whole(&pairs.pairs)
                };
                let trace = read(&trace_spec, base_dir, &format!("{key}.lengths.pairs"), locate)?;
                let random = stream(seed, &stream_of("pairs"));
                let lengths = Lengths::Pairs { rows: Arc::new(trace.rows), random };
                Ok(Source { skipped_rows: trace.skipped_rows, ..plain(lengths) })
            }
            (None, None, Some(prompt), Some(output)) => Ok(plain(Lengths::Drawn {
                prompt: Box::new((LengthSampler::new(prompt), stream(seed, &stream_of("prompt")))),
                output: Box::new((LengthSampler::new(output), stream(seed, &stream_of("output")))),
            })),
            _ => Err(locate(key, "says nothing about the requests".into())),
        }
    }

    fn of_trace(mut trace: Trace, spec: &WorkloadSpec, key: &str, locate: Locate) -> Result<Source> {
        let at_its_times = spec.arrivals.as_ref().is_none_or(|a| *a == super::ArrivalSpec::Trace);
        if at_its_times && !trace.has_times {
            let what =
                if trace.sessions.is_empty() { "lengths but no times" } else { "sessions without a clock" };
            let message = format!(
                "this trace has {what}; say when {} arrive, for example `arrivals: {{poisson: 12/s}}`",
                if trace.sessions.is_empty() { "requests" } else { "they" }
            );
            return Err(locate(&format!("{key}.arrivals"), message));
        }
        let skipped_rows = trace.skipped_rows;
        if !trace.sessions.is_empty() {
            let lengths = Lengths::Sessions { scripts: Arc::new(trace.sessions), next: 0 };
            return Ok(Source { lengths, skipped_rows, tenants: Vec::new() });
        }
        let mut tenants: Vec<Option<Box<str>>> = Vec::new();
        if trace.rows.iter().any(|row| row.tenant.is_some()) {
            tenants = trace.rows.iter_mut().map(|row| row.tenant.take()).collect();
        }
        Ok(Source { lengths: Lengths::Trace { rows: Arc::new(trace.rows), next: 0 }, skipped_rows, tenants })
    }
}

/// Reads a trace; what is wrong with the file as a whole is told at the key that names it.
fn read(spec: &TraceSpec, base_dir: &Path, key: &str, locate: Locate) -> Result<Trace> {
    trace::read(spec, base_dir).map_err(|error| at_key(error, key, locate))
}

/// An error about a whole file, told at the key that names it; one about a line stays there.
pub(super) fn at_key(error: Error, key: &str, locate: Locate) -> Error {
    match error.place() {
        Some(place) if place.line == 0 => locate(key, format!("{}: {}", place.file, error.message())),
        _ => error,
    }
}

impl Lengths {
    /// Prompt and output of a request at `at`, by draw; `other` takes the place of the prompt's distribution. None of a
    /// trace, which gives whole requests.
    pub(super) fn draw(&mut self, at: SimTime, other: Option<&LengthSampler>) -> Option<(u32, u32)> {
        match self {
            Lengths::Drawn { prompt, output } => {
                let (prompt_sampler, prompt_random) = prompt.as_mut();
                let (output_sampler, output_random) = output.as_mut();
                Some((
                    other.unwrap_or(prompt_sampler).draw(prompt_random),
                    output_sampler.draw(output_random),
                ))
            }
            Lengths::Pairs { rows, random } => {
                let row = rows.get(below(random, rows.len() as u64) as usize)?;
                Some((row.prompt_tokens, row.output_tokens))
            }
            Lengths::Windows { windows, prompt_random, output_random } => {
                // The window of the time, or the first when it starts later.
                let index = windows.partition_point(|window| window.from <= at).saturating_sub(1);
                let window = windows.get(index)?;
                Some((window.prompt.draw(prompt_random), window.output.draw(output_random)))
            }
            Lengths::Trace { .. } | Lengths::Sessions { .. } => None,
        }
    }

    /// Whether its requests bring ids of a file.
    pub(super) fn has_own_ids(&self) -> bool {
        matches!(self, Lengths::Trace { .. } | Lengths::Sessions { .. })
    }

    /// How many requests it can give at most; none when there is no end.
    pub(super) fn limit(&self) -> Option<u64> {
        match self {
            Lengths::Trace { rows, .. } => Some(rows.len() as u64),
            Lengths::Sessions { scripts, .. } => Some(scripts.iter().map(|s| s.turns.len() as u64).sum()),
            _ => None,
        }
    }

    /// Whether its requests say what their tokens are.
    pub(super) fn has_identity(&self) -> bool {
        match self {
            Lengths::Trace { rows, .. } => {
                rows.iter().any(|row| !row.runs.is_empty() || row.output_run.is_some())
            }
            Lengths::Sessions { .. } => true,
            _ => false,
        }
    }

    /// The longest prompt and output; none when a distribution is unbounded.
    pub(super) fn longest(&self) -> Option<(u32, u32)> {
        let of_rows = |rows: &[TraceRow]| {
            Some((
                rows.iter().map(|row| row.prompt_tokens).max()?,
                rows.iter().map(|row| row.output_tokens).max()?,
            ))
        };
        match self {
            Lengths::Drawn { prompt, output } => Some((prompt.0.longest()?, output.0.longest()?)),
            Lengths::Pairs { rows, .. } | Lengths::Trace { rows, .. } => of_rows(rows),
            Lengths::Windows { windows, .. } => Some((
                windows.iter().map(|window| window.prompt.longest()).max()?,
                windows.iter().map(|window| window.output.longest()).max()?,
            )),
            Lengths::Sessions { scripts, .. } => {
                let turns = || scripts.iter().flat_map(|script| &script.turns);
                Some((
                    turns().map(|turn| turn.prompt_tokens).max()?,
                    turns().map(|turn| turn.output_tokens).max()?,
                ))
            }
        }
    }
}

/// The same runs under names that no other class has.
pub(super) fn in_class(runs: &[TokenRun], first_run: u64) -> Vec<TokenRun> {
    runs.iter().map(|run| TokenRun { id: run.id.wrapping_add(first_run), tokens: run.tokens }).collect()
}
