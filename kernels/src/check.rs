//! Comparing what a kernel wrote with its reference in double precision.

use crate::device::Device;
use crate::error::{Result, fail};

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

type Check = fn(&Device, u64) -> Result<Vec<Outcome>>;

/// The checks by name; the last needs a GPU.
const CHECKS: [(&str, Check); 12] = [
    ("copy", crate::copy::check),
    ("norm", crate::norm::check),
    ("rotary", crate::rotary::check),
    ("activation", crate::activation::check),
    ("quantize", crate::quantize::check),
    ("sampling", crate::sampling::check),
    ("w4a16", crate::w4a16::check),
    ("decode", crate::decode::check),
    ("mla", crate::mla::check),
    ("moe", crate::moe::check),
    ("prefill", crate::prefill::check),
    ("gemm", crate::gemm::check),
];

/// Checks every kernel on fresh random inputs of `seed`, or only those of one name; `each` sees every outcome as it
/// comes. A kernel that cannot be compiled or launched is an outcome that did not pass.
///
/// # Errors
/// When there is no kernel of that name.
pub fn check_all(
    device: &Device,
    seed: u64,
    only: Option<&str>,
    mut each: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let wanted = |(name, _): &&(&str, Check)| only.is_none_or(|only| only == *name);
    let usable = |(name, _): &&(&str, Check)| *name != "gemm" || device.is_gpu();
    let checks: Vec<_> = CHECKS.iter().filter(wanted).filter(usable).collect();
    if checks.is_empty() {
        let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        return fail(format!(
            "no kernel `{}` to check here; known are {}",
            only.unwrap_or_default(),
            names.join(", ")
        ));
    }
    let mut outcomes = Vec::new();
    for (name, check) in checks {
        let found = check(device, seed).unwrap_or_else(|error| {
            let case = format!("could not run: {error}");
            vec![Outcome { kernel: name, case, error: f64::NAN, worst: f64::NAN, tolerance: 0.0 }]
        });
        for outcome in found {
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
