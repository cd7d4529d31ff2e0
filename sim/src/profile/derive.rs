//! A profile for a GPU that nobody measured: the nearest measured one with its limits replaced.

use super::{CostProfile, GpuLimits, Provenance};

impl GpuLimits {
    /// How unlike two GPUs are: the sum of the logarithms of the ratios of their memory bandwidths and matrix rates.
    pub fn distance(&self, other: &GpuLimits) -> f64 {
        let ratio = |a: f64, b: f64| libm::fabs(libm::log(a / b));
        ratio(self.bytes_per_second, other.bytes_per_second)
            + ratio(self.bfloat16_flops_per_second, other.bfloat16_flops_per_second)
    }

    /// Whether these are the limits of the same GPU: every rate within 1 %, as many multiprocessors.
    pub fn is_like(&self, other: &GpuLimits) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 0.01 * b;
        self.multiprocessors == other.multiprocessors
            && near(self.bytes_per_second, other.bytes_per_second)
            && near(self.bfloat16_flops_per_second, other.bfloat16_flops_per_second)
            && near(self.fp8_flops_per_second, other.fp8_flops_per_second)
            && near(self.link_bytes_per_second, other.link_bytes_per_second)
    }
}

impl CostProfile {
    /// The same efficiencies, floors and corrections on another GPU's limits. Everything in it is assumed from then on,
    /// and its held-out errors no longer apply.
    pub fn scaled_to(mut self, limits: GpuLimits) -> CostProfile {
        let reason = format!("{} scaled to the data sheet of {}", self.name, limits.name);
        for fit in self.families.values_mut().flatten() {
            fit.provenance = Provenance::Assumed(reason.clone());
            fit.held_out = None;
        }
        self.name = format!("{} for {}", self.name, limits.name);
        self.gpu = limits;
        self.is_scaled = true;
        self
    }
}
