//! What makes a profile unusable. Each check answers with the key and the message.

use super::CostProfile;
use super::form::KernelFit;
use super::gpu::GpuLimits;
use super::names::Family;
use super::sample::sample_operations;

/// The key that is wrong, relative to the checked part, and what is wrong with it.
pub(super) type Complaint = (String, String);

/// Corrections beyond a factor of e^5 are a mistake, not a residual.
const MAX_LOG_CORRECTION: f64 = 5.0;

/// Rounding of a file's figures may fall this far below the limit.
const LIGHT_TOLERANCE: f64 = 1e-6;

/// Checks the figures of one fit.
pub(super) fn check_fit(family: Family, fit: &KernelFit) -> Result<(), Complaint> {
    let form = &fit.form;
    let complain = |key: &str, message: String| Err((key.to_string(), message));
    for (key, efficiency) in [
        ("form.compute_efficiency", form.compute_efficiency),
        ("form.memory_efficiency", form.memory_efficiency),
    ] {
        if !(efficiency > 0.0 && efficiency <= 1.0) {
            let message =
                format!("found {efficiency}, a share of the data sheet's rate is above 0, at most 1");
            return complain(key, message);
        }
    }
    for (key, seconds) in [
        ("form.floor_seconds", form.floor_seconds),
        ("form.ramp_seconds", form.ramp_seconds),
        ("form.item_seconds", form.item_seconds),
        ("form.step_seconds", form.step_seconds),
    ] {
        if !(0.0..=1.0).contains(&seconds) {
            return complain(key, format!("found {seconds}, expected 0 to 1 second"));
        }
    }
    for (feature, [low, high]) in family.features().iter().zip(&fit.measured) {
        if !(*low > 0.0 && low <= high && high.is_finite()) {
            let message = format!("found [{low}, {high}], expected a positive, rising range");
            return complain(&format!("measured.{feature}"), message);
        }
    }
    for (number, table) in fit.tables.iter().enumerate() {
        if let Some(value) =
            table.values.iter().find(|value| value.is_nan() || value.abs() > MAX_LOG_CORRECTION)
        {
            let message = format!("found {}, corrections lie within +-5000 per mille", value * 1000.0);
            return complain(&format!("tables.{number}.log_per_mille"), message);
        }
    }
    if let Some(error) = &fit.held_out {
        let shares = [("median", error.median), ("p90", error.p90), ("bias", error.bias)];
        for (key, share) in shares {
            if !share.is_finite() || (key != "bias" && share < 0.0) {
                return complain(
                    &format!("held_out.{key}"),
                    format!("found {share}, expected a finite share"),
                );
            }
        }
    }
    Ok(())
}

/// Checks a whole profile: the GPU, the families that must be there, and the speed of light.
pub(super) fn check_profile(profile: &CostProfile) -> Result<(), Complaint> {
    let gpu = &profile.gpu;
    for (key, rate) in [
        ("bytes_per_second", gpu.bytes_per_second),
        ("bfloat16_flops_per_second", gpu.bfloat16_flops_per_second),
        ("fp8_flops_per_second", gpu.fp8_flops_per_second),
        ("link_bytes_per_second", gpu.link_bytes_per_second),
    ] {
        if !(rate > 0.0 && rate.is_finite()) {
            return Err((format!("gpu.{key}"), format!("found {rate}, expected a positive rate")));
        }
    }
    for family in Family::REQUIRED {
        if profile.families.get(&family).is_none_or(Vec::is_empty) {
            let needed: Vec<&str> = Family::REQUIRED.iter().map(|family| family.name()).collect();
            let message =
                format!("the family `{}` is missing; a profile needs {}", family.name(), needed.join(", "));
            return Err(("families".to_string(), message));
        }
    }
    for (family, fits) in &profile.families {
        for (number, fit) in fits.iter().enumerate() {
            let key = format!("families.{}.{number}", family.name());
            if fits[..number].iter().any(|other| other.variant == fit.variant) {
                return Err((format!("{key}.variant"), format!("`{}` appears twice", fit.variant)));
            }
            check_light(*family, fit, gpu).map_err(|message| (key, message))?;
        }
    }
    Ok(())
}

/// Rejects a fit that is faster than the data sheet allows anywhere on the sampled grid.
fn check_light(family: Family, fit: &KernelFit, gpu: &GpuLimits) -> Result<(), String> {
    let operations = sample_operations(family, &fit.variant, &fit.measured);
    if operations.is_empty() {
        return Err(format!("`{}` is not a variant of {}", fit.variant, family.name()));
    }
    for operation in operations {
        let work = operation.work(gpu);
        let seconds = fit.unguarded_seconds(&operation, &work);
        if seconds.is_nan() || seconds < work.light_seconds * (1.0 - LIGHT_TOLERANCE) {
            return Err(format!(
                "faster than the data sheet of the {}: `{}` takes {:.3} us where the limit is {:.3} us, for \
                 {operation:?}",
                gpu.name,
                fit.variant,
                seconds * 1e6,
                work.light_seconds * 1e6
            ));
        }
    }
    Ok(())
}
