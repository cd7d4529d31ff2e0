//! The journal of a sweep: a header, then one line per finished point, appended as they finish. A line that a kill or a
//! full disk cut short is dropped when the journal is opened again.

use super::{Row, Shard, Sweep};
use serde_json::{Value, json};
use sim::document::io_message;
use sim::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    has_failed: AtomicBool,
    rows: Vec<Row>,
    known: BTreeSet<usize>,
}

impl Journal {
    /// Opens the journal at `path`, or starts it. One of another sweep or shard is refused.
    pub fn open(path: &Path, sweep: &Sweep, shard: Shard) -> Result<Journal> {
        let label = path.display().to_string();
        let fail = |error: std::io::Error| Error::file(&label, io_message(&error).replace("read", "written"));
        let header =
            json!({ "sweep": sweep.digest(), "points": sweep.len(), "shard": [shard.index, shard.count] });
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::file(&label, io_message(&error))),
        };
        // What follows the last line end was cut short.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut lines = whole.lines();
        if let Some(first) = lines.next()
            && serde_json::from_str::<Value>(first).ok().as_ref() != Some(&header)
        {
            let message = "belongs to another sweep, shard or version; finish that one, choose another --out, or remove \
                           the file to start over";
            return Err(Error::file(&label, message));
        }
        let cells = sweep.columns().len();
        let rows = lines
            .enumerate()
            .map(|(index, line)| {
                read_row(line).filter(|row| row.cells.len() == cells && row.point < sweep.len()).ok_or_else(
                    || {
                        Error::new("is no row of this sweep; remove the line or the file").at(
                            &label,
                            index as u64 + 2,
                            0,
                        )
                    },
                )
            })
            .collect::<Result<Vec<Row>>>()?;
        let known = rows.iter().map(|row| row.point).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
        file.set_len(whole.len() as u64).map_err(fail)?;
        if whole.is_empty() {
            file.write_all(format!("{header}\n").as_bytes()).map_err(fail)?;
        }
        Ok(Journal {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            has_failed: AtomicBool::new(false),
            known,
            rows,
        })
    }

    /// Whether a point was finished before the journal was opened.
    pub fn has(&self, point: usize) -> bool {
        self.known.contains(&point)
    }

    /// The rows that were finished before the journal was opened.
    pub fn rows(&self) -> Vec<Row> {
        self.rows.clone()
    }

    /// An error once a row could not be written, so that no more are begun.
    pub fn check(&self) -> Result<()> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(self.failure("cannot be written"));
        }
        Ok(())
    }

    /// Adds a row.
    pub fn append(&self, row: &Row) -> Result<()> {
        let line = format!("{}\n", json!(row.cells));
        let written = match self.file.lock() {
            Ok(mut file) => file.write_all(line.as_bytes()).and_then(|()| file.flush()),
            Err(_) => Err(std::io::Error::other("another thread failed")),
        };
        written.map_err(|error| {
            self.has_failed.store(true, Ordering::Relaxed);
            self.failure(&format!("cannot be written: {error}"))
        })
    }

    fn failure(&self, what: &str) -> Error {
        let message = format!("{what}; what is finished is kept, and the same command goes on from there");
        Error::file(self.path.display().to_string(), message)
    }

    /// Removes the journal, once its rows are in their file.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| {
            Error::file(self.path.display().to_string(), format!("cannot be removed: {error}"))
        })
    }
}

fn read_row(line: &str) -> Option<Row> {
    let cells: Vec<String> = serde_json::from_str(line).ok()?;
    let point = cells.first()?.parse().ok()?;
    Some(Row { point, cells })
}
