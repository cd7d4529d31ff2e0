//! What is known by name: models, GPUs, measured profiles and ready-made scenarios, all embedded in the program.

use crate::document::{hint, read_text};
use crate::error::{Error, Result};
use crate::gpu::GpuSpec;
use crate::model::ModelSpec;
use include_dir::{Dir, include_dir};
use std::path::Path;

static SCENARIOS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../scenarios");

/// A config.json or model file of more bytes than this is not one.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A file of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name: the file's name without the extension.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The YAML files of a folder, by name. The folder `""` is the top.
fn entries(folder: &str) -> Vec<Entry> {
    let dir = if folder.is_empty() { Some(&SCENARIOS) } else { SCENARIOS.get_dir(folder) };
    let files = dir.into_iter().flat_map(Dir::files);
    let yaml = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "yaml"));
    let mut entries: Vec<Entry> = yaml
        .filter_map(|file| {
            Some(Entry { name: file.path().file_stem()?.to_str()?, text: file.contents_utf8()? })
        })
        .collect();
    entries.sort_by_key(|entry| entry.name);
    entries
}

/// The models, by name. [`ModelSpec::from_catalogue_yaml`] reads their text.
pub fn models() -> Vec<Entry> {
    entries("models")
}

/// The GPUs, by name. [`GpuSpec::from_yaml`] reads their text.
pub fn gpus() -> Vec<Entry> {
    entries("gpus")
}

/// The measured cost profiles, by name.
pub fn profiles() -> Vec<Entry> {
    entries("profiles")
}

/// The calibrations, by name: host time and kernel scale of engines, fitted to measured runs.
pub fn calibrations() -> Vec<Entry> {
    entries("calibrations")
}

/// The ready-made scenarios, by name.
pub fn scenarios() -> Vec<Entry> {
    entries("")
}

/// A model by its name in the catalogue, by one of its aliases (both in any case), or by the path of a config.json or
/// of a model file of our own (`.yaml`). Names come before paths. The error of an unknown name suggests the nearest.
pub fn find_model(name_or_path: &str) -> Result<ModelSpec> {
    let entries = models();
    if let Some(entry) = entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name_or_path)) {
        return ModelSpec::from_catalogue_yaml(entry.text, entry.name);
    }
    let mut known: Vec<String> = entries.iter().map(|entry| entry.name.to_string()).collect();
    for entry in &entries {
        let model = ModelSpec::from_catalogue_yaml(entry.text, entry.name)?;
        if model.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name_or_path)) {
            return Ok(model);
        }
        known.extend(model.aliases);
    }
    if let Some(text) = read_if_path(name_or_path)? {
        return match is_yaml(name_or_path) {
            true => ModelSpec::from_catalogue_yaml(&text, name_or_path),
            false => ModelSpec::from_config_json(&text, name_or_path),
        };
    }
    Err(unknown("model", "models", name_or_path, &known, " or give the path of a config.json"))
}

/// A GPU by its name in the catalogue or an alias (in any case), or by the path of a GPU file (`.yaml`).
pub fn find_gpu(name_or_path: &str) -> Result<GpuSpec> {
    let mut known = Vec::new();
    for entry in gpus() {
        let gpu = GpuSpec::from_yaml(entry.text, entry.name)?;
        let named = |name: &str| name.eq_ignore_ascii_case(name_or_path);
        if named(entry.name) || gpu.aliases.iter().any(|alias| named(alias)) {
            return Ok(gpu);
        }
        known.push(entry.name.to_string());
        known.extend(gpu.aliases);
    }
    if let Some(text) = read_if_path(name_or_path)? {
        return GpuSpec::from_yaml(&text, name_or_path);
    }
    Err(unknown("GPU", "gpus", name_or_path, &known, " or give the path of a GPU file"))
}

fn is_yaml(path: &str) -> bool {
    let extension = Path::new(path).extension().map(std::ffi::OsStr::to_ascii_lowercase);
    extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// The text of the file, when the name can only be a path: when something is there, or its ending is a file's.
fn read_if_path(name_or_path: &str) -> Result<Option<String>> {
    let path = Path::new(name_or_path);
    let ends_as_file = is_yaml(name_or_path) || path.extension().is_some_and(|extension| extension == "json");
    if path.exists() || ends_as_file {
        return read_text(path, MAX_FILE_BYTES).map(Some);
    }
    Ok(None)
}

fn unknown(what: &str, list: &str, name: &str, known: &[String], otherwise: &str) -> Error {
    let lower = name.to_ascii_lowercase();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let suggestion = hint(&lower, &known);
    Error::new(format!("unknown {what} `{name}`{suggestion}; see `servesim list {list}`{otherwise}"))
}

#[cfg(test)]
mod tests;
