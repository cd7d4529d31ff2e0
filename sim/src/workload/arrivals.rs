//! When requests arrive, if not by a trace.

use super::LAST_ARRIVAL;
use super::sample::{exponential, gamma};
use super::spec::ArrivalSpec;
use crate::units::{SimDuration, SimTime};
use rand_pcg::Pcg64;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The gaps of a paced process, in units of the mean gap.
#[derive(Debug, Clone)]
enum Gap {
    Constant,
    Exponential,
    Gamma { shape: f64 },
}

impl Gap {
    /// A gap of mean 1.
    fn draw(&self, random: &mut Pcg64) -> f64 {
        match self {
            Gap::Constant => 1.0,
            Gap::Exponential => exponential(random),
            Gap::Gamma { shape } => gamma(random, *shape) / shape,
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
}

impl Paced {
    fn new(gap: Gap, rate_per_s: f64, random: Pcg64) -> Self {
        let mut paced = Paced { gap, rate_per_s, random, unit_time: 0.0 };
        // The first request waits one gap.
        paced.advance();
        paced
    }

    fn advance(&mut self) {
        self.unit_time += self.gap.draw(&mut self.random);
    }

    fn next_at(&self) -> SimTime {
        SimTime::ZERO + SimDuration::from_seconds(self.unit_time / self.rate_per_s)
    }
}

/// The arrival process of a run.
#[derive(Debug, Clone)]
pub(super) enum Arrivals {
    Paced(Box<Paced>),
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
    /// The process of a section that has been checked.
    pub(super) fn new(spec: &ArrivalSpec, random: Pcg64) -> Self {
        let paced = |gap, rate: &crate::units::Rate, random| {
            Arrivals::Paced(Box::new(Paced::new(gap, rate.0, random)))
        };
        match spec {
            ArrivalSpec::Constant(rate) => paced(Gap::Constant, rate, random),
            ArrivalSpec::Poisson(rate) => paced(Gap::Exponential, rate, random),
            ArrivalSpec::Gamma(s) => paced(Gap::Gamma { shape: 1.0 / (s.cv * s.cv) }, &s.rate, random),
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
            Arrivals::Paced(paced) => paced.next_at(),
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

    /// An answer ended at `now`.
    pub(super) fn on_finish(&mut self, now: SimTime) {
        if let Arrivals::ClosedLoop { think, ready } = self {
            ready.push(Reverse(now + *think));
        }
    }

    /// The mean rate per second of a paced process.
    pub(super) fn rate_per_s(&self) -> Option<f64> {
        match self {
            Arrivals::Paced(paced) => Some(paced.rate_per_s),
            _ => None,
        }
    }

    /// Changes the rate of a paced process; tells whether it is one.
    pub(super) fn set_rate(&mut self, rate_per_s: f64) -> bool {
        match self {
            Arrivals::Paced(paced) => {
                paced.rate_per_s = rate_per_s;
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
