//! Comparing what a kernel wrote with its reference in double precision.

use crate::device::Device;
use crate::error::Result;

/// How one case of one kernel came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Kernel.
    pub kernel: &'static str,
    /// Sizes.
    pub case: String,
    /// `|got - reference| / |reference|`, Euclidean norms over the whole output.
    pub error: f64,
    /// The worst element's error over the root mean square of the reference.
    pub worst: f64,
    /// What [`error`](Outcome::error) may be; the worst element may be 25 times as far off.
    pub tolerance: f64,
}

impl Outcome {
    /// Whether the error is within the tolerance. NaN never is.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance && self.worst <= 25.0 * self.tolerance
    }
}

/// Tolerance of one rounding to bfloat16 (half of 2^-8 at most) with sums in single precision.
pub const BF16: f64 = 4e-3;
/// Tolerance where weights or scores were rounded to bfloat16 on the way as well.
pub const BF16_TWICE: f64 = 8e-3;

/// Compares two outputs of one length.
pub fn compare(
    kernel: &'static str,
    case: String,
    got: &[f64],
    reference: &[f64],
    tolerance: f64,
) -> Outcome {
    let (mut wrong, mut whole, mut worst) = (0.0, 0.0, 0.0_f64);
    let mut unwritten = got.len() != reference.len();
    for (got, reference) in got.iter().zip(reference) {
        let error = (got - reference).abs();
        unwritten |= error.is_nan();
        wrong += error * error;
        whole += reference * reference;
        worst = worst.max(error);
    }
    let size = (whole / reference.len().max(1) as f64).sqrt().max(1e-30);
    let (error, worst) = ((wrong / whole.max(1e-60)).sqrt(), worst / size);
    let nan = |value| if unwritten { f64::NAN } else { value };
    Outcome { kernel, case, error: nan(error), worst: nan(worst), tolerance }
}

/// A case that is right or wrong, without degrees.
pub fn exact(kernel: &'static str, case: String, equal: bool) -> Outcome {
    let error = if equal { 0.0 } else { 1.0 };
    Outcome { kernel, case, error, worst: error, tolerance: 0.0 }
}

/// Checks every kernel on fresh random inputs of `seed`; `each` sees every outcome as it comes.
///
/// # Errors
/// When a kernel cannot be compiled or launched.
pub fn check_all(device: &Device, seed: u64, mut each: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    type Check = fn(&Device, u64) -> Result<Vec<Outcome>>;
    let mut checks: Vec<Check> = vec![
        crate::copy::check,
        crate::norm::check,
        crate::rotary::check,
        crate::activation::check,
        crate::quantize::check,
        crate::sampling::check,
        crate::w4a16::check,
        crate::decode::check,
        crate::mla::check,
        crate::prefill::check,
        crate::moe::check,
    ];
    if device.is_gpu() {
        checks.push(crate::gemm::check);
    }
    let mut outcomes = Vec::new();
    for check in checks {
        for outcome in check(device, seed)? {
            each(&outcome);
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwritten_or_far_element_fails() {
        let reference = [1.0, -2.0, 3.0];
        let near = compare("k", String::new(), &[1.001, -2.001, 2.999], &reference, 1e-3);
        assert!(near.passed(), "{near:?}");
        assert!(!compare("k", String::new(), &[1.0, f64::NAN, 3.0], &reference, 1e-3).passed());
        assert!(!compare("k", String::new(), &[1.0, -2.0, 3.1], &reference, 1e-3).passed());
        assert!(!compare("k", String::new(), &[1.0, -2.0], &reference, 1e-3).passed());
    }
}
