//! The figures of the report on static batches.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One timed batch and what was predicted.
pub struct Prediction {
    /// Which file it is from.
    pub source: &'static str,
    pub engine: String,
    pub model: &'static str,
    pub gpu: &'static str,
    pub ranks: u32,
    pub output_tokens: u32,
    pub batch: u32,
    pub measured_seconds: f64,
    pub predicted_seconds: f64,
}

impl Prediction {
    fn error(&self) -> f64 {
        self.predicted_seconds / self.measured_seconds - 1.0
    }

    /// Measured less predicted time per output token, ms.
    fn residual_ms(&self) -> f64 {
        (self.measured_seconds - self.predicted_seconds) * 1000.0 / f64::from(self.output_tokens)
    }

    fn is_miss(&self) -> bool {
        self.error().abs() > 0.20
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median absolute error.
pub fn median_error<'a>(rows: impl Iterator<Item = &'a Prediction>) -> f64 {
    median(rows.map(|row| row.error().abs()))
}

/// Names the group of a row.
type Name = fn(&Prediction) -> String;

/// Markdown tables: medians, then the groups that misses fall into.
pub fn figures(rows: &[Prediction]) -> String {
    let mut out = String::new();
    let header = "rows | median error % | bias % | within 10 % | over 20 % |\n";
    let groups: [(&str, Name); 3] = [
        ("rows of", |row| format!("{}, {}", row.source, row.engine)),
        ("GPU and ranks", |row| format!("{}, {}, {}, {} GPU", row.source, row.engine, row.gpu, row.ranks)),
        ("batch", |row| format!("{}, {}, {}, batch {:02}", row.source, row.engine, row.gpu, row.batch)),
    ];
    for (title, name) in groups {
        let _ = write!(out, "\n| {title} | {header}|---|---:|---:|---:|---:|---:|\n");
        for (name, rows) in grouped(rows.iter(), name) {
            let share = |count: usize| 100.0 * count as f64 / rows.len() as f64;
            let _ = writeln!(
                out,
                "| {name} | {} | {:.1} | {:+.1} | {:.0} % | {} |",
                rows.len(),
                100.0 * median_error(rows.iter().copied()),
                100.0 * median(rows.iter().map(|row| row.error())),
                share(rows.iter().filter(|row| row.error().abs() <= 0.10).count()),
                rows.iter().filter(|row| row.is_miss()).count(),
            );
        }
    }
    let _ = write!(
        out,
        "\n### Misses over 20 %\n\n| deployment | misses | of rows | median error % | measured less predicted, ms per \
         output token: batch 1 | 16 | 32 | 64 |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let deployment = |row: &Prediction| {
        format!("{}, {}, {}, {} GPU, {}", row.source, row.engine, row.gpu, row.ranks, row.model)
    };
    for (name, rows) in grouped(rows.iter(), deployment) {
        let misses = rows.iter().filter(|row| row.is_miss()).count();
        if misses == 0 {
            continue;
        }
        let bias = 100.0 * median(rows.iter().filter(|row| row.is_miss()).map(|row| row.error()));
        let _ = write!(out, "| {name} | {misses} | {} | {bias:+.0} |", rows.len());
        for batch in [1, 16, 32, 64] {
            let residual = median(rows.iter().filter(|row| row.batch == batch).map(|row| row.residual_ms()));
            let _ = if residual.is_nan() { write!(out, " - |") } else { write!(out, " {residual:+.2} |") };
        }
        out.push('\n');
    }
    out
}

fn grouped<'a>(
    rows: impl Iterator<Item = &'a Prediction>,
    name: impl Fn(&Prediction) -> String,
) -> BTreeMap<String, Vec<&'a Prediction>> {
    let mut groups: BTreeMap<String, Vec<&Prediction>> = BTreeMap::new();
    for row in rows {
        groups.entry(name(row)).or_default().push(row);
    }
    groups
}
