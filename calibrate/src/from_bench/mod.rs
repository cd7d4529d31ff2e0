//! A user's own benchmark results against the prediction of a scenario, and the calibration that they carry.
//!
//! | file | what |
//! |---|---|
//! | `bench.rs` | a run as every format states it |
//! | `read.rs` | which format a file has; JSON as Python writes it |
//! | `serving.rs` | result files of `vllm bench serve` and `sglang.bench_serving` |
//! | `guidellm.rs` | reports of GuideLLM |
//! | `prometheus.rs` | text dumps of vLLM's metrics |
//! | `recorded.rs` | results and small files of `servesim truth` |
//! | `own.rs` | our own lines, one per request |
//! | `against.rs` | whether a run belongs to a scenario, its prediction, and the fit |
//! | `answer.rs` | the answer as text and as JSON |

mod against;
mod answer;
mod bench;
mod guidellm;
mod own;
mod prometheus;
mod read;
mod recorded;
mod serving;

pub use against::{Comparison, compare};
pub use bench::{Bench, BenchLoad, BenchRequest};
pub(crate) use read::json_error;
pub use read::{read_bench, read_text as parse_bench};
pub use recorded::Recorded;
