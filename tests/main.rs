//! Integration tests, linked once: what the real schedulers decided, and the binary as its users run it.
#![allow(missing_docs)]

mod calibrate_cli;
mod cli;
mod command;
mod cost_model;
mod data_parallel;
mod docs;
mod experts;
mod laws;
mod measured;
mod memory;
mod memory_logs;
mod pages;
mod paths;
mod perfetto;
mod plan;
mod real_traces;
mod recordings;
mod routers;
mod sweep;
mod tokens;
mod traffic;
mod traffic_cli;
mod vllm_026;
mod vllm_033;
mod vllm_033_ahead;
