//! Writing the answer: text or JSON to standard output, files whole or not at all.

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Form of the answer on standard output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Writes `text` to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output: cannot be written")
}

/// Writes a line to standard error, where perhaps nobody listens any more.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes `value` as indented JSON to standard output.
pub fn print_json<T: Serialize>(value: &T) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A file that appears under its name only when it is complete.
pub struct WholeFile {
    target: PathBuf,
    partial: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Starts the file, so that a bad path fails before the work does.
    pub fn create(target: &Path) -> Result<WholeFile> {
        if target.is_dir() {
            anyhow::bail!("{}: is a directory, expected a file to write", target.display());
        }
        // What a link names is written; a device or a pipe would be replaced by a file.
        if std::fs::metadata(target).is_ok_and(|found| !found.is_file()) {
            anyhow::bail!("{}: is no regular file, expected a file to write", target.display());
        }
        let followed = std::fs::canonicalize(target).ok();
        if followed.is_none() && target.is_symlink() {
            anyhow::bail!("{}: is a link to what does not exist, expected a file to write", target.display());
        }
        let target = followed.as_deref().unwrap_or(target);
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = target.with_file_name(name);
        let file =
            File::create(&partial).with_context(|| format!("{}: cannot be written", target.display()))?;
        Ok(WholeFile { target: target.to_path_buf(), partial, writer: Some(BufWriter::new(file)) })
    }

    /// Gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        // Until the file has its name, an error leaves the writer in place, and the partial file is removed.
        if let Some(writer) = &mut self.writer {
            let context = || format!("{}: cannot be written", self.target.display());
            writer.flush().with_context(context)?;
            std::fs::rename(&self.partial, &self.target).with_context(context)?;
            self.writer = None;
        }
        Ok(())
    }
}

/// What the figures of a page start with; the text before it is written by hand.
const FIGURES: &str = "## Figures\n";

/// Puts new figures into a page; one that is not there yet has only figures.
pub fn replace_figures(path: &Path, figures: &str) -> Result<()> {
    let page = match std::fs::read_to_string(path) {
        Ok(page) => page,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => FIGURES.to_string(),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    };
    let Some((text, _)) = page.split_once(FIGURES) else {
        let line = FIGURES.trim();
        anyhow::bail!("{}: has no line `{line}`, after which the figures would go", path.display());
    };
    let mut file = WholeFile::create(path)?;
    file.write_all(format!("{text}{FIGURES}{figures}").as_bytes())?;
    file.finish()
}

/// The error with the file's name.
fn named(target: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{}: cannot be written: {error}", target.display()))
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.writer {
            Some(writer) => writer.write(bytes).map_err(|error| named(&self.target, &error)),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let flushed = self.writer.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|error| named(&self.target, &error))
    }
}

impl Drop for WholeFile {
    /// What was not finished leaves nothing behind.
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
