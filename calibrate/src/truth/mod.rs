//! Predictions beside a vLLM that was measured for this: exact requests replayed in real time, with random weights.
//!
//! | file | what |
//! |---|---|
//! | `subjects.rs` | the deployments that are measured, as Hugging Face configurations and engine arguments |
//! | `shapes.rs` | the workloads, by name, load and lengths |
//! | `plan.rs` | both together as the files that a measuring script runs |
//! | `deploy.rs` | the scenario of a measured engine |
//! | `record.rs`, `json.rs` | what was measured: the script's results, and one small file of them |
//! | `replay.rs` | a measured workload under a cost model |
//! | `fit.rs` | fits to the development part |
//! | `score.rs`, `page.rs` | the untouched part, and tables of both |

mod deploy;
mod fit;
mod json;
mod page;
mod plan;
mod record;
mod replay;
mod score;
mod shapes;
mod subjects;

pub use deploy::{Facts, deploy};
pub use page::{figures, words};
pub use plan::{EnginePlan, Part, PlannedRequest, PlannedWorkload};
pub use record::{Measured, MeasuredRequest, MeasuredRun, collect};
pub use replay::{Figures, Pricing, Replay, RequestTimes, replay};
pub use score::{EngineScore, FormScore, RunScore, score};
pub use subjects::{Machine, config, plan};
