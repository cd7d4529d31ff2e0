//! The simulator: scenario -> requests -> schedulers -> steps -> metrics. No GPU, no plots, no terminal.
#![forbid(unsafe_code)]

pub mod document;
pub mod error;
pub mod rng;
pub mod units;
pub mod workload;

pub use error::{Error, Result};
