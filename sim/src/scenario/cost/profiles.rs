//! Which profile prices the steps on a GPU.

use crate::catalogue;
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::profile::{CostProfile, GpuLimits};
use crate::scenario::EnginePreset;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The profile of that name or file; without a name the one of the GPU, or the nearest one. A profile of another GPU is
/// scaled to this one.
pub(super) fn find(
    name: Option<&str>,
    gpu: &GpuSpec,
    preset: EnginePreset,
    folder: &Path,
) -> Result<Arc<CostProfile>> {
    let entries = catalogue::profiles();
    let named = |wanted: &str| entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(wanted));
    let limits = GpuLimits::of(gpu);
    let scaled =
        |profile: Arc<CostProfile>| Arc::new(Arc::unwrap_or_clone(profile).scaled_to(limits.clone()));
    if let Some(name) = name {
        let profile = match named(name) {
            Some(entry) => embedded(entry)?,
            None if name.ends_with(".yaml") => Arc::new(CostProfile::read(&folder.join(name))?),
            None => {
                let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
                let hint = crate::document::hint(name, &names);
                return Err(Error::new(format!(
                    "unknown profile `{name}`{hint}; see `servesim list profiles`, or give the path of a .yaml file"
                )));
            }
        };
        return Ok(if profile.gpu.is_like(&limits) { profile } else { scaled(profile) });
    }
    let engine = preset.profile_suffix();
    if let Some(entry) = named(&format!("{}-{engine}", gpu.name)) {
        return embedded(entry);
    }
    let mut nearest: Option<(f64, Arc<CostProfile>)> = None;
    for entry in entries.iter().filter(|entry| entry.name.ends_with(engine)) {
        let profile = embedded(entry)?;
        let distance = profile.gpu.distance(&limits);
        if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
            nearest = Some((distance, profile));
        }
    }
    match nearest {
        Some((_, profile)) => Ok(scaled(profile)),
        None => Err(Error::new(format!("no profile for {}; `cost: datasheet` needs none", gpu.name))),
    }
}

/// An embedded profile, parsed once per process.
fn embedded(entry: &catalogue::Entry) -> Result<Arc<CostProfile>> {
    static PARSED: Mutex<BTreeMap<&'static str, Arc<CostProfile>>> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(profile) = parsed.get(entry.name) {
        return Ok(Arc::clone(profile));
    }
    let profile = match CostProfile::parse_known(entry.text) {
        Some(profile) => profile,
        None => CostProfile::parse(entry.name, entry.text)?,
    };
    let profile = Arc::new(profile);
    parsed.insert(entry.name, Arc::clone(&profile));
    Ok(profile)
}
