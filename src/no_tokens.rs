//! `servesim tokens` in a build without vocabularies: says how to get one.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Arguments of `tokens`, none of which are read.
#[derive(clap::Args)]
pub struct Arguments {
    /// Files, in builds with the feature `tokens`
    #[arg(allow_hyphen_values = true, trailing_var_arg = true, value_name = "ARGUMENTS")]
    _rest: Vec<String>,
}

/// Says that this build has no vocabularies.
pub fn run(_: &Arguments) -> Result<ExitCode> {
    bail!("tokens: this build has no tokenizers; build it with `cargo build --release --features tokens`")
}
