//! Calibrations: host time and factors on GPU times of an engine, fitted to measured serving runs, in a small file that
//! says what was fitted on what.

use super::file::{FrontEndSection, HostTimeSection};
use crate::catalogue;
use crate::cost::{HostTime, Residual};
use crate::document::{Document, hint};
use crate::error::{Error, Result};
use crate::units::Span;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A calibration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Its name.
    pub name: String,
    /// The engine and versions whose runs it was fitted to.
    pub engine: String,
    /// Time of the engine on the CPU per step.
    pub host_time: HostTimeSection,
    /// What GPU times of steps without prompt tokens are multiplied by.
    pub decode_scale: f64,
    /// The same of steps with prompt tokens.
    pub prefill_scale: f64,
    /// Least time per kernel of a step with prompt tokens; left out, as without a calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_launch: Option<Span>,
    /// What matrix products take longer under sustained load: so many times what they would take at the data sheet's rate.
    #[serde(default)]
    pub matrix_slowdown: f64,
    /// Time of a request outside the engine.
    #[serde(default)]
    pub front_end: FrontEndSection,
    /// What was fitted on which runs.
    pub fitted_on: String,
    /// How it does on runs that the fit did not see.
    pub held_out: String,
}

/// Bounds of a kernel scale: outside, something else is wrong.
const KERNEL_SCALE: std::ops::RangeInclusive<f64> = 0.25..=4.0;

impl Calibration {
    /// Reads a calibration's text; `label` stands for it in messages.
    ///
    /// # Errors
    /// Unknown or missing keys, and figures out of range, with file, line and key.
    pub fn parse(label: &str, text: &str) -> Result<Calibration> {
        let document = Document::parse(label, text)?;
        let calibration: Calibration = document.resolve()?;
        for (key, scale) in
            [("decode_scale", calibration.decode_scale), ("prefill_scale", calibration.prefill_scale)]
        {
            if !KERNEL_SCALE.contains(&scale) {
                let (low, high) = (KERNEL_SCALE.start(), KERNEL_SCALE.end());
                return Err(document.error(key, format!("found {scale}, expected {low} to {high}")));
            }
        }
        Ok(calibration)
    }

    /// The calibration of that name in the catalogue, or of a `.yaml` file seen from `folder`.
    ///
    /// # Errors
    /// An unknown name, or a file that cannot be read.
    pub fn find(name: &str, folder: &Path) -> Result<Calibration> {
        let entries = catalogue::calibrations();
        if let Some(entry) = entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)) {
            return Calibration::parse(entry.name, entry.text);
        }
        if name.ends_with(".yaml") {
            let path = folder.join(name);
            let text = crate::document::read_text(&path, MAX_FILE_BYTES)?;
            return Calibration::parse(&path.display().to_string(), &text);
        }
        let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
        Err(Error::new(format!(
            "unknown calibration `{name}`{}; known are {}, or give the path of a .yaml file",
            hint(name, &names),
            names.join(", ")
        )))
    }

    /// The host time.
    pub fn host(&self) -> HostTime {
        HostTime { base_ns: self.host_time.base.0, per_request_ns: self.host_time.per_request.0 }
    }

    /// The factors on GPU times and the launches.
    pub fn residual(&self) -> Residual {
        Residual {
            decode_scale: self.decode_scale,
            prefill_scale: self.prefill_scale,
            prefill_launch_ns: self.prefill_launch.map(|span| span.0),
            matrix_slowdown: self.matrix_slowdown,
        }
    }

    /// As a file.
    pub fn to_yaml(&self) -> String {
        crate::document::to_yaml(&serde_json::to_value(self).unwrap_or_default())
    }
}

/// A file of more bytes than this is not a calibration.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: mine\nengine: vLLM 0.11\nhost_time: { base: 2ms, per_request: 5us }\ndecode_scale: 1.1\nprefill_scale: 1.2\n\
                        front_end: { per_request: 2ms, latency: 40ms }\nfitted_on: two runs\nheld_out: none\n";

    #[test]
    fn a_calibration_reads_what_it_writes() {
        let calibration = Calibration::parse("mine.yaml", TEXT).unwrap();
        let time = calibration.front_end.time();
        assert_eq!(
            (time.per_request_ns, time.per_prompt_token_ns, time.latency_ns),
            (2_000_000, 0, 40_000_000)
        );
        assert_eq!(calibration.host(), HostTime { base_ns: 2_000_000, per_request_ns: 5_000 });
        assert_eq!(Calibration::parse("again.yaml", &calibration.to_yaml()).unwrap(), calibration);
    }

    #[test]
    fn a_scale_out_of_range_and_an_unknown_key_are_located() {
        let text = TEXT.replace("prefill_scale: 1.2", "prefill_scale: 11");
        let error = Calibration::parse("mine.yaml", &text).unwrap_err().to_string();
        assert_eq!(error, "mine.yaml:5:16: prefill_scale: found 11, expected 0.25 to 4");
        let error =
            Calibration::parse("mine.yaml", &(TEXT.to_string() + "extra: 1\n")).unwrap_err().to_string();
        assert!(error.starts_with("mine.yaml:9:1: extra:"), "{error}");
        let error = Calibration::find("vllm-0.8-servin", Path::new(".")).unwrap_err().to_string();
        assert!(error.starts_with("unknown calibration `vllm-0.8-servin`"), "{error}");
    }
}
