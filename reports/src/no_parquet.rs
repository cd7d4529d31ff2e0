//! A build without Parquet: says how to get one with it.

use crate::tables::Table;
use sim::error::{Error, Result};
use std::io::Write;

/// The error of a build without Parquet.
pub fn check() -> Result<()> {
    let message = "this build has no Parquet; install one that has with `cargo install --path . --features parquet`, \
                   or use .csv or .jsonl";
    Err(Error::new(message))
}

/// The error of a build without Parquet.
pub fn write(_: impl Write, _: &Table) -> Result<()> {
    check()
}

/// The error of a build without Parquet, with `label`.
pub fn read(label: &str, _: &[u8]) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    check().map_err(|error| Error::file(label, error.message()))?;
    Ok((Vec::new(), Vec::new()))
}
