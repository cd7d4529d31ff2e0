//! The source of a run's requests.

use super::arrivals::Arrivals;
use super::check::{Locate, check};
use super::sample::{LengthSampler, Weighted, below};
use super::spec::{ArrivalSpec, PrioritySpec, SharedPrefixSpec, TraceFormat, TraceSpec, WorkloadSpec};
use super::trace::{self, TraceRow};
use super::{Arrival, TokenRun};
use crate::error::{Error, Result};
use crate::rng::stream;
use crate::units::SimTime;
use rand_pcg::Pcg64;
use std::path::Path;
use std::sync::Arc;

/// Where prompt and output lengths come from.
#[derive(Debug, Clone)]
enum Lengths {
    Drawn { prompt: Box<(LengthSampler, Pcg64)>, output: Box<(LengthSampler, Pcg64)> },
    Pairs { rows: Arc<Vec<TraceRow>>, random: Pcg64 },
    Trace { rows: Arc<Vec<TraceRow>>, next: usize },
}

/// System prompts that requests share.
#[derive(Debug, Clone)]
struct SharedPrefix {
    prompts: u32,
    tokens: u32,
    choice: Weighted,
    random: Pcg64,
}

/// Priorities of requests that bring none of their own.
#[derive(Debug, Clone)]
enum Priorities {
    Constant(i32),
    Classes { priorities: Vec<i32>, choice: Weighted, random: Pcg64 },
}

/// The requests of one run, in order of time. A copy goes on by itself and repeats the same requests.
#[derive(Debug, Clone)]
pub struct WorkloadGenerator {
    arrivals: Arrivals,
    lengths: Lengths,
    prefix: Option<SharedPrefix>,
    priorities: Priorities,
    /// The most requests that can arrive.
    limit: Option<u64>,
    /// No request arrives at or after this.
    end: SimTime,
    made: u64,
    skipped_rows: u64,
    /// What the times of a trace are multiplied by.
    time_factor: f64,
}

impl WorkloadGenerator {
    /// The generator of `spec`: checks everything and reads the files, whose paths are relative to `base_dir`. `locate`
    /// makes an error about a key such as `workload.arrivals.poisson`; errors inside a file name that file's line.
    pub fn new(spec: &WorkloadSpec, seed: u64, base_dir: &Path, locate: Locate) -> Result<Self> {
        check(spec, locate)?;
        let arrival_spec = spec.arrivals.clone().unwrap_or(ArrivalSpec::Trace);
        let mut skipped_rows = 0;
        let lengths = match (&spec.trace, &spec.lengths, &spec.prompt, &spec.output) {
            (Some(trace_spec), ..) => {
                let trace = read(trace_spec, base_dir, "workload.trace.path", locate)?;
                if arrival_spec == ArrivalSpec::Trace && !trace.has_times {
                    let message = "this trace has lengths but no times; say when requests arrive, for example \
                                   `arrivals: {poisson: 12/s}`";
                    return Err(locate("workload.arrivals", message.into()));
                }
                skipped_rows = trace.skipped_rows;
                Lengths::Trace { rows: Arc::new(trace.rows), next: 0 }
            }
            (None, Some(pairs), ..) => {
                let trace_spec = TraceSpec {
                    format: Some(TraceFormat::Lengths),
                    on_error: pairs.on_error,
                    ..TraceSpec::whole(&pairs.pairs)
                };
                let trace = read(&trace_spec, base_dir, "workload.lengths.pairs", locate)?;
                skipped_rows = trace.skipped_rows;
                Lengths::Pairs { rows: Arc::new(trace.rows), random: stream(seed, "workload.pairs") }
            }
            (None, None, Some(prompt), Some(output)) => Lengths::Drawn {
                prompt: Box::new((LengthSampler::new(prompt), stream(seed, "workload.prompt"))),
                output: Box::new((LengthSampler::new(output), stream(seed, "workload.output"))),
            },
            _ => return Err(locate("workload", "says nothing about the requests".into())),
        };
        let source_limit = match (&arrival_spec, &lengths) {
            (ArrivalSpec::Burst(burst), Lengths::Trace { rows, .. }) if burst.every.is_none() => {
                Some(burst.size.min(rows.len() as u64))
            }
            (_, Lengths::Trace { rows, .. }) => Some(rows.len() as u64),
            (ArrivalSpec::Burst(burst), _) if burst.every.is_none() => Some(burst.size),
            _ => None,
        };
        Ok(WorkloadGenerator {
            arrivals: Arrivals::new(&arrival_spec, stream(seed, "workload.arrivals")),
            lengths,
            prefix: spec.shared_prefix.as_ref().map(|prefix| SharedPrefix::new(prefix, seed)),
            priorities: Priorities::new(spec.priority.as_ref(), seed),
            limit: spec.requests.into_iter().chain(source_limit).min(),
            end: spec.duration.map_or(SimTime::NEVER, |duration| SimTime(duration.0)),
            made: 0,
            skipped_rows,
            time_factor: 1.0,
        })
    }

    /// A generator of requests that are already known; those out of order are sorted by time.
    pub fn from_arrivals(mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_by_key(|arrival| arrival.at);
        let rows: Vec<TraceRow> = arrivals
            .into_iter()
            .map(|arrival| TraceRow {
                at_ns: arrival.at.0,
                prompt_tokens: arrival.prompt_tokens,
                output_tokens: arrival.output_tokens,
                priority: Some(arrival.priority),
                session: Some(arrival.session),
                runs: arrival.runs,
            })
            .collect();
        WorkloadGenerator {
            arrivals: Arrivals::Trace,
            limit: Some(rows.len() as u64),
            lengths: Lengths::Trace { rows: Arc::new(rows), next: 0 },
            prefix: None,
            priorities: Priorities::Constant(0),
            end: SimTime::NEVER,
            made: 0,
            skipped_rows: 0,
            time_factor: 1.0,
        }
    }

    /// When the next request arrives. None when all have arrived, or, in a closed loop, when every client waits for
    /// an answer; [`is_exhausted`](Self::is_exhausted) tells the two apart.
    pub fn next_at(&self) -> Option<SimTime> {
        if self.limit.is_some_and(|limit| self.made >= limit) {
            return None;
        }
        let at = match (&self.arrivals, &self.lengths) {
            (Arrivals::Trace, Lengths::Trace { rows, next }) => self.scaled(rows.get(*next)?.at_ns),
            (arrivals, _) => arrivals.next_at()?,
        };
        (at < self.end).then_some(at)
    }

    fn scaled(&self, at_ns: u64) -> SimTime {
        if self.time_factor == 1.0 {
            return SimTime(at_ns);
        }
        SimTime((at_ns as f64 * self.time_factor).round() as u64)
    }

    /// Mean arrivals per second: of a paced process as stated, of a trace from its first to its last row. None for
    /// arrivals without a rate of their own.
    pub fn mean_rate(&self) -> Option<f64> {
        match (&self.arrivals, &self.lengths) {
            (Arrivals::Trace, Lengths::Trace { rows, .. }) => {
                let (first, last) = (rows.first()?, rows.last()?);
                let span_ns = last.at_ns.saturating_sub(first.at_ns) as f64 * self.time_factor;
                (span_ns > 0.0).then(|| (rows.len() - 1) as f64 * 1e9 / span_ns)
            }
            (arrivals, _) => arrivals.rate_per_s(),
        }
    }

    /// Changes the mean rate: the same requests in the same order, with all times scaled. Tells whether the arrivals
    /// have a rate; if not, nothing changes.
    pub fn set_rate(&mut self, rate_per_s: f64) -> bool {
        match self.mean_rate() {
            Some(rate) if matches!(self.arrivals, Arrivals::Trace) => {
                self.time_factor *= rate / rate_per_s;
                true
            }
            Some(_) => self.arrivals.set_rate(rate_per_s),
            None => false,
        }
    }

    /// The next request, at the time that `next_at` gives; requests come in order of time. Not an `Iterator`: in a
    /// closed loop there may be more after a `None`.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Arrival> {
        let at = self.next_at()?;
        let mut arrival = self.draw_lengths(at)?;
        if let Some(prefix) = &mut self.prefix {
            prefix.put_before(&mut arrival, self.made);
        }
        self.arrivals.advance();
        self.made += 1;
        Some(arrival)
    }

    /// The answer to one request ended at `now` (or the request was refused): in a closed loop its client is free and
    /// sends again after its think time. Does nothing for other arrivals.
    pub fn on_finish(&mut self, now: SimTime) {
        self.arrivals.on_finish(now);
    }

    /// Whether answers bring new requests: a closed loop.
    pub fn follows_answers(&self) -> bool {
        self.arrivals.is_closed_loop()
    }

    /// Whether no further request can come, whatever finishes. In a closed loop that ends by `duration` alone this is
    /// false while a client waits.
    pub fn is_exhausted(&self) -> bool {
        let limited = self.limit.is_some_and(|limit| self.made >= limit);
        limited || (self.next_at().is_none() && !self.arrivals.is_closed_loop())
    }

    /// Whether prompts share tokens, so that prefix caching can matter.
    pub fn has_prefix_identity(&self) -> bool {
        match &self.lengths {
            Lengths::Trace { rows, .. } => rows.iter().any(|row| !row.runs.is_empty()),
            _ => self.prefix.is_some(),
        }
    }

    /// Whether requests belong to sessions, so that a router can keep those together.
    pub fn has_sessions(&self) -> bool {
        match &self.lengths {
            Lengths::Trace { rows, .. } => rows.iter().any(|row| row.session.is_some()),
            _ => false,
        }
    }

    /// Malformed rows that were left out because of `on_error: skip`.
    pub fn skipped_rows(&self) -> u64 {
        self.skipped_rows
    }

    /// The most requests that this run can have; none when only `duration` ends it.
    pub fn request_limit(&self) -> Option<u64> {
        self.limit
    }

    /// The longest prompt and the longest output in tokens, not necessarily of one request; none when a distribution
    /// is unbounded.
    pub fn longest(&self) -> Option<(u32, u32)> {
        let (prompt, output) = match &self.lengths {
            Lengths::Drawn { prompt, output } => (prompt.0.longest()?, output.0.longest()?),
            Lengths::Pairs { rows, .. } | Lengths::Trace { rows, .. } => (
                rows.iter().map(|row| row.prompt_tokens).max()?,
                rows.iter().map(|row| row.output_tokens).max()?,
            ),
        };
        Some((prompt + self.prefix.as_ref().map_or(0, |prefix| prefix.tokens), output))
    }

    fn draw_lengths(&mut self, at: SimTime) -> Option<Arrival> {
        let own_session = self.made as u32;
        let from_row = |row: &TraceRow, priority| Arrival {
            at,
            prompt_tokens: row.prompt_tokens,
            output_tokens: row.output_tokens,
            priority,
            session: row.session.unwrap_or(own_session),
            runs: row.runs.clone(),
        };
        Some(match &mut self.lengths {
            Lengths::Drawn { prompt, output } => {
                let (prompt_sampler, prompt_random) = prompt.as_mut();
                let (output_sampler, output_random) = output.as_mut();
                Arrival {
                    at,
                    prompt_tokens: prompt_sampler.draw(prompt_random),
                    output_tokens: output_sampler.draw(output_random),
                    priority: self.priorities.draw(),
                    session: own_session,
                    runs: Vec::new(),
                }
            }
            Lengths::Pairs { rows, random } => {
                let row = rows.get(below(random, rows.len() as u64) as usize)?;
                from_row(row, self.priorities.draw())
            }
            Lengths::Trace { rows, next } => {
                let row = rows.get(*next)?;
                *next += 1;
                let drawn = self.priorities.draw();
                from_row(row, row.priority.unwrap_or(drawn))
            }
        })
    }
}

/// Reads a trace; what is wrong with the file as a whole is told at the key that names it.
fn read(spec: &TraceSpec, base_dir: &Path, key: &str, locate: Locate) -> Result<trace::Trace> {
    trace::read(spec, base_dir).map_err(|error: Error| match error.place() {
        Some(place) if place.line == 0 => locate(key, format!("{}: {}", place.file, error.message())),
        _ => error,
    })
}

impl SharedPrefix {
    fn new(spec: &SharedPrefixSpec, seed: u64) -> Self {
        SharedPrefix {
            prompts: spec.prompts,
            tokens: spec.tokens,
            choice: Weighted::zipf(spec.prompts, spec.zipf),
            random: stream(seed, "workload.prefix"),
        }
    }

    /// Puts a system prompt before the own prompt of request number `number`.
    fn put_before(&mut self, arrival: &mut Arrival, number: u64) {
        let system_prompt = self.choice.draw(&mut self.random) as u64;
        let own_id = u64::from(self.prompts) + number;
        arrival.runs = vec![
            TokenRun { id: system_prompt, tokens: self.tokens },
            TokenRun { id: own_id, tokens: arrival.prompt_tokens },
        ];
        arrival.prompt_tokens += self.tokens;
    }
}

impl Priorities {
    fn new(spec: Option<&PrioritySpec>, seed: u64) -> Self {
        match spec {
            None => Priorities::Constant(0),
            Some(PrioritySpec::Constant(priority)) => Priorities::Constant(*priority),
            Some(PrioritySpec::Classes(classes)) => Priorities::Classes {
                priorities: classes.iter().map(|class| class.priority).collect(),
                choice: Weighted::new(classes.iter().map(|class| class.weight)),
                random: stream(seed, "workload.priority"),
            },
        }
    }

    fn draw(&mut self) -> i32 {
        match self {
            Priorities::Constant(priority) => *priority,
            Priorities::Classes { priorities, choice, random } => priorities[choice.draw(random)],
        }
    }
}
