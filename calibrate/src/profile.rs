//! A whole profile from a measurement table.

use crate::check::{VariantCheck, by_variant, fit_and_check};
use crate::holdout::HoldOut;
use crate::measurement::{Measurement, MeasurementTable};
use sim::Result;
use sim::profile::{ClosedForm, CostProfile, Dtype, Family, GpuLimits, HeldOutError, KernelFit, Provenance};
use std::collections::{BTreeMap, BTreeSet};

/// Fits every variant of `table` for `gpu` and checks each on what `hold_out` keeps from the fit. The profile is as
/// its file will hold it: rounded, and accepted by the profile's own checks.
///
/// # Errors
/// A variant with too few rows, or a profile that fails its checks (a family missing from the table, for example).
pub fn fit_profile(
    name: &str,
    gpu: &GpuLimits,
    attribution: &str,
    table: &MeasurementTable,
    hold_out: HoldOut,
) -> Result<(CostProfile, Vec<VariantCheck>)> {
    let mut families: BTreeMap<Family, Vec<KernelFit>> = BTreeMap::new();
    let mut checks = Vec::new();
    for ((family, variant), rows) in by_variant(table) {
        let provenance = Provenance::Imported(origins(table, &rows));
        let (fit, check) = fit_and_check(family, &variant, &rows, gpu, hold_out, provenance)?;
        families.entry(family).or_default().push(fit);
        checks.push(check);
    }
    if let Some(fits) = families.get_mut(&Family::Gemm) {
        add_assumed_products(fits);
    }
    let software: BTreeSet<&str> = table.origins.iter().map(|origin| origin.software.as_str()).collect();
    let profile = CostProfile {
        name: name.to_string(),
        gpu: gpu.clone(),
        software: software.into_iter().collect::<Vec<_>>().join(", "),
        attribution: attribution.to_string(),
        families,
    };
    Ok((profile.rounded()?, checks))
}

/// Sources and software of the rows, each once.
fn origins(table: &MeasurementTable, rows: &[&Measurement]) -> String {
    let indices: BTreeSet<usize> = rows.iter().map(|row| row.origin).collect();
    let texts: Vec<String> = indices
        .into_iter()
        .filter_map(|index| table.origins.get(index))
        .map(|origin| format!("{}: {} on {}", origin.source, origin.software, origin.gpu))
        .collect();
    texts.join("; ")
}

/// Number types that nobody measured as dense products, derived from those that were.
fn add_assumed_products(fits: &mut Vec<KernelFit>) {
    let find = |dtype: Dtype| fits.iter().find(|fit| fit.variant == dtype.name()).cloned();
    let (bfloat16, fp8) = (find(Dtype::Bfloat16), find(Dtype::Fp8));
    if let Some(fit) = fp8 {
        let reason = "as fp8: the same rate and bytes, scales per token in both";
        fits.push(assumed(Dtype::Int8, reason, fit));
    }
    if let Some(mut fit) = bfloat16 {
        fit.tables.clear();
        fit.form = ClosedForm { memory_efficiency: 0.78, compute_efficiency: 0.70, ..fit.form };
        let reason = "weight-bound at 78 % of the bandwidth (0.75 to 0.8 reported for Marlin and Machete on H100), \
                      compute-bound at 90 % of the 16-bit product";
        fits.push(assumed(Dtype::Int4Weights, reason, fit.clone()));
        fits.push(assumed(Dtype::Mxfp4Weights, reason, fit));
    }
    fits.sort_by(|a, b| a.variant.cmp(&b.variant));
}

/// A derived fit: its error is not known, so the error of the fit that it stands on is not carried over.
fn assumed(dtype: Dtype, reason: &str, from: KernelFit) -> KernelFit {
    KernelFit {
        variant: dtype.name().to_string(),
        provenance: Provenance::Assumed(reason.to_string()),
        held_out: None::<HeldOutError>,
        ..from
    }
}
