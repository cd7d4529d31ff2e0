//! How far predictions are from what real engines measured: published serving runs, each turned into a scenario, with
//! nothing tuned to the part that is held out.
//!
//! | file | what |
//! |---|---|
//! | `runs.rs`, `rows.rs` | the published runs, which of them are held out, and how they are read |
//! | `lengths.rs` | prompt and output lengths of a run, from the mean and the shape that it states |
//! | `deployment.rs`, `settings.rs` | the scenario of a run: model and GPU; the settings of its engine |
//! | `predict.rs` | the run under a cost model |
//! | `roofline.rs` | the constant-efficiency roofline that predictions are compared with |
//! | `residual.rs` | front end, host time, launches and GPU factors of an engine, fitted to the training part |
//! | `diagnosis.rs` | which term is off in a bad prediction |
//! | `page.rs`, `summary.rs`, `tables.rs` | all runs under every cost model, and the tables of `reports/results/fidelity.md` |

mod deployment;
mod diagnosis;
mod lengths;
mod page;
mod predict;
mod residual;
mod roofline;
mod rows;
mod runs;
mod settings;
mod summary;
mod tables;

pub use deployment::{Case, Unsimulated, deploy};
pub use page::{Fidelity, catalogue_residuals, fidelity, fit_residuals, left_out_pages};
pub use predict::{Prediction, predict};
pub use residual::{Residual, ResidualFit, fit_residual};
pub use roofline::Roofline;
pub use rows::read_runs;
pub use runs::{EngineName, Load, Metric, Run, Stat, Statistic, ThroughputUnit};

pub(crate) use predict::predict_workload;
pub(crate) use residual::{CLIP, Value, descend};
