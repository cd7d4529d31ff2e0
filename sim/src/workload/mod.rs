//! placeholder until the workload branch is merged
use crate::identity::TokenRun;
use crate::units::SimTime;
use std::collections::VecDeque;
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    pub at: SimTime,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub priority: i32,
    pub runs: Vec<TokenRun>,
}
pub struct WorkloadGenerator {
    arrivals: VecDeque<Arrival>,
}
impl WorkloadGenerator {
    pub fn from_arrivals(arrivals: Vec<Arrival>) -> Self {
        WorkloadGenerator { arrivals: arrivals.into() }
    }
    pub fn next_at(&self) -> Option<SimTime> {
        self.arrivals.front().map(|a| a.at)
    }
    pub fn next(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }
    pub fn on_finish(&mut self, _now: SimTime) {}
}
