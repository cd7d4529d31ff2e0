//! The closed form of a kernel family and the fit of one variant: form, residual tables, measured range, error.

use super::gpu::GpuLimits;
use super::operation::{MAX_FEATURES, Operation};
use super::table::ResidualTable;
use super::work::Work;

/// `floor + max(compute / compute_efficiency, ramp + memory / memory_efficiency, chain x step) + items x item`.
///
/// `ramp + bytes / rate` is a bandwidth that grows with size: `rate x bytes / (bytes + ramp x rate)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClosedForm {
    /// Launch and drain of the smallest call, seconds.
    pub floor_seconds: f64,
    /// Reached share of the data sheet's matrix rate, 0 to 1.
    pub compute_efficiency: f64,
    /// Reached share of the data sheet's bandwidth, 0 to 1.
    pub memory_efficiency: f64,
    /// Time before memory streams at full rate, seconds.
    pub ramp_seconds: f64,
    /// Cost of one item, seconds.
    pub item_seconds: f64,
    /// Cost of one step of the longest dependent chain, seconds.
    pub step_seconds: f64,
}

impl ClosedForm {
    /// Time of `work`, seconds.
    pub fn seconds(&self, work: &Work) -> f64 {
        let compute = work.compute_seconds / self.compute_efficiency;
        let memory = self.ramp_seconds + work.memory_seconds / self.memory_efficiency;
        let chain = work.chain * self.step_seconds;
        self.floor_seconds + compute.max(memory).max(chain) + work.items * self.item_seconds
    }
}

/// Where the figures of a family come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// Measured by this project's kernels on that GPU.
    Measured,
    /// Someone's measurements, named with their licence.
    Imported(String),
    /// Derived from the data sheet.
    Datasheet,
    /// Assumed, with the reason.
    Assumed(String),
}

/// Error of a fit on points that it never saw. Errors are `|predicted / measured - 1|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldOutError {
    /// Points held out.
    pub points: u32,
    /// Whole shapes held out.
    pub shapes: u32,
    /// Median absolute error, 0.05 is 5 %.
    pub median: f64,
    /// 90th percentile of the absolute error.
    pub p90: f64,
    /// Median signed error; positive predicts too slow.
    pub bias: f64,
}

/// A predicted time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Duration, seconds.
    pub seconds: f64,
    /// How far outside the measured range the call lies: octaves of its worst feature, 0 inside.
    pub octaves_outside: f64,
}

impl Estimate {
    /// Whether every feature lies in the measured range.
    pub fn in_range(&self) -> bool {
        self.octaves_outside == 0.0
    }
}

/// The fit of one variant of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelFit {
    /// Which variant: see [`Operation::variant`].
    pub variant: String,
    /// Where its figures come from.
    pub provenance: Provenance,
    /// Closed form.
    pub form: ClosedForm,
    /// Corrections, multiplied.
    pub tables: Vec<ResidualTable>,
    /// Smallest and largest measured value of each feature.
    pub measured: Vec<[f64; 2]>,
    /// Error on held-out points; absent when nothing was held out.
    pub held_out: Option<HeldOutError>,
}

impl KernelFit {
    /// Predicted time of `operation` before the guard, seconds: form times corrections.
    pub fn unguarded_seconds(&self, operation: &Operation, work: &Work) -> f64 {
        self.form.seconds(work) * self.correction(operation)
    }

    /// The factor by which the tables correct the closed form.
    pub fn correction(&self, operation: &Operation) -> f64 {
        let logs = log_features(operation);
        libm::exp(self.tables.iter().map(|table| table.log_correction(&logs)).sum::<f64>())
    }

    /// Predicted time of `operation` on `gpu`; never faster than the data sheet allows.
    pub fn evaluate(&self, operation: &Operation, gpu: &GpuLimits) -> Estimate {
        let work = operation.work(gpu);
        let seconds = self.unguarded_seconds(operation, &work).max(work.light_seconds);
        Estimate { seconds, octaves_outside: self.octaves_outside(operation) }
    }

    /// Octaves by which the worst feature of `operation` lies outside the measured range.
    pub fn octaves_outside(&self, operation: &Operation) -> f64 {
        let features = operation.features();
        features.values().iter().zip(&self.measured).fold(0.0, |worst: f64, (value, [low, high])| {
            let outside = if value < low {
                libm::log2(low / value)
            } else if value > high {
                libm::log2(value / high)
            } else {
                0.0
            };
            worst.max(outside)
        })
    }
}

/// Base-2 logarithms of the features of `operation`.
pub fn log_features(operation: &Operation) -> [f64; MAX_FEATURES] {
    let mut logs = [0.0; MAX_FEATURES];
    for (log, value) in logs.iter_mut().zip(operation.features().values()) {
        *log = libm::log2(*value);
    }
    logs
}
