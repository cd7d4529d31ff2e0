//! Integration tests, linked once: what the real schedulers decided, and the binary as its users run it.
#![allow(missing_docs)]

mod cli;
mod docs;
mod laws;
mod pages;
mod perfetto;
mod plan;
mod real_traces;
mod recordings;
mod sweep;
mod vllm_026;
mod vllm_033;
