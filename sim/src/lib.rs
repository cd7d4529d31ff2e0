//! The simulator: scenario -> requests -> schedulers -> steps -> metrics. No GPU, no plots, no terminal.
#![forbid(unsafe_code)]

pub mod document;
pub mod error;
pub mod profile;
pub mod rng;
pub mod units;

pub use error::{Error, Result};
