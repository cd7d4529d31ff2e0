//! Reading a profile file: YAML to checked types, every error with its place.

use super::check::{Complaint, check_fit, check_profile};
use super::form::{ClosedForm, HeldOutError, KernelFit, Provenance};
use super::gpu::GpuLimits;
use super::lists;
use super::names::Family;
use super::table::{Axis, MAX_AXES, ResidualTable};
use super::{CostProfile, PROFILE_VERSION};
use crate::document::{Document, MAX_DOCUMENT_BYTES, read_text};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProfile {
    version: u32,
    name: String,
    gpu: FileGpu,
    software: String,
    attribution: String,
    families: BTreeMap<String, Vec<FileFit>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGpu {
    name: String,
    bytes_per_second: f64,
    bfloat16_flops_per_second: f64,
    fp8_flops_per_second: f64,
    multiprocessors: u32,
    link_bytes_per_second: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFit {
    variant: String,
    provenance: String,
    source: String,
    form: FileForm,
    measured: BTreeMap<String, [f64; 2]>,
    held_out: Option<FileHeldOut>,
    #[serde(default)]
    tables: Vec<FileTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    floor_seconds: f64,
    compute_efficiency: f64,
    memory_efficiency: f64,
    ramp_seconds: f64,
    item_seconds: f64,
    step_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHeldOut {
    points: u32,
    shapes: u32,
    median: f64,
    p90: f64,
    bias: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    axes: Vec<FileAxis>,
    log_per_mille: Vec<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAxis {
    feature: String,
    knots: Vec<f64>,
}

impl CostProfile {
    /// Reads and checks a profile file.
    ///
    /// # Errors
    /// One error with file, line and key: not readable, not a profile, a figure that is not finite, negative or out
    /// of its range, unsorted knots, a missing family, or a fit that is faster than the data sheet allows.
    pub fn read(path: &Path) -> crate::Result<CostProfile> {
        CostProfile::parse(&path.display().to_string(), &read_text(path, MAX_DOCUMENT_BYTES)?)
    }

    /// Parses and checks a profile; `label` stands for it in messages.
    pub fn parse(label: &str, text: &str) -> crate::Result<CostProfile> {
        let lifted = lists::lift(text);
        let document = Document::parse(label, lifted.as_ref().map_or(text, |(short, _)| short))?;
        let mut file: FileProfile = document.resolve()?;
        if let Some((_, lists)) = lifted {
            put_back(&mut file, lists);
        }
        let profile = convert(file).and_then(|profile| check_profile(&profile).map(|()| profile));
        profile.map_err(|(key, message)| document.error(&key, message))
    }

    /// The same for a profile that is known to be good, as those of the catalogue are: without places for messages and
    /// without the check against the limits of the GPU, which take longer than many a simulation. None if it is not.
    pub(crate) fn parse_known(text: &str) -> Option<CostProfile> {
        let (short, lists) = lists::lift(text)?;
        let mut file: FileProfile = serde_saphyr::from_str(&short).ok()?;
        put_back(&mut file, lists);
        convert(file).ok()
    }
}

fn convert(file: FileProfile) -> Result<CostProfile, Complaint> {
    let complain = |key: &str, message: String| Err((key.to_string(), message));
    if file.version != PROFILE_VERSION {
        let message = format!("found version {}, this program reads version {PROFILE_VERSION}", file.version);
        return complain("version", message);
    }
    let gpu = GpuLimits {
        name: file.gpu.name,
        bytes_per_second: file.gpu.bytes_per_second,
        bfloat16_flops_per_second: file.gpu.bfloat16_flops_per_second,
        fp8_flops_per_second: file.gpu.fp8_flops_per_second,
        int8_flops_per_second: file.gpu.fp8_flops_per_second,
        multiprocessors: file.gpu.multiprocessors,
        link_bytes_per_second: file.gpu.link_bytes_per_second,
    };
    let mut families = BTreeMap::new();
    for (name, fits) in file.families {
        let at = format!("families.{name}");
        let Some(family) = Family::from_name(&name) else {
            let known: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
            return complain(&at, format!("no such kernel family; expected one of {}", known.join(", ")));
        };
        let mut checked = Vec::new();
        for (number, fit) in fits.into_iter().enumerate() {
            checked.push(convert_fit(&format!("{at}.{number}"), family, fit)?);
        }
        families.insert(family, checked);
    }
    Ok(CostProfile {
        name: file.name,
        gpu,
        software: file.software,
        attribution: file.attribution,
        is_scaled: false,
        families,
    })
}

/// Puts the lists that were taken out of the text back into the tables.
fn put_back(file: &mut FileProfile, mut lifted: Vec<Vec<i32>>) {
    for table in file.families.values_mut().flatten().flat_map(|fit| &mut fit.tables) {
        let list =
            table.log_per_mille.first().and_then(|number| lifted.get_mut(usize::try_from(*number).ok()?));
        table.log_per_mille = list.map(std::mem::take).unwrap_or_default();
    }
}

fn convert_fit(at: &str, family: Family, fit: FileFit) -> Result<KernelFit, Complaint> {
    let complain = |key: &str, message: String| (format!("{at}.{key}"), message);
    let provenance = match fit.provenance.as_str() {
        "measured" => Provenance::Measured,
        "imported" => Provenance::Imported(fit.source),
        "datasheet" => Provenance::Datasheet,
        "assumed" => Provenance::Assumed(fit.source),
        other => {
            let message = format!("found `{other}`, expected measured, imported, datasheet or assumed");
            return Err(complain("provenance", message));
        }
    };
    let mut measured = Vec::new();
    for feature in family.features() {
        measured.push(*fit.measured.get(*feature).ok_or_else(|| {
            let message = format!(
                "`{feature}` is missing; {} needs the smallest and largest measured {}",
                family.name(),
                family.features().join(", ")
            );
            complain("measured", message)
        })?);
    }
    let mut tables = Vec::new();
    for (number, table) in fit.tables.into_iter().enumerate() {
        tables.push(convert_table(&format!("{at}.tables.{number}"), family, table)?);
    }
    let form = fit.form;
    let fit = KernelFit {
        variant: fit.variant,
        provenance,
        form: ClosedForm {
            floor_seconds: form.floor_seconds,
            compute_efficiency: form.compute_efficiency,
            memory_efficiency: form.memory_efficiency,
            ramp_seconds: form.ramp_seconds,
            item_seconds: form.item_seconds,
            step_seconds: form.step_seconds,
        },
        tables,
        measured,
        held_out: fit.held_out.map(|error| HeldOutError {
            points: error.points,
            shapes: error.shapes,
            median: error.median,
            p90: error.p90,
            bias: error.bias,
        }),
    };
    check_fit(family, &fit).map_err(|(key, message)| complain(&key, message))?;
    Ok(fit)
}

fn convert_table(at: &str, family: Family, table: FileTable) -> Result<ResidualTable, Complaint> {
    if table.axes.is_empty() || table.axes.len() > MAX_AXES {
        let message = format!("found {} axes, expected 1 to {MAX_AXES}", table.axes.len());
        return Err((format!("{at}.axes"), message));
    }
    let mut axes = Vec::new();
    for (number, axis) in table.axes.into_iter().enumerate() {
        let key = format!("{at}.axes.{number}");
        let Some(feature) = family.features().iter().position(|name| *name == axis.feature) else {
            let names = family.features().join(", ");
            let message = format!("found `{}`, {} has the features {names}", axis.feature, family.name());
            return Err((format!("{key}.feature"), message));
        };
        if axis.knots.is_empty() || axis.knots.iter().any(|knot| !(*knot > 0.0 && knot.is_finite())) {
            let message = "expected one or more positive, finite knots".to_string();
            return Err((format!("{key}.knots"), message));
        }
        if let Some(pair) = axis.knots.windows(2).find(|pair| pair[0] >= pair[1]) {
            let message = format!("knots must rise: {} comes before {}", pair[0], pair[1]);
            return Err((format!("{key}.knots"), message));
        }
        axes.push(Axis::new(feature, axis.knots));
    }
    let nodes = axes.iter().fold(1usize, |nodes, axis| nodes.saturating_mul(axis.knots.len()));
    if nodes != table.log_per_mille.len() {
        let message = format!("found {} values, the axes have {nodes} nodes", table.log_per_mille.len());
        return Err((format!("{at}.log_per_mille"), message));
    }
    let values = table.log_per_mille.into_iter().map(|value| f64::from(value) / 1000.0).collect();
    Ok(ResidualTable { axes, values })
}
