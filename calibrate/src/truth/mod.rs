//! Predictions beside a vLLM that was measured for this: exact requests replayed in real time, with random weights.
//!
//! | file | what |
//! |---|---|
//! | `subjects.rs` | the deployments that are measured, as Hugging Face configurations and engine arguments |
//! | `shapes.rs` | the workloads, by name, load and lengths |
//! | `plan.rs` | both together as the files that a measuring script runs |
//! | `deploy.rs` | the scenario of a measured engine |
//! | `record.rs`, `json.rs` | what was measured: the script's results |
//! | `pack.rs`, `timeline.rs` | one small file of them |
//! | `read.rs` | measured engines in files and folders |
//! | `replay.rs` | a measured workload under a cost model |
//! | `fit.rs`, `residual.rs`, `search.rs` | fits to the development part |
//! | `score.rs`, `page.rs`, `rows.rs` | the untouched part, and tables of both |
//! | `calibration.rs` | what was fitted, as files for scenarios |

mod calibration;
mod deploy;
mod fit;
mod json;
mod pack;
mod page;
mod plan;
mod read;
mod record;
mod replay;
mod residual;
mod rows;
mod score;
mod search;
mod shapes;
mod subjects;
mod timeline;

pub use deploy::{Facts, deploy};
pub use page::{figures, words};
pub use plan::{EnginePlan, Part, PlannedRequest, PlannedWorkload};
pub use read::{FileKind, read_all};
pub use record::{Measured, MeasuredRequest, MeasuredRun, collect};
pub use replay::{Figures, Pricing, Replay, RequestTimes, replay};
pub use residual::{Fitted, LeftOut, Sharing};
pub use rows::rows;
pub use score::{EngineScore, FormScore, RunScore, Scores, VersionScore, score};
pub use subjects::{Machine, config, plan, predicted_s};

pub(crate) use deploy::gpu_name;
pub(crate) use json::{Object, read_text};
pub(crate) use read::CONTENT_UNKNOWN;
pub(crate) use record::WARM_UP;
pub(crate) use residual::today;
