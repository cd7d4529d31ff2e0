//! One kind of clients: their arrivals, lengths, sessions, prefixes, priorities and tenant.

use super::arrivals::Arrivals;
use super::choices::{Priorities, Senders, SharedPrefix, find_tenant};
use super::generator::TenantShare;
use super::lengths::{Lengths, Source, in_class};
use super::sample::Weighted;
use super::sessions::{Script, Sessions};
use super::spec::{ArrivalSpec, WorkloadSpec};
use super::trace::TraceRow;
use super::{Arrival, Locate, TokenRun};
use crate::error::Result;
use crate::rng::stream;
use crate::units::SimTime;
use std::path::Path;
use std::sync::Arc;

/// Where a class stands among the others.
pub(super) struct ClassPlace<'a> {
    /// Its key in the scenario.
    pub key: &'a str,
    /// Its number.
    pub index: u16,
    /// What the names of its random streams begin with.
    pub stream_prefix: &'a str,
    /// The scenario's tenants; empty without any.
    pub tenants: &'a [TenantShare],
}

/// The requests of one class, in order of time.
#[derive(Debug, Clone)]
pub(super) struct Class {
    index: u16,
    arrivals: Arrivals,
    lengths: Lengths,
    prefix: Option<SharedPrefix>,
    priorities: Priorities,
    senders: Senders,
    /// By row of a trace: its tenant; empty when the rows do not say.
    row_tenants: Arc<Vec<u16>>,
    sessions: Option<Sessions>,
    /// The most requests that can arrive.
    pub(super) limit: Option<u64>,
    /// No request arrives at or after this.
    pub(super) end: SimTime,
    made: u64,
    /// The id of the class's first run of tokens.
    first_run: u64,
    /// The id of the next run that nobody else has.
    next_run: u64,
    pub(super) skipped_rows: u64,
    /// What the times of a trace are multiplied by.
    time_factor: f64,
}

impl Class {
    /// The class of a workload that has been checked and is not ServeGen's.
    pub(super) fn new(
        spec: &WorkloadSpec,
        place: &ClassPlace,
        seed: u64,
        base_dir: &Path,
        locate: Locate,
    ) -> Result<Class> {
        let stream_of = |purpose: &str| format!("{}.{purpose}", place.stream_prefix);
        let source = Source::new(spec, place.key, (seed, &stream_of), base_dir, locate)?;
        let arrivals = Arrivals::new(spec, stream(seed, &stream_of("arrivals")));
        let mut class = Class::of(place, arrivals, source.lengths);
        let opens_sessions = spec.sessions.is_some() || matches!(class.lengths, Lengths::Sessions { .. });
        let source_limit = match &spec.arrivals {
            Some(ArrivalSpec::Burst(burst)) if burst.every.is_none() && !opens_sessions => {
                Some(class.limit.map_or(burst.size, |rows| burst.size.min(rows)))
            }
            _ => class.limit,
        };
        class.limit = spec.requests.into_iter().chain(source_limit).min();
        class.end = spec.duration.map_or(SimTime::NEVER, |duration| SimTime(duration.0));
        class.skipped_rows = source.skipped_rows;
        if let Some(rate) = spec.trace.as_ref().and_then(|trace| trace.rate)
            && !class.set_rate(rate.0)
        {
            let message = "this trace has no rate to change: all its requests come at one time";
            return Err(locate(&format!("{}.trace.rate", place.key), message.into()));
        }
        class.set_common(spec, place, seed, locate)?;
        if spec.tenant.is_none() {
            class.row_tenants = Arc::new(class.tenants_of(&source.tenants, place, seed, locate)?);
        }
        class.sessions = match (&spec.sessions, &class.lengths) {
            (Some(sessions), _) => Some(Sessions::drawn(sessions, seed, &stream_of, class.next_run)),
            (None, Lengths::Sessions { .. }) => Some(Sessions::traced()),
            (None, _) => None,
        };
        Ok(class)
    }

    /// A class without prefixes, priorities and sessions, of the first tenant.
    pub(super) fn of(place: &ClassPlace, arrivals: Arrivals, lengths: Lengths) -> Class {
        let first_run = u64::from(place.index) << 48;
        Class {
            index: place.index,
            arrivals,
            limit: lengths.limit(),
            lengths,
            prefix: None,
            priorities: Priorities::Constant(0),
            senders: Senders::One(0),
            row_tenants: Arc::default(),
            sessions: None,
            end: SimTime::NEVER,
            made: 0,
            first_run,
            next_run: first_run,
            skipped_rows: 0,
            time_factor: 1.0,
        }
    }

    /// Sets what a workload says whatever its requests come from: prefix, priority, tenant.
    pub(super) fn set_common(
        &mut self,
        spec: &WorkloadSpec,
        place: &ClassPlace,
        seed: u64,
        locate: Locate,
    ) -> Result<()> {
        let stream_of = |purpose: &str| stream(seed, &format!("{}.{purpose}", place.stream_prefix));
        self.prefix =
            spec.shared_prefix.as_ref().map(|p| SharedPrefix::new(p, self.first_run, stream_of("prefix")));
        self.next_run = self.first_run + spec.shared_prefix.as_ref().map_or(0, |p| u64::from(p.prompts));
        self.priorities = Priorities::new(spec.priority.as_ref(), stream_of("priority"));
        self.senders = match &spec.tenant {
            Some(name) => {
                Senders::One(find_tenant(name, &format!("{}.tenant", place.key), place.tenants, locate)?)
            }
            None if place.tenants.len() > 1 => Senders::Drawn {
                choice: Weighted::new(place.tenants.iter().map(|tenant| tenant.share)),
                random: stream_of("tenant"),
            },
            None => Senders::One(0),
        };
        Ok(())
    }

    /// The tenants of a trace's rows, where rows name them and the scenario has tenants; others are drawn.
    fn tenants_of(
        &mut self,
        names: &[Option<Box<str>>],
        place: &ClassPlace,
        seed: u64,
        locate: Locate,
    ) -> Result<Vec<u16>> {
        if place.tenants.is_empty() || names.is_empty() {
            return Ok(Vec::new());
        }
        let mut senders = self.senders.clone();
        if let Senders::Drawn { random, .. } = &mut senders {
            *random = stream(seed, &format!("{}.row_tenant", place.stream_prefix));
        }
        let key = format!("{}.trace.path", place.key);
        let tenant = |name: &Option<Box<str>>| match name {
            Some(name) => find_tenant(name, &key, place.tenants, locate),
            None => Ok(senders.draw()),
        };
        names.iter().map(tenant).collect()
    }

    /// Requests of known lengths arrive otherwise.
    pub(super) fn set_arrivals(&mut self, arrivals: Arrivals) {
        self.arrivals = arrivals;
    }

    /// The tenant of each row of a trace.
    pub(super) fn set_row_tenants(&mut self, tenants: Vec<u16>) {
        self.row_tenants = Arc::new(tenants);
    }

    /// When the next request arrives; none when all have, or nothing is due before an answer.
    pub(super) fn next_at(&self) -> Option<SimTime> {
        if self.limit.is_some_and(|limit| self.made >= limit) {
            return None;
        }
        let due = self.sessions.as_ref().and_then(Sessions::next_due);
        let at = [due, self.next_fresh()].into_iter().flatten().min()?;
        (at < self.end).then_some(at)
    }

    /// When the next request arrives that follows no answer, or the next session opens.
    fn next_fresh(&self) -> Option<SimTime> {
        match (&self.arrivals, &self.lengths) {
            (Arrivals::Trace, Lengths::Trace { rows, next }) => Some(self.scaled(rows.get(*next)?.at_ns)),
            (_, Lengths::Trace { rows, next }) if *next >= rows.len() => None,
            (_, Lengths::Sessions { scripts, next }) if *next >= scripts.len() => None,
            (arrivals, _) => arrivals.next_at(),
        }
    }

    fn scaled(&self, at_ns: u64) -> SimTime {
        if self.time_factor == 1.0 {
            return SimTime(at_ns);
        }
        SimTime((at_ns as f64 * self.time_factor).round() as u64)
    }

    /// The request at `next_at`; `number` is one that no other request or session of the run has.
    pub(super) fn next(&mut self, number: u32) -> Option<Arrival> {
        let at = self.next_at()?;
        let is_due = self.sessions.as_ref().is_some_and(|sessions| sessions.next_due() == Some(at));
        let mut arrival = if is_due {
            self.sessions.as_mut()?.take_due()?
        } else if self.sessions.is_some() {
            self.open_session(at, number)?
        } else {
            self.single(at, number)?
        };
        arrival.class = self.index;
        if self.first_run > 0 && self.lengths.has_own_ids() {
            arrival.runs = in_class(&arrival.runs, self.first_run);
            arrival.output_run = arrival.output_run.map(|id| id.wrapping_add(self.first_run));
        }
        self.made += 1;
        Some(arrival)
    }

    fn single(&mut self, at: SimTime, number: u32) -> Option<Arrival> {
        let mut arrival = Arrival { at, session: number, ..Arrival::default() };
        let priority = self.priorities.draw();
        let tenant = self.senders.draw();
        match &mut self.lengths {
            Lengths::Trace { rows, next } => {
                let row = rows.get(*next)?;
                arrival.fill_from(row, priority);
                arrival.tenant = self.row_tenants.get(*next).copied().unwrap_or(tenant);
                *next += 1;
            }
            lengths => {
                (arrival.prompt_tokens, arrival.output_tokens) = lengths.draw(at, None)?;
                arrival.priority = priority;
                arrival.tenant = tenant;
            }
        }
        if let Some(prefix) = &mut self.prefix {
            let own = TokenRun { id: self.next_run, tokens: arrival.prompt_tokens };
            self.next_run += 1;
            let shared = prefix.draw();
            arrival.runs = vec![shared, own];
            arrival.prompt_tokens += shared.tokens;
        }
        self.arrivals.advance();
        Some(arrival)
    }

    fn open_session(&mut self, at: SimTime, number: u32) -> Option<Arrival> {
        let sessions = self.sessions.as_mut()?;
        let script = if let Lengths::Sessions { scripts, next } = &mut self.lengths {
            *next += 1;
            Script::Traced(Arc::clone(scripts), *next - 1)
        } else {
            let lengths = &mut self.lengths;
            sessions.draw(|first| lengths.draw(at, first).unwrap_or((1, 1)))
        };
        let system_prompt = self.prefix.as_mut().map(SharedPrefix::draw);
        self.arrivals.advance();
        sessions.open(at, number, script, system_prompt, (self.priorities.draw(), self.senders.draw()))
    }

    /// An answer ended, or with no tokens was refused.
    pub(super) fn on_finish(&mut self, now: SimTime, session: u32, generated_tokens: Option<u32>) {
        let is_over = match &mut self.sessions {
            Some(sessions) => sessions.on_finish(now, session, generated_tokens),
            None => true,
        };
        if is_over {
            self.arrivals.on_finish(now, generated_tokens.is_none());
        }
    }

    /// Whether answers bring new requests.
    pub(super) fn follows_answers(&self) -> bool {
        self.sessions.is_some() || self.arrivals.is_closed_loop()
    }

    /// Whether no further request can come, whatever finishes.
    pub(super) fn is_exhausted(&self) -> bool {
        let limited = self.limit.is_some_and(|limit| self.made >= limit);
        let waits = self.arrivals.is_closed_loop() || self.sessions.as_ref().is_some_and(Sessions::is_open);
        limited || (self.next_at().is_none() && !waits)
    }

    /// Whether requests say what their tokens are.
    pub(super) fn has_identity(&self) -> bool {
        self.prefix.is_some() || self.sessions.is_some() || self.lengths.has_identity()
    }

    /// Whether its requests belong to sessions.
    pub(super) fn has_sessions(&self) -> bool {
        let of_rows = |rows: &[TraceRow]| rows.iter().any(|row| row.session.is_some());
        self.sessions.is_some() || matches!(&self.lengths, Lengths::Trace { rows, .. } if of_rows(rows))
    }

    /// The longest prompt and output; none when unbounded.
    pub(super) fn longest(&self) -> Option<(u32, u32)> {
        if self.sessions.is_some() && !matches!(self.lengths, Lengths::Sessions { .. }) {
            return None;
        }
        let (prompt, output) = self.lengths.longest()?;
        Some((prompt + self.prefix.as_ref().map_or(0, |prefix| prefix.tokens), output))
    }

    /// Mean arrivals per second; none where they have no rate of their own.
    pub(super) fn mean_rate(&self) -> Option<f64> {
        match (&self.arrivals, &self.lengths) {
            _ if self.sessions.is_some() => None,
            (Arrivals::Trace, Lengths::Trace { rows, .. }) => {
                let (first, last) = (rows.first()?, rows.last()?);
                let span_ns = last.at_ns.saturating_sub(first.at_ns) as f64 * self.time_factor;
                (span_ns > 0.0).then(|| (rows.len() - 1) as f64 * 1e9 / span_ns)
            }
            (arrivals, _) => arrivals.rate_per_s(),
        }
    }

    /// Changes the mean rate where there is one, from `mean_rate`.
    pub(super) fn set_rate(&mut self, rate_per_s: f64) -> bool {
        match self.mean_rate() {
            Some(rate) if matches!(self.arrivals, Arrivals::Trace) => {
                self.time_factor *= rate / rate_per_s;
                true
            }
            Some(_) => self.arrivals.set_rate(rate_per_s),
            None => false,
        }
    }
}

impl Arrival {
    fn fill_from(&mut self, row: &TraceRow, priority: i32) {
        self.prompt_tokens = row.prompt_tokens;
        self.output_tokens = row.output_tokens;
        self.priority = row.priority.unwrap_or(priority);
        self.session = row.session.unwrap_or(self.session);
        self.output_run = row.output_run;
        self.runs.clone_from(&row.runs);
    }
}
