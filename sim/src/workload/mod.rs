//! The workload of a run: which requests arrive, when, and how long they are.
//!
//! [`WorkloadSpec`] is the `workload:` section of a scenario; [`WorkloadGenerator`] turns it into [`Arrival`]s, one
//! after the other, either drawn from distributions or read from a trace. All checks and all reading happen when the
//! generator is made, so that drawing a request cannot fail.
//!
//! Draws come from one random stream per purpose (arrivals, prompt, output, pairs, prefix, priority, turns, think,
//! tenant), and per class where there are several, so that changing one of them leaves the others as they were. All transcendental functions are `libm`'s, which give the same bits on
//! every machine.

mod arrivals;
mod check;
mod choices;
mod class;
mod envelope;
mod generator;
mod lengths;
mod sample;
mod servegen;
mod sessions;
mod shape;
mod spec;
pub mod trace;

pub use crate::identity::TokenRun;
pub use check::Locate;
pub use generator::{TenantShare, WorkloadGenerator};
pub use shape::{DelaySpec, EnvelopeSpec, LognormalDelaySpec, ServegenSpec, SessionSpec};
pub use spec::{
    ArrivalSpec, BurstSpec, ClosedLoopSpec, GapSpec, LengthPairsSpec, LengthSpec, LognormalSpec, MixturePart,
    NormalSpec, OnError, PriorityClass, PrioritySpec, SharedPrefixSpec, TraceFormat, TraceSpec, UniformSpec,
    WorkloadSpec,
};

use crate::units::SimTime;

/// The longest prompt, and the longest output, that any source may ask for, in tokens (2^24).
pub const MAX_TOKENS: u32 = 1 << 24;

/// Arrivals end here: 2^62 ns, about 146 years.
pub const LAST_ARRIVAL: SimTime = SimTime(1 << 62);

/// One request as it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrival {
    /// When it arrives.
    pub at: SimTime,
    /// Length of the prompt in tokens, at least 1.
    pub prompt_tokens: u32,
    /// Tokens that the model generates when nothing cuts it short, at least 1.
    pub output_tokens: u32,
    /// Smaller is more important.
    pub priority: i32,
    /// Which tenant sends it, as the scenario lists them; 0 where there is only one.
    pub tenant: u16,
    /// Which session it is a turn of; a number of its own when it is in none.
    pub session: u32,
    /// Which class of the workload it is of.
    pub class: u16,
    /// Names the tokens of the reply, where a later prompt repeats them.
    pub output_run: Option<u64>,
    /// Identity of the prompt's tokens, in order, summing to `prompt_tokens`; empty when it shares nothing with others.
    pub runs: Vec<TokenRun>,
}

/// Whose answer an end is: what [`WorkloadGenerator::on_finish`] has to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    class: u16,
    session: u32,
}

impl Arrival {
    /// Whose answer its end will be.
    pub fn origin(&self) -> Origin {
        Origin { class: self.class, session: self.session }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod class_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod refused_tests;
