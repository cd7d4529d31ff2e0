//! The source of a run's requests: its classes, merged in order of time.

use super::arrivals::Arrivals;
use super::check::{Locate, check};
use super::class::{Class, ClassPlace};
use super::lengths::Lengths;
use super::servegen;
use super::spec::{ArrivalSpec, WorkloadSpec};
use super::trace::TraceRow;
use super::{Arrival, Origin};
use crate::error::Result;
use crate::rng::stream;
use crate::units::SimTime;
use std::path::Path;
use std::sync::Arc;

/// A tenant as a workload knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantShare {
    /// Its name.
    pub name: String,
    /// How often it is drawn, relative to the others.
    pub share: f64,
}

/// The requests of one run, in order of time. A copy goes on by itself and repeats the same requests.
#[derive(Debug, Clone)]
pub struct WorkloadGenerator {
    /// At least one.
    classes: Vec<Class>,
    /// When each class has its next request; never when none is known.
    next: Vec<SimTime>,
    /// The most requests of all classes together.
    limit: Option<u64>,
    /// No request of any class arrives at or after this.
    end: SimTime,
    made: u64,
    notes: Vec<String>,
}

impl WorkloadGenerator {
    /// The generator of `spec`: checks everything and reads the files, whose paths are relative to `base_dir`. `locate`
    /// makes an error about a key such as `workload.arrivals.poisson`; errors inside a file name that file's line.
    pub fn new(spec: &WorkloadSpec, seed: u64, base_dir: &Path, locate: Locate) -> Result<Self> {
        WorkloadGenerator::with_tenants(spec, seed, base_dir, &[], locate)
    }

    /// The same for a scenario with tenants, in their order.
    pub fn with_tenants(
        spec: &WorkloadSpec,
        seed: u64,
        base_dir: &Path,
        tenants: &[TenantShare],
        locate: Locate,
    ) -> Result<Self> {
        check(spec, locate)?;
        let (mut classes, mut notes) = (Vec::new(), Vec::new());
        let mut add = |spec: &WorkloadSpec, key: &str, stream_prefix: &str| {
            let index = u16::try_from(classes.len()).unwrap_or(u16::MAX);
            let place = ClassPlace { key, index, stream_prefix, tenants };
            match &spec.servegen {
                None => classes.push(Class::new(spec, &place, seed, base_dir, locate)?),
                Some(_) => notes.extend(servegen::add(&mut classes, spec, &place, seed, base_dir, locate)?),
            }
            Ok::<(), crate::Error>(())
        };
        if spec.classes.is_empty() {
            add(spec, "workload", "workload")?;
        }
        for (index, class) in spec.classes.iter().enumerate() {
            let name = class.name.as_deref().unwrap_or_default();
            add(class, &format!("workload.classes.{index}"), &format!("workload.{name}"))?;
        }
        let mut generator = WorkloadGenerator::of(classes);
        generator.limit = spec.requests.into_iter().chain(generator.limit).min();
        generator.end = spec.duration.map_or(SimTime::NEVER, |duration| SimTime(duration.0));
        generator.notes = notes;
        Ok(generator)
    }

    fn of(classes: Vec<Class>) -> Self {
        let limit = classes.iter().map(|class| class.limit).sum::<Option<u64>>();
        let mut generator = WorkloadGenerator {
            next: vec![SimTime::NEVER; classes.len()],
            classes,
            limit,
            end: SimTime::NEVER,
            made: 0,
            notes: Vec::new(),
        };
        generator.look_at_all();
        generator
    }

    /// A generator of requests that are already known; those out of order are sorted by time.
    pub fn from_arrivals(mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_by_key(|arrival| arrival.at);
        let tenants: Vec<u16> = arrivals.iter().map(|arrival| arrival.tenant).collect();
        let rows: Vec<TraceRow> = arrivals
            .into_iter()
            .map(|arrival| TraceRow {
                at_ns: arrival.at.0,
                prompt_tokens: arrival.prompt_tokens,
                output_tokens: arrival.output_tokens,
                priority: Some(arrival.priority),
                session: (arrival.session > 0).then_some(arrival.session),
                tenant: None,
                output_run: arrival.output_run,
                runs: arrival.runs,
            })
            .collect();
        let place = ClassPlace { key: "workload", index: 0, stream_prefix: "workload", tenants: &[] };
        let lengths = Lengths::Trace { rows: Arc::new(rows), next: 0 };
        let mut class = Class::of(&place, Arrivals::Trace, lengths);
        class.set_row_tenants(tenants);
        WorkloadGenerator::of(vec![class])
    }

    fn look_at_all(&mut self) {
        for (next, class) in self.next.iter_mut().zip(&self.classes) {
            *next = class.next_at().unwrap_or(SimTime::NEVER);
        }
    }

    /// A generator of requests of known lengths, prompt and output, in this order, which arrive as `arrivals` says; as
    /// many as there are lengths. With [`ArrivalSpec::Trace`] all arrive at time 0.
    pub fn from_lengths(lengths: &[(u32, u32)], arrivals: &ArrivalSpec, seed: u64) -> Self {
        let arrival = |&(prompt_tokens, output_tokens): &(u32, u32)| Arrival {
            prompt_tokens,
            output_tokens,
            ..Arrival::default()
        };
        WorkloadGenerator::from_requests(lengths.iter().map(arrival).collect(), arrivals, seed)
    }

    /// The same of requests whose tokens may be known too; what they say of their times only gives their order.
    pub fn from_requests(requests: Vec<Arrival>, arrivals: &ArrivalSpec, seed: u64) -> Self {
        let mut known = WorkloadGenerator::from_arrivals(requests);
        if let [class] = &mut known.classes[..] {
            let spec = WorkloadSpec { arrivals: Some(arrivals.clone()), ..WorkloadSpec::default() };
            class.set_arrivals(Arrivals::new(&spec, stream(seed, "workload.arrivals")));
        }
        known.look_at_all();
        known
    }

    /// The class whose request is next, the first of them at equal times.
    fn first_class(&self) -> Option<(SimTime, usize)> {
        let first = self.next.iter().zip(0..).map(|(at, index)| (*at, index)).min()?;
        (first.0 != SimTime::NEVER).then_some(first)
    }

    /// When the next request arrives. None when all have arrived, or when every client and session waits for an
    /// answer; [`is_exhausted`](Self::is_exhausted) tells the two apart.
    pub fn next_at(&self) -> Option<SimTime> {
        if self.limit.is_some_and(|limit| self.made >= limit) {
            return None;
        }
        let (at, _) = self.first_class()?;
        (at < self.end).then_some(at)
    }

    /// Mean arrivals per second: of a paced process as stated, of a trace from its first to its last row, of classes
    /// together. None for arrivals without a rate of their own.
    pub fn mean_rate(&self) -> Option<f64> {
        self.classes.iter().map(Class::mean_rate).sum()
    }

    /// Changes the mean rate: the same requests in the same order, with all times scaled (of several classes, each
    /// scaled alike). Tells whether the arrivals have a rate; if not, nothing changes.
    pub fn set_rate(&mut self, rate_per_s: f64) -> bool {
        let Some(rate) = self.mean_rate() else { return false };
        if let [class] = &mut self.classes[..] {
            class.set_rate(rate_per_s);
        } else {
            for class in &mut self.classes {
                let own = class.mean_rate().unwrap_or(0.0);
                class.set_rate(own * rate_per_s / rate);
            }
        }
        self.look_at_all();
        true
    }

    /// The next request, at the time that `next_at` gives; requests come in order of time. Not an `Iterator`: where
    /// requests follow answers there may be more after a `None`.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Arrival> {
        self.next_at()?;
        let (_, index) = self.first_class()?;
        let class = self.classes.get_mut(index)?;
        let arrival = class.next(self.made as u32)?;
        self.next[index] = class.next_at().unwrap_or(SimTime::NEVER);
        self.made += 1;
        Some(arrival)
    }

    /// The answer to a request ended at `now` with so many tokens, or, with none, the request was refused: its client or
    /// its session goes on after its think time. After a refusal a session is over, and a client waits at least a
    /// second. Does nothing for requests that nothing follows.
    pub fn on_finish(&mut self, now: SimTime, origin: Origin, generated_tokens: Option<u32>) {
        let index = usize::from(origin.class);
        let Some(class) = self.classes.get_mut(index).filter(|class| class.follows_answers()) else { return };
        class.on_finish(now, origin.session, generated_tokens);
        self.next[index] = class.next_at().unwrap_or(SimTime::NEVER);
    }

    /// Whether answers bring new requests: a closed loop, or sessions.
    pub fn follows_answers(&self) -> bool {
        self.classes.iter().any(Class::follows_answers)
    }

    /// Whether no further request can come, whatever finishes. In a closed loop that ends by `duration` alone this is
    /// false while a client waits.
    pub fn is_exhausted(&self) -> bool {
        let limited = self.limit.is_some_and(|limit| self.made >= limit);
        limited || self.classes.iter().all(Class::is_exhausted)
    }

    /// Whether prompts share tokens, so that prefix caching can matter.
    pub fn has_prefix_identity(&self) -> bool {
        self.classes.iter().any(Class::has_identity)
    }

    /// Whether requests belong to sessions, so that a router can keep those together.
    pub fn has_sessions(&self) -> bool {
        self.classes.iter().any(Class::has_sessions)
    }

    /// Malformed rows that were left out because of `on_error: skip`.
    pub fn skipped_rows(&self) -> u64 {
        self.classes.iter().map(|class| class.skipped_rows).sum()
    }

    /// What else to know of the files that were read, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The most requests that this run can have; none when only `duration` ends it.
    pub fn request_limit(&self) -> Option<u64> {
        self.limit
    }

    /// The longest prompt and the longest output in tokens, not necessarily of one request; none when a distribution
    /// is unbounded.
    pub fn longest(&self) -> Option<(u32, u32)> {
        self.classes.iter().map(Class::longest).try_fold((0, 0), |longest, class| {
            let class = class?;
            Some((longest.0.max(class.0), longest.1.max(class.1)))
        })
    }
}
