//! One row per request and per step, as CSV or JSON lines by the file's name.

use crate::output::WholeFile;
use anyhow::{Result, bail};
use reports::rows::RequestRow;
use serde::Serialize;
use sim::request::RequestTable;
use std::io::Write;
use std::path::Path;

/// Writes rows of one kind.
pub enum RowWriter {
    Csv(Box<csv::Writer<WholeFile>>),
    JsonLines(WholeFile),
}

impl RowWriter {
    /// Starts the file; its ending tells the form.
    pub fn create(path: &Path) -> Result<RowWriter> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Ok(RowWriter::Csv(Box::new(csv::Writer::from_writer(WholeFile::create(path)?)))),
            Some("jsonl") => Ok(RowWriter::JsonLines(WholeFile::create(path)?)),
            _ => bail!("{}: found an unknown ending, expected .csv or .jsonl", path.display()),
        }
    }

    /// Adds a row.
    pub fn write<T: Serialize>(&mut self, row: &T) -> Result<()> {
        match self {
            RowWriter::Csv(writer) => writer.serialize(row)?,
            RowWriter::JsonLines(file) => {
                serde_json::to_writer(&mut *file, row)?;
                file.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        match self {
            RowWriter::Csv(writer) => match writer.into_inner() {
                Ok(file) => file.finish(),
                Err(error) => bail!("{}", error.error()),
            },
            RowWriter::JsonLines(file) => file.finish(),
        }
    }
}

/// Writes every request of a run.
pub fn write_requests(mut writer: RowWriter, table: &RequestTable) -> Result<()> {
    for id in table.ids() {
        writer.write(&RequestRow::new(table, id))?;
    }
    writer.finish()
}
