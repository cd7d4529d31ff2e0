//! How far predictions are from what real engines measured: published serving runs, each turned into a scenario, with
//! nothing tuned to the part that is held out.
//!
//! | file | what |
//! |---|---|
//! | `runs.rs` | the published runs, read from `cases_index.csv`, and which of them are held out |
//! | `lengths.rs` | prompt and output lengths of a run, from the mean and the shape that it states |
//! | `deployment.rs` | the scenario of a run: model, GPU, engine settings, in one place per engine |
//! | `predict.rs` | the run under a cost model |
//! | `roofline.rs` | the constant-efficiency roofline that predictions are compared with |
//! | `residual.rs` | host time, kernel scales and launches of an engine, fitted to the training part |
//! | `diagnosis.rs` | which term is off in a bad prediction |
//! | `summary.rs`, `page.rs` | the figures of `reports/results/fidelity.md` |

mod deployment;
mod diagnosis;
mod lengths;
mod page;
mod predict;
mod residual;
mod roofline;
mod runs;
mod summary;

pub use deployment::{Case, Unsimulated, deploy};
pub use page::{Fidelity, catalogue_residuals, fidelity, fit_residuals};
pub use predict::{Prediction, predict};
pub use residual::{Residual, ResidualFit, fit_residual};
pub use roofline::Roofline;
pub use runs::{EngineName, Load, Metric, Run, Stat, Statistic, read_runs};
