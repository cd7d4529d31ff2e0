//! When requests arrive, if not by a trace.

use super::LAST_ARRIVAL;
use super::envelope::Envelope;
use super::sample::{exponential, gamma, weibull, weibull_mean, weibull_shape};
use super::spec::{ArrivalSpec, WorkloadSpec};
use crate::units::{SimDuration, SimTime};
use rand_pcg::Pcg64;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The gaps of a paced process, in units of the mean gap.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gap {
    Constant,
    Exponential,
    Gamma { shape: f64 },
    Weibull { shape: f64, mean: f64 },
}

impl Gap {
    /// Gamma gaps with this coefficient of variation.
    pub(super) fn gamma(cv: f64) -> Gap {
        Gap::Gamma { shape: 1.0 / (cv * cv) }
    }

    /// Weibull gaps with this coefficient of variation.
    pub(super) fn weibull(cv: f64) -> Gap {
        let shape = weibull_shape(cv);
        Gap::Weibull { shape, mean: weibull_mean(shape) }
    }

    /// A gap of mean 1.
    fn draw(&self, random: &mut Pcg64) -> f64 {
        match self {
            Gap::Constant => 1.0,
            Gap::Exponential => exponential(random),
            Gap::Gamma { shape } => gamma(random, *shape) / shape,
            Gap::Weibull { shape, mean } => weibull(random, *shape) / mean,
        }
    }
}

/// Gaps that do not depend on what happens to the requests. Time is summed at rate 1 and scaled afterwards, so that
/// one seed gives one sequence of which every rate is a scaled copy: twice the rate halves every time, to rounding.
#[derive(Debug, Clone)]
pub(super) struct Paced {
    gap: Gap,
    rate_per_s: f64,
    random: Pcg64,
    /// Time of the next arrival in mean gaps.
    unit_time: f64,
    envelope: Option<Envelope>,
}

impl Paced {
    fn new(gap: Gap, rate_per_s: f64, envelope: Option<Envelope>, random: Pcg64) -> Self {
        let mut paced = Paced { gap, rate_per_s, random, unit_time: 0.0, envelope };
        // The first request waits one gap.
        paced.advance();
        paced
    }

    fn advance(&mut self) {
        self.unit_time += self.gap.draw(&mut self.random);
    }

    /// None when an envelope ends at 0 for good.
    fn next_at(&self) -> Option<SimTime> {
        let at_s = self.unit_time / self.rate_per_s;
        let at_s = self.envelope.as_ref().map_or(Some(at_s), |envelope| envelope.time_of(at_s))?;
        Some(SimTime::ZERO + SimDuration::from_seconds(at_s))
    }

    fn mean_rate_per_s(&self) -> f64 {
        self.rate_per_s * self.envelope.as_ref().map_or(1.0, Envelope::mean_factor)
    }
}

/// A stretch of time in which a client has one rate and one kind of gaps.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub start_s: f64,
    pub end_s: f64,
    pub rate_per_s: f64,
    pub gap: Gap,
}

/// A client by windows. A gap is of the window where it begins; what is left of it at the window's end goes on at the
/// next window's rate.
#[derive(Debug, Clone)]
pub(super) struct Windowed {
    windows: Arc<Vec<Window>>,
    /// Multiplies all rates.
    factor: f64,
    /// The time over which the mean rate is taken.
    span_s: f64,
    random: Pcg64,
    /// As `random` was at the start.
    first_random: Pcg64,
    window: usize,
    /// The next arrival, in seconds; none after the last.
    at_s: Option<f64>,
}

impl Windowed {
    /// `windows` are in order and do not overlap.
    pub(super) fn new(windows: Vec<Window>, factor: f64, span_s: f64, random: Pcg64) -> Windowed {
        let windows = Arc::new(windows);
        let first_random = random.clone();
        let mut windowed =
            Windowed { windows, factor, span_s, random, first_random, window: 0, at_s: Some(0.0) };
        windowed.advance();
        windowed
    }

    fn advance(&mut self) {
        let Some(mut at_s) = self.at_s else { return };
        let mut left: Option<f64> = None;
        self.at_s = None;
        while let Some(window) = self.windows.get(self.window) {
            at_s = at_s.max(window.start_s);
            let gap = *left.get_or_insert_with(|| window.gap.draw(&mut self.random));
            let rate_per_s = window.rate_per_s * self.factor;
            let room = (window.end_s - at_s).max(0.0) * rate_per_s;
            if gap < room {
                self.at_s = Some(at_s + gap / rate_per_s);
                return;
            }
            left = Some(gap - room);
            self.window += 1;
        }
    }

    /// Multiplies the rates, before the first request is drawn.
    fn scale(&mut self, factor: f64) {
        self.factor *= factor;
        self.random = self.first_random.clone();
        self.window = 0;
        self.at_s = Some(0.0);
        self.advance();
    }

    /// Arrivals per second.
    fn mean_rate_per_s(&self) -> f64 {
        let arrivals: f64 = self.windows.iter().map(|w| (w.end_s - w.start_s) * w.rate_per_s).sum();
        arrivals * self.factor / self.span_s
    }
}

/// A client whose request was refused waits at least this long before the next.
const REFUSED_WAIT: SimDuration = SimDuration(1_000_000_000);

/// The arrival process of a run.
#[derive(Debug, Clone)]
pub(super) enum Arrivals {
    Paced(Box<Paced>),
    Windowed(Box<Windowed>),
    /// Groups of `size` requests; `left` of the group at `at` have not arrived yet.
    Burst {
        size: u64,
        every: Option<SimDuration>,
        at: SimTime,
        left: u64,
    },
    /// The times at which free clients send; a client with an outstanding request is in none of them.
    ClosedLoop {
        think: SimDuration,
        ready: BinaryHeap<Reverse<SimTime>>,
    },
    /// The caller asks the trace.
    Trace,
}

impl Arrivals {
    /// The process of a section that has been checked; a trace's own times when it says none.
    pub(super) fn new(workload: &WorkloadSpec, random: Pcg64) -> Self {
        let envelope = workload.envelope.as_ref().map(Envelope::new);
        let paced = |gap, rate: &crate::units::Rate, random| {
            Arrivals::Paced(Box::new(Paced::new(gap, rate.0, envelope, random)))
        };
        match workload.arrivals.as_ref().unwrap_or(&ArrivalSpec::Trace) {
            ArrivalSpec::Constant(rate) => paced(Gap::Constant, rate, random),
            ArrivalSpec::Poisson(rate) => paced(Gap::Exponential, rate, random),
            ArrivalSpec::Gamma(s) => paced(Gap::gamma(s.cv), &s.rate, random),
            ArrivalSpec::Weibull(s) => paced(Gap::weibull(s.cv), &s.rate, random),
            ArrivalSpec::Burst(s) => Arrivals::Burst {
                size: s.size,
                every: s.every.map(SimDuration::from),
                at: SimTime::ZERO,
                left: s.size,
            },
            ArrivalSpec::ClosedLoop(s) => Arrivals::ClosedLoop {
                think: s.think.map_or(SimDuration::ZERO, SimDuration::from),
                ready: (0..s.clients).map(|_| Reverse(SimTime::ZERO)).collect(),
            },
            ArrivalSpec::Trace => Arrivals::Trace,
        }
    }

    /// When the next request arrives; none when nothing is due before an answer ends, or ever.
    pub(super) fn next_at(&self) -> Option<SimTime> {
        let at = match self {
            Arrivals::Paced(paced) => paced.next_at()?,
            Arrivals::Windowed(windowed) => SimTime::ZERO + SimDuration::from_seconds(windowed.at_s?),
            Arrivals::Burst { left: 0, .. } | Arrivals::Trace => return None,
            Arrivals::Burst { at, .. } => *at,
            Arrivals::ClosedLoop { ready, .. } => ready.peek()?.0,
        };
        (at <= LAST_ARRIVAL).then_some(at)
    }

    /// The request at `next_at` has arrived.
    pub(super) fn advance(&mut self) {
        match self {
            Arrivals::Paced(paced) => paced.advance(),
            Arrivals::Windowed(windowed) => windowed.advance(),
            Arrivals::Burst { size, every, at, left } => {
                *left = left.saturating_sub(1);
                if let (0, Some(every)) = (*left, *every) {
                    *at = *at + every;
                    *left = *size;
                }
            }
            Arrivals::ClosedLoop { ready, .. } => {
                ready.pop();
            }
            Arrivals::Trace => {}
        }
    }

    /// An answer, or with `is_refused` a refusal, came at `now`: in a closed loop its client sends again.
    pub(super) fn on_finish(&mut self, now: SimTime, is_refused: bool) {
        if let Arrivals::ClosedLoop { think, ready } = self {
            let wait = if is_refused { (*think).max(REFUSED_WAIT) } else { *think };
            ready.push(Reverse(now + wait));
        }
    }

    /// The mean rate per second of a process that has one.
    pub(super) fn rate_per_s(&self) -> Option<f64> {
        match self {
            Arrivals::Paced(paced) => Some(paced.mean_rate_per_s()),
            Arrivals::Windowed(windowed) => Some(windowed.mean_rate_per_s()),
            _ => None,
        }
    }

    /// Changes the mean rate of a process that has one; tells whether it does.
    pub(super) fn set_rate(&mut self, rate_per_s: f64) -> bool {
        match self {
            Arrivals::Paced(paced) => {
                paced.rate_per_s = rate_per_s / paced.envelope.as_ref().map_or(1.0, Envelope::mean_factor);
                true
            }
            Arrivals::Windowed(windowed) => {
                let factor = rate_per_s / windowed.mean_rate_per_s();
                windowed.scale(factor);
                true
            }
            _ => false,
        }
    }

    /// Whether an answer can bring a request that `next_at` does not know of yet.
    pub(super) fn is_closed_loop(&self) -> bool {
        matches!(self, Arrivals::ClosedLoop { .. })
    }
}
