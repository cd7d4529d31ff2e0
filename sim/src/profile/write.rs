//! Writing a profile as the YAML that [`CostProfile::parse`] reads.

use super::form::{KernelFit, Provenance};
use super::names::Family;
use super::table::ResidualTable;
use super::{CostProfile, PROFILE_VERSION};
use std::fmt::Write;

/// Values per line of a table.
const VALUES_PER_LINE: usize = 24;

impl CostProfile {
    /// The profile as YAML. Figures of the forms keep four digits, corrections a thousandth.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let gpu = &self.gpu;
        let _ = writeln!(out, "# Fitted kernel times; docs/cost-model.md says how to read them.");
        let _ = writeln!(out, "version: {PROFILE_VERSION}");
        let _ = writeln!(out, "name: {}", quote(&self.name));
        let _ = writeln!(out, "software: {}", quote(&self.software));
        let _ = writeln!(out, "attribution: {}", quote(&self.attribution));
        let _ = writeln!(out, "gpu:\n  name: {}", quote(&gpu.name));
        let _ = writeln!(out, "  bytes_per_second: {}", figure(gpu.bytes_per_second));
        let _ = writeln!(out, "  bfloat16_flops_per_second: {}", figure(gpu.bfloat16_flops_per_second));
        let _ = writeln!(out, "  fp8_flops_per_second: {}", figure(gpu.fp8_flops_per_second));
        let _ = writeln!(out, "  link_bytes_per_second: {}", figure(gpu.link_bytes_per_second));
        let _ = writeln!(out, "families:");
        for (family, fits) in &self.families {
            let _ = writeln!(out, "  {}:", family.name());
            for fit in fits {
                write_fit(&mut out, *family, fit);
            }
        }
        out
    }

    /// The profile as its file holds it: every figure rounded as [`CostProfile::to_yaml`] rounds it.
    ///
    /// # Errors
    /// When the profile does not pass the checks of [`CostProfile::parse`].
    pub fn rounded(&self) -> crate::Result<CostProfile> {
        CostProfile::parse(&self.name, &self.to_yaml())
    }
}

fn write_fit(out: &mut String, family: Family, fit: &KernelFit) {
    let (provenance, source) = match &fit.provenance {
        Provenance::Measured => ("measured", ""),
        Provenance::Imported(source) => ("imported", source.as_str()),
        Provenance::Datasheet => ("datasheet", ""),
        Provenance::Assumed(reason) => ("assumed", reason.as_str()),
    };
    let form = &fit.form;
    let _ = writeln!(out, "    - variant: {}", quote(&fit.variant));
    let _ = writeln!(out, "      provenance: {provenance}");
    let _ = writeln!(out, "      source: {}", quote(source));
    let _ = writeln!(out, "      form:");
    for (key, value) in [
        ("floor_seconds", form.floor_seconds),
        ("compute_efficiency", form.compute_efficiency),
        ("memory_efficiency", form.memory_efficiency),
        ("ramp_seconds", form.ramp_seconds),
        ("item_seconds", form.item_seconds),
        ("step_seconds", form.step_seconds),
    ] {
        let _ = writeln!(out, "        {key}: {}", figure(value));
    }
    let ranges: Vec<String> = family
        .features()
        .iter()
        .zip(&fit.measured)
        .map(|(feature, [low, high])| format!("\"{feature}\": [{low}, {high}]"))
        .collect();
    let _ = writeln!(out, "      measured: {{{}}}", ranges.join(", "));
    if let Some(error) = &fit.held_out {
        let _ = writeln!(
            out,
            "      held_out: {{points: {}, shapes: {}, median: {:.4}, p90: {:.4}, bias: {:.4}}}",
            error.points, error.shapes, error.median, error.p90, error.bias
        );
    }
    if !fit.tables.is_empty() {
        let _ = writeln!(out, "      tables:");
    }
    for table in &fit.tables {
        write_table(out, family, table);
    }
}

fn write_table(out: &mut String, family: Family, table: &ResidualTable) {
    let _ = writeln!(out, "        - axes:");
    for axis in &table.axes {
        let knots: Vec<String> = axis.knots.iter().map(f64::to_string).collect();
        let feature = family.features()[axis.feature];
        let _ = writeln!(out, "            - {{feature: \"{feature}\", knots: [{}]}}", knots.join(", "));
    }
    let _ = writeln!(out, "          log_per_mille: [");
    for line in table.values.chunks(VALUES_PER_LINE) {
        let values: Vec<String> =
            line.iter().map(|value| ((value * 1000.0).round() as i32).to_string()).collect();
        let _ = writeln!(out, "            {},", values.join(","));
    }
    let _ = writeln!(out, "          ]");
}

/// A number with four significant digits.
fn figure(value: f64) -> String {
    format!("{value:.3e}")
}

/// A text in double quotes.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "))
}
