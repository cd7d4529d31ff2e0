//! From measured kernel times to cost profiles: read or import measurements, fit the closed forms and residual
//! tables of each kernel family, and check them on whole shapes that the fit never saw.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod bench;
pub mod beside;
pub mod check;
pub mod coverage;
pub mod fidelity;
pub mod fit;
pub mod from_bench;
pub mod holdout;
pub mod import;
pub mod measurement;
pub mod plot;
pub mod profile;
pub mod recipe;
pub mod report;
mod search;
mod table_fit;
pub mod truth;
pub mod vidur;
mod write;

pub use sim::{Error, Result};

#[cfg(test)]
mod tests;
