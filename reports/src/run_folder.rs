//! A finished run as a folder: `scenario.yaml` (with its overrides), `report.json`, `requests.csv`, `steps.csv`.

use crate::rows::{RequestRow, StepRow};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sim::document::read_text;
use sim::error::{Error, Result};
use std::path::Path;

/// Name of the scenario in a run folder.
pub const SCENARIO_FILE: &str = "scenario.yaml";
/// Name of the report in a run folder.
pub const REPORT_FILE: &str = "report.json";
/// Name of the rows of requests in a run folder.
pub const REQUESTS_FILE: &str = "requests.csv";
/// Name of the rows of steps in a run folder.
pub const STEPS_FILE: &str = "steps.csv";

/// Texts of more bytes than this are not a run's scenario or report.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// A finished run, read back.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The scenario as it ran.
    pub scenario: String,
    /// The report, as `servesim simulate --format json` prints it.
    pub report: Value,
    /// Every request in order of arrival.
    pub requests: Vec<RequestRow>,
    /// Every step in order of start.
    pub steps: Vec<StepRow>,
}

impl RunFolder {
    /// Whether `path` is a folder that holds a report.
    pub fn is_run(path: &Path) -> bool {
        path.join(REPORT_FILE).is_file()
    }

    /// Reads a run. An error names the file, and the line of a malformed row.
    pub fn read(path: &Path) -> Result<RunFolder> {
        let scenario = read_text(&in_run(path, SCENARIO_FILE)?, MAX_TEXT_BYTES)?;
        let report = read_report(path)?;
        let requests = read_rows(&in_run(path, REQUESTS_FILE)?)?;
        let steps = read_rows(&in_run(path, STEPS_FILE)?)?;
        let run = RunFolder { scenario, report, requests, steps };
        run.check_rows(path, REQUESTS_FILE, run.requests.len(), "/metrics/requests/arrived")?;
        run.check_rows(path, STEPS_FILE, run.steps.len(), "/metrics/steps/steps")?;
        Ok(run)
    }

    /// The rows are as many as the report counts.
    fn check_rows(&self, path: &Path, name: &str, rows: usize, pointer: &str) -> Result<()> {
        match self.report.pointer(pointer).and_then(Value::as_u64) {
            Some(counted) if counted != rows as u64 => {
                let message =
                    format!("holds {rows} rows, expected {counted} as {REPORT_FILE} says: is it cut off?");
                Err(Error::file(path.join(name).display().to_string(), message))
            }
            _ => Ok(()),
        }
    }

    /// The number at a JSON pointer of the report, such as `/metrics/ttft_ms/p99`; none when it is absent.
    pub fn number(&self, pointer: &str) -> Option<f64> {
        self.report.pointer(pointer)?.as_f64()
    }

    /// The text at a JSON pointer of the report, or an empty one.
    pub fn text(&self, pointer: &str) -> &str {
        self.report.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Reads the report of a run folder.
pub fn read_report(path: &Path) -> Result<Value> {
    let file = in_run(path, REPORT_FILE)?;
    let text = read_text(&file, MAX_TEXT_BYTES)?;
    let label = file.display().to_string();
    let report: Value = serde_json::from_str(&text).map_err(|e| {
        Error::new(format!("not a report: {e}")).at(&label, e.line() as u64, e.column() as u64)
    })?;
    if report.get("metrics").is_none() {
        return Err(Error::file(label, "not a report: it has no `metrics`"));
    }
    Ok(report)
}

fn in_run(path: &Path, name: &str) -> Result<std::path::PathBuf> {
    let file = path.join(name);
    if file.is_file() {
        return Ok(file);
    }
    let message = format!(
        "is not a finished run: it has no {name}; `servesim simulate SCENARIO --out {}` makes one",
        path.display()
    );
    Err(Error::file(path.display().to_string(), message))
}

fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let label = path.display().to_string();
    let at = |error: csv::Error| {
        let line = error.position().map_or(0, csv::Position::line);
        Error::new(format!("not a row of a run: {error}")).at(&label, line, 0)
    };
    let mut reader = csv::Reader::from_path(path).map_err(at)?;
    reader.deserialize().collect::<std::result::Result<Vec<T>, csv::Error>>().map_err(at)
}
