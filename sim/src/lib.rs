//! The simulator: scenario -> requests -> schedulers -> steps -> metrics. No GPU, no plots, no terminal.
#![forbid(unsafe_code)]

pub mod block_pool;
pub mod catalogue;
pub mod cost;
pub mod digits;
pub mod document;
pub mod durations;
pub mod error;
pub mod fleet;
pub mod folded;
pub mod gpu;
pub mod identity;
pub mod memory;
pub mod metrics;
mod min_tree;
pub mod model;
pub mod offload;
pub mod profile;
pub mod replica;
pub mod report;
pub mod request;
pub mod rng;
pub mod router;
pub mod scenario;
pub mod scheduler;
pub mod simulation;
pub mod speculation;
pub mod step;
pub mod tenants;
pub mod units;
pub mod workload;

pub use error::{Error, Result};
