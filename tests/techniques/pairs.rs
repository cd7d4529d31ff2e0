//! The figures of the report on techniques.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What became of a row.
pub enum Outcome {
    /// The figures of baseline and variant.
    Predicted([f64; 2]),
    /// Why it was not replayed.
    LeftOut(&'static str),
}

/// One published pair.
pub struct Pair {
    pub id: String,
    pub technique: String,
    pub variant: String,
    pub model: String,
    pub gpu: String,
    pub load: String,
    pub metric: String,
    /// The baseline's own figure, as the row writes it.
    pub baseline: String,
    /// The variant's figure over the baseline's.
    pub measured: f64,
    pub outcome: Outcome,
}

/// Ratios closer to 1 than this are no change: repeats of such measurements differ by 1 to 3 %.
const NO_CHANGE: f64 = 0.03;

impl Pair {
    pub fn predicted(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Predicted([baseline, variant]) => Some(variant / baseline),
            Outcome::LeftOut(_) => None,
        }
    }

    /// The baseline's figure in the row's digits.
    fn predicted_baseline(&self) -> String {
        match self.outcome {
            Outcome::Predicted([baseline, _]) if baseline < 0.01 => format!("{baseline:.2e}"),
            Outcome::Predicted([baseline, _]) if baseline < 100.0 => format!("{baseline:.2}"),
            Outcome::Predicted([baseline, _]) => format!("{baseline:.0}"),
            Outcome::LeftOut(_) => String::new(),
        }
    }

    /// Both on the same side of 1, or both no change.
    pub fn has_right_direction(&self) -> bool {
        let Some(predicted) = self.predicted() else { return false };
        let side =
            |ratio: f64| if (ratio - 1.0).abs() <= NO_CHANGE { 0 } else { (ratio - 1.0).signum() as i32 };
        side(predicted) == side(self.measured)
    }

    fn is_on_the_same_side(&self) -> bool {
        self.predicted().is_some_and(|predicted| (predicted > 1.0) == (self.measured > 1.0))
    }

    fn error(&self) -> f64 {
        self.predicted().map_or(f64::NAN, |predicted| (predicted / self.measured - 1.0).abs())
    }

    /// The technique without its case.
    fn family(&self) -> &'static str {
        let starts = [
            ("BF16 KV -> FP8 KV (ITL", "FP8 KV cache, time per token against context"),
            ("BF16 KV -> FP8 KV", "FP8 KV cache, 20,000-token prompts"),
            ("P-EAGLE", "parallel drafting against EAGLE-3"),
            ("quantisation BF16 -> FP8 KV", "FP8 KV cache, burst"),
            ("quantisation BF16 -> FP8", "FP8 weights"),
            ("quantisation", "4-bit weights"),
        ];
        starts.iter().find(|(start, _)| self.technique.starts_with(start)).map_or("other", |row| row.1)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Median absolute error of the ratio.
pub fn median_error(pairs: &[&Pair]) -> f64 {
    median(pairs.iter().map(|pair| pair.error()))
}

/// Markdown tables: by technique, every pair, and why the others were left out.
pub fn figures(pairs: &[Pair]) -> String {
    let mut out = String::new();
    let predicted: Vec<&Pair> = pairs.iter().filter(|pair| pair.predicted().is_some()).collect();
    let mut families: BTreeMap<&str, Vec<&Pair>> = BTreeMap::new();
    for pair in &predicted {
        families.entry(pair.family()).or_default().push(pair);
        families.entry("~ all").or_default().push(pair);
        if !pair.technique.starts_with("P-EAGLE") {
            families.entry("~ all but parallel drafting").or_default().push(pair);
        }
    }
    let _ = write!(
        out,
        "\n| technique | pairs | right direction | same side of 1 | median error % | over 15 % |\n|---|---:|---:|---:|---:|---:|\n"
    );
    for (name, pairs) in &families {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.1} | {} |",
            name.trim_start_matches("~ "),
            pairs.len(),
            pairs.iter().filter(|pair| pair.has_right_direction()).count(),
            pairs.iter().filter(|pair| pair.is_on_the_same_side()).count(),
            100.0 * median_error(pairs),
            pairs.iter().filter(|pair| pair.error() > 0.15).count(),
        );
    }
    let _ = write!(
        out,
        "\n### Every pair\n\nRatios are variant over baseline. `no` marks a wrong direction.\n\n\
         | case | variant | model | GPU | load | metric | baseline measured | predicted | ratio measured | \
         predicted | error % | direction |\n|---|---|---|---|---|---|---:|---:|---:|---:|---:|---|\n"
    );
    for pair in &predicted {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.3} | {:.3} | {:.1} | {} |",
            pair.id,
            pair.variant,
            pair.model,
            pair.gpu,
            pair.load,
            pair.metric,
            if pair.baseline.is_empty() { "-" } else { &pair.baseline },
            pair.predicted_baseline(),
            pair.measured,
            pair.predicted().unwrap_or(f64::NAN),
            100.0 * pair.error(),
            if pair.has_right_direction() { "yes" } else { "no" },
        );
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in pairs {
        if let Outcome::LeftOut(reason) = pair.outcome {
            reasons.entry(reason).or_default().push(pair.id.trim_start_matches("tech-"));
        }
    }
    let _ = write!(out, "\n### Left out\n\n| why | pairs | cases |\n|---|---:|---|\n");
    for (reason, ids) in reasons {
        let _ = writeln!(out, "| {reason} | {} | {} |", ids.len(), ids.join(" "));
    }
    out
}
