//! The simulator: scenario -> requests -> schedulers -> steps -> metrics. No GPU, no plots, no terminal.
//!
//! The package is `servesim-sim`, the crate `sim`. A [`Document`](document::Document) is YAML with the place of every value,
//! a [`Scenario`](scenario::Scenario) is a document with everything found, checked and filled in, a
//! [`RunResult`](simulation::RunResult) has a row per request, and a [`Report`](scenario::Report) the figures of it.
//!
//! ```
//! use sim::document::Document;
//! use sim::scenario::Scenario;
//! use std::path::Path;
//!
//! # fn main() -> sim::Result<()> {
//! let text = "
//! model: llama-3.1-8b
//! hardware: { gpu: h200-sxm }
//! workload:
//!   requests: 200
//!   arrivals: { poisson: 4/s }
//!   prompt: { constant: 512 }
//!   output: { constant: 64 }
//! ";
//! let mut document = Document::parse("mine.yaml", text)?;
//! document.set("engine.max_num_seqs=32")?;
//! let scenario = Scenario::resolve("mine", &document, Path::new("."))?;
//! let run = scenario.simulate(&mut ())?;
//! let metrics = scenario.report(&run).metrics;
//! assert_eq!(metrics.requests.finished, 200);
//! assert!(metrics.ttft_ms.is_some_and(|ttft| ttft.p50 > 0.0));
//!
//! let wrong = Document::parse("mine.yaml", "model: llama-3.1-8b\nhardware: { gpu: h9000 }")?;
//! let error = Scenario::resolve("mine", &wrong, Path::new(".")).err().map(|error| error.to_string());
//! assert!(error.is_some_and(|text| text.starts_with("mine.yaml:")));
//! # Ok(())
//! # }
//! ```
//!
//! Equal scenarios give equal results, to the bit, on any machine and number of threads. An observer
//! ([`RunObserver`](simulation::RunObserver)) sees every arrival and step: `sim/examples/longest_steps.rs`.
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
