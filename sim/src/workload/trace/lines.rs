//! Lines of a text file, gzipped or not, of bounded length.

use crate::document::io_message;
use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A longer line is not a row of a trace.
const LINE_BYTES_MAX: usize = 16 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file line by line, holding one line at a time.
pub(super) struct Lines {
    source: Box<dyn BufRead>,
    label: String,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    /// Opens the file at `path`; it is gzip when its first bytes say so.
    pub(super) fn open(path: &Path) -> Result<Lines> {
        let label = path.display().to_string();
        let failed = |error: std::io::Error| Error::file(&label, io_message(&error));
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            return Err(Error::file(label, "is a directory, expected a file"));
        }
        let mut plain = BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?);
        let gzip = plain.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC);
        if !gzip && path.extension().is_some_and(|extension| extension == "gz") {
            return Err(Error::file(label, "is not a gzip file, although its name ends in .gz"));
        }
        let source: Box<dyn BufRead> =
            if gzip { Box::new(BufReader::new(MultiGzDecoder::new(plain))) } else { Box::new(plain) };
        Ok(Lines { source, label, number: 0, line: Vec::new() })
    }

    /// The file's name for messages.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The next line that is not blank, with its number counted from 1 and without its end; the inner error is a line
    /// that is not text.
    #[allow(clippy::type_complexity)]
    pub(super) fn next_line(&mut self) -> Result<Option<(u64, std::result::Result<&str, String>)>> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let text = std::str::from_utf8(&self.line).map_err(|_| "is not UTF-8 text".to_string());
        Ok(Some((self.number, text)))
    }

    /// Reads one line into `self.line`; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        self.line.clear();
        self.number += 1;
        let mut read_any = false;
        loop {
            let available = match self.source.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = match error.kind() {
                        std::io::ErrorKind::UnexpectedEof => {
                            "the gzip data end too early: the file is cut off".into()
                        }
                        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                            format!("the gzip data are damaged: {error}")
                        }
                        _ => io_message(&error),
                    };
                    return Err(Error::new(message).at(&self.label, self.number, 0));
                }
            };
            if available.is_empty() {
                break;
            }
            read_any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            self.line.extend_from_slice(&available[..end.unwrap_or(taken)]);
            self.source.consume(taken);
            if self.line.len() > LINE_BYTES_MAX {
                let message =
                    format!("the line is longer than {} MiB: is this a trace?", LINE_BYTES_MAX >> 20);
                return Err(Error::new(message).at(&self.label, self.number, 0));
            }
            if end.is_some() {
                break;
            }
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(read_any)
    }
}
