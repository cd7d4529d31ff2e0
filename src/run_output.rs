//! A run kept as a folder: it appears under its name only when it is complete.

use crate::rows::{self, RowWriter};
use anyhow::{Context, Result, bail};
use reports::run_folder::{REPORT_FILE, REQUESTS_FILE, SCENARIO_FILE, STEPS_FILE};
use sim::scenario::{Report, Scenario};
use sim::simulation::RunResult;
use std::path::{Path, PathBuf};

/// A run folder that is being written.
pub struct RunOutput {
    target: PathBuf,
    partial: PathBuf,
    is_finished: bool,
}

impl RunOutput {
    /// Starts the folder, so that a bad path fails before the work does. A folder that holds something is refused.
    pub fn create(target: &Path) -> Result<RunOutput> {
        // A folder takes the place of an empty one, but not of a link to it.
        let followed = std::fs::canonicalize(target).ok().filter(|followed| followed.is_dir());
        if followed.is_none() && target.is_symlink() {
            bail!("{}: is a link to what does not exist, expected a new folder", target.display());
        }
        let target = followed.as_deref().unwrap_or(target);
        if target.is_file() {
            bail!("{}: is a file, expected a new folder for the run", target.display());
        }
        let is_empty = std::fs::read_dir(target).map_or(true, |mut entries| entries.next().is_none());
        if !is_empty {
            let holds = if target.join(REPORT_FILE).is_file() { "another run" } else { "other files" };
            bail!("{}: holds {holds}; choose a new folder, or remove this one first", target.display());
        }
        let mut name = target.file_name().context("--out: expected the name of a folder")?.to_os_string();
        name.push(".partial");
        let partial = target.with_file_name(name);
        if partial.exists() {
            std::fs::remove_dir_all(&partial)
                .with_context(|| format!("{}: cannot be replaced", partial.display()))?;
        }
        std::fs::create_dir_all(&partial).with_context(|| format!("{}: cannot be made", target.display()))?;
        Ok(RunOutput { target: target.to_path_buf(), partial, is_finished: false })
    }

    /// The file of the steps.
    pub fn steps_writer(&self) -> Result<RowWriter> {
        RowWriter::create(&self.partial.join(STEPS_FILE))
    }

    /// Writes the rest and gives the folder its name.
    pub fn finish(mut self, scenario: &Scenario, run: &RunResult, report: &Report) -> Result<()> {
        rows::write_requests(RowWriter::create(&self.partial.join(REQUESTS_FILE))?, &run.table)?;
        let context = || format!("{}: cannot be written", self.target.display());
        std::fs::write(self.partial.join(SCENARIO_FILE), scenario.to_yaml()).with_context(context)?;
        let json = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(self.partial.join(REPORT_FILE), json).with_context(context)?;
        std::fs::rename(&self.partial, &self.target).with_context(context)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for RunOutput {
    /// What was not finished leaves nothing behind.
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}
