//! The error band of a sum of times, from the errors of its parts.

/// 90th percentile of the error of a kernel that has no held-out error: derived or assumed figures. Assumed.
pub const ASSUMED_ERROR: f64 = 0.35;

/// Correlation of the errors of two operators of a step: products of the same tokens share the kernel's choice of tile.
/// With none, 84 to 91 % of composed held-out steps lie in the 90 % band, with this value 87 to 93 %. Chosen out of 0 to 0.4
/// on the steps of all four profiles (reports/results/kernel-fit.md).
const OPERATOR_CORRELATION: f64 = 0.1;

/// Half-width of the 90 % band of a sum of times, in the unit of `errors`: the 90th percentile of the error of each part
/// of the sum, for example seconds of an operator times its kernel's error. An operator's error is the same in all its
/// layers; errors of different operators are a little correlated.
pub fn error_of_sum(errors: impl IntoIterator<Item = f64>) -> f64 {
    let (mut squares, mut sum) = (0.0, 0.0);
    for error in errors {
        squares += error * error;
        sum += error;
    }
    ((1.0 - OPERATOR_CORRELATION) * squares + OPERATOR_CORRELATION * sum * sum).sqrt()
}

#[cfg(test)]
mod tests {
    use super::error_of_sum;

    #[test]
    fn errors_add_between_their_squares_and_their_sum() {
        assert_eq!(error_of_sum([]), 0.0);
        assert!((error_of_sum([2.0]) - 2.0).abs() < 1e-12, "one operator keeps its error");
        let both = error_of_sum([3.0, 4.0]);
        assert!(both > 5.0 && both < 7.0, "{both}");
    }
}
