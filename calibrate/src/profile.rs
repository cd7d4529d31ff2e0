//! A whole profile from a measurement table.

use crate::check::{VariantCheck, by_variant, fit_and_check};
use crate::holdout::HoldOut;
use crate::measurement::{Measurement, MeasurementTable};
use sim::profile::{
    ClosedForm, CostProfile, Dtype, Family, GpuLimits, HeldOutError, KernelFit, Operation, Provenance,
};
use sim::{Error, Result};
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
    fit_profile_over(name, gpu, attribution, table, hold_out, None)
}

/// As [`fit_profile`]; what the table does not have (a family, or a number type of one) stays as `base` has it, with its
/// provenance. A base of another GPU is scaled by the data sheets first, and its fits are marked as assumed.
///
/// # Errors
/// As [`fit_profile`].
pub fn fit_profile_over(
    name: &str,
    gpu: &GpuLimits,
    attribution: &str,
    table: &MeasurementTable,
    hold_out: HoldOut,
    base: Option<&CostProfile>,
) -> Result<(CostProfile, Vec<VariantCheck>)> {
    let mut families: BTreeMap<Family, Vec<KernelFit>> = BTreeMap::new();
    let mut checks = Vec::new();
    for ((family, variant), rows) in by_variant(table) {
        if only_small(family, &variant, &rows) {
            continue;
        }
        let provenance = provenance(table, &rows);
        let (fit, check) = fit_and_check(family, &variant, &rows, gpu, hold_out, provenance)?;
        families.entry(family).or_default().push(fit);
        checks.push(check);
    }
    if let Some(fits) = families.get_mut(&Family::Gemm) {
        add_assumed_products(fits);
    }
    if let Some(base) = base {
        let base =
            if is_same_gpu(&base.gpu, gpu) { base.clone() } else { base.clone().scaled_to(gpu.clone()) };
        for (family, fits) in base.families {
            let own = families.entry(family).or_default();
            let missing: Vec<KernelFit> =
                fits.into_iter().filter(|fit| own.iter().all(|known| known.variant != fit.variant)).collect();
            own.extend(missing);
            own.sort_by(|a, b| a.variant.cmp(&b.variant));
        }
    }
    let software: BTreeSet<&str> = table.origins.iter().map(|origin| origin.software.as_str()).collect();
    let profile = CostProfile {
        name: name.to_string(),
        gpu: gpu.clone(),
        software: software.into_iter().collect::<Vec<_>>().join(", "),
        attribution: attribution.to_string(),
        is_scaled: false,
        families,
    };
    Ok((profile.rounded()?, checks))
}

/// Whether the figures are those of one GPU, whatever its name and however its data sheet was rounded.
fn is_same_gpu(a: &GpuLimits, b: &GpuLimits) -> bool {
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.005;
    near(a.bytes_per_second, b.bytes_per_second)
        && near(a.bfloat16_flops_per_second, b.bfloat16_flops_per_second)
        && near(a.fp8_flops_per_second, b.fp8_flops_per_second)
        && near(a.link_bytes_per_second, b.link_bytes_per_second)
        && a.multiprocessors == b.multiprocessors
}

/// Rows of 4-bit weights for decode batches alone say nothing of prompts: the assumed product serves both better.
fn only_small(family: Family, variant: &str, rows: &[&Measurement]) -> bool {
    let is_large = |row: &&Measurement| matches!(row.operation, Operation::Gemm { m, .. } if m > 16.0);
    family == Family::Gemm && variant == Dtype::Int4Weights.name() && !rows.iter().any(is_large)
}

/// Begins the source of rows that this project's own bench measured on a GPU.
pub const BENCH_SOURCE: &str = "servesim ";

/// Measured when every row is this project's own measurement, else imported from what the rows name.
fn provenance(table: &MeasurementTable, rows: &[&Measurement]) -> Provenance {
    let own = |row: &&Measurement| {
        table.origins.get(row.origin).is_some_and(|origin| {
            origin.source.starts_with(BENCH_SOURCE) && !origin.clocks.starts_with("no GPU")
        })
    };
    if rows.iter().all(own) { Provenance::Measured } else { Provenance::Imported(origins(table, rows)) }
}

/// A profile by its name in the catalogue, or by the path of its file.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn find_profile(name_or_path: &str) -> Result<CostProfile> {
    let entries = sim::catalogue::profiles();
    match entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name_or_path)) {
        Some(entry) => CostProfile::parse(entry.name, entry.text),
        None if name_or_path.ends_with(".yaml") => CostProfile::read(std::path::Path::new(name_or_path)),
        None => Err(Error::new(format!(
            "unknown profile `{name_or_path}`; see `servesim list profiles`, or give the path of a .yaml file"
        ))),
    }
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
    let known: Vec<String> = fits.iter().map(|fit| fit.variant.clone()).collect();
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
    // What was measured needs no assumption.
    let mut position = 0;
    fits.retain(|fit| {
        position += 1;
        position <= known.len() || !known.contains(&fit.variant)
    });
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
