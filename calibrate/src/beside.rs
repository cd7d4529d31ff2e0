//! Own rows beside the profile that they replace: where a GPU, its kernels or its libraries differ from what was imported.

use crate::check::by_variant;
use crate::measurement::{Measurement, MeasurementTable};
use sim::profile::CostProfile;
use std::fmt::Write;

/// Differences above this share are counted.
const FAR: f64 = 0.15;
/// Rows of a variant that are named: the furthest off.
const NAMED: usize = 3;

/// For each variant, the measured time over the base's: median, tenth and ninetieth percentile, the share of rows more than
/// 15 % apart, and the rows that are furthest apart. Variants that the base does not have are named alone.
pub fn beside_base(table: &MeasurementTable, base: &CostProfile) -> String {
    let mut text = format!(
        "measured over {}:\n{:<18} {:<44} {:>5} {:>7} {:>7} {:>7} {:>7}\n",
        base.name, "family", "variant", "rows", "median", "p10", "p90", ">15 %"
    );
    for ((family, variant), rows) in by_variant(table) {
        let mut ratios: Vec<(f64, &Measurement)> = rows
            .iter()
            .filter_map(|row| {
                let estimate = base.evaluate(&row.operation).ok()?;
                Some((row.seconds / estimate.seconds, *row))
            })
            .collect();
        let name = format!("{:<18} {variant:<44}", family.name());
        if ratios.is_empty() {
            let _ = writeln!(text, "{name} {:>5} not in the base", rows.len());
            continue;
        }
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize].0;
        let is_far = |ratio: f64| (ratio - 1.0).abs() > FAR;
        let far = ratios.iter().filter(|(ratio, _)| is_far(*ratio)).count();
        let share = far as f64 / ratios.len() as f64 * 100.0;
        let _ = writeln!(
            text,
            "{name} {:>5} {:>7.2} {:>7.2} {:>7.2} {share:>6.0}%",
            ratios.len(),
            at(0.5),
            at(0.1),
            at(0.9)
        );
        ratios.sort_by(|a, b| b.0.ln().abs().total_cmp(&a.0.ln().abs()));
        for (ratio, row) in ratios.iter().take(NAMED).filter(|(ratio, _)| is_far(*ratio)) {
            let _ = writeln!(text, "    {ratio:.2} x, {:.1} us: {:?}", row.seconds * 1e6, row.operation);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Origin;
    use crate::profile::find_profile;
    use sim::profile::{Dtype, Operation};

    #[test]
    fn a_row_twice_as_slow_as_the_base_is_named() {
        let base = find_profile("h100-sxm-vllm").unwrap();
        let mut table = MeasurementTable::default();
        let origin = table.origin(Origin::default());
        for (m, factor) in [(1.0, 1.0), (64.0, 1.1), (1024.0, 2.0)] {
            let operation = Operation::Gemm { m, n: 4096, k: 4096, dtype: Dtype::Bfloat16 };
            let seconds = factor * base.evaluate(&operation).unwrap().seconds;
            table.rows.push(Measurement { operation, seconds, spread_seconds: None, origin });
        }
        let text = beside_base(&table, &base);
        let line = text.lines().find(|line| line.starts_with("gemm ")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["gemm", "bfloat16", "3", "1.10", "1.00", "2.00", "33%"]);
        assert_eq!(text.matches("    2.00 x, ").count(), 1, "{text}");
        assert!(!text.contains("    1.10 x, "), "{text}");
    }
}
