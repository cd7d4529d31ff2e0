//! What replicas are made of.

use super::FrontEndTime;
use crate::cost::CostModel;
use crate::replica::{DataParallel, StepPath};
use crate::scheduler::SchedulerConfig;
use std::sync::Arc;

/// What a replica is made of.
#[derive(Clone)]
pub struct EngineSpec {
    /// The limits of each of its schedulers.
    pub config: SchedulerConfig,
    /// What its steps cost.
    pub cost: Arc<dyn CostModel>,
    /// Its engines, where there are several.
    pub data_parallel: Option<DataParallel>,
    /// What requests pass before its schedulers see them.
    pub front_end: FrontEndTime,
}

impl EngineSpec {
    /// One engine.
    pub fn new(config: SchedulerConfig, cost: &Arc<dyn CostModel>) -> EngineSpec {
        EngineSpec { config, cost: Arc::clone(cost), data_parallel: None, front_end: FrontEndTime::NONE }
    }

    /// How many engines it has.
    pub(super) fn engines(&self) -> u32 {
        self.data_parallel.map_or(1, |engines| engines.ranks.max(1))
    }

    /// The path: what is asked, as far as the settings allow it.
    pub(super) fn path(&self, path: StepPath) -> StepPath {
        match path {
            _ if self.data_parallel.is_some_and(|engines| engines.is_lockstep) => StepPath::Lockstep,
            _ if self.cost.stages() > 1 => StepPath::Pipelined,
            path if path == StepPath::best(&self.config) => path,
            _ if self.config.async_scheduling => StepPath::Pipelined,
            _ => StepPath::Plain,
        }
    }
}

/// What the loop knows of a replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub config: SchedulerConfig,
    /// Number of its first engine among all.
    pub first_engine: u32,
    pub engines: u32,
}

impl Place {
    /// Those of a deployment.
    pub fn all(specs: &[EngineSpec]) -> Vec<Place> {
        let place = |first_engine: &mut u32, spec: &EngineSpec| {
            let place = Place { config: spec.config, first_engine: *first_engine, engines: spec.engines() };
            *first_engine += place.engines;
            Some(place)
        };
        specs.iter().scan(0, place).collect()
    }

    /// KV blocks that requests can hold, of each engine.
    pub fn usable_blocks(&self) -> impl Iterator<Item = u32> + use<> {
        std::iter::repeat_n(self.config.total_blocks.saturating_sub(1), self.engines as usize)
    }
}
