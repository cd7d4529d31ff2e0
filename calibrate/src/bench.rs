//! `calibrate bench`: times the project's own kernels, and cuBLASLt's products, on the shapes that models need, within a
//! time budget, and leaves a measurement table that `calibrate fit` takes.

pub mod calls;
pub mod ceilings;
pub mod collectives;
pub mod plan;
pub mod run;
pub mod timer;
pub mod whole_step;

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;
