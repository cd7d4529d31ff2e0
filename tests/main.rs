//! Integration tests, linked once: what the real schedulers decided, and the binary as its users run it.
#![allow(missing_docs)]

mod calibrate_cli;
mod cli;
mod docs;
mod laws;
mod measured;
mod real_traces;
mod recordings;
mod vllm_026;
mod vllm_033;
