//! Where rows lie: a file, or with the feature `object-store` an address such as `s3://bucket/rows.csv`.

use crate::output::WholeFile;
use crate::remote;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or an object.
pub enum Place {
    File(PathBuf),
    Object(String),
}

impl Place {
    /// What the user typed: an address has a scheme.
    pub fn new(text: &str) -> Place {
        if text.contains("://") { Place::Object(text.to_string()) } else { Place::File(text.into()) }
    }

    /// As the user typed it.
    pub fn label(&self) -> String {
        match self {
            Place::File(path) => path.display().to_string(),
            Place::Object(address) => address.clone(),
        }
    }

    /// The ending of its name, without the dot.
    pub fn ending(&self) -> &str {
        let path = match self {
            Place::File(path) => path,
            Place::Object(address) => Path::new(address),
        };
        path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
    }

    /// A file beside it, or in the working folder for an object.
    pub fn beside(&self, ending: &str) -> PathBuf {
        let path = match self {
            Place::File(path) => path.as_path(),
            Place::Object(address) => Path::new(address.rsplit('/').next().unwrap_or_default()),
        };
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(ending);
        path.with_file_name(name)
    }

    /// Everything in it.
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Place::File(path) => {
                std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
            }
            Place::Object(address) => remote::read(address),
        }
    }

    /// Fails for a place that cannot be written to, before the work is done; an object is only looked at as far as its
    /// address and the settings go.
    pub fn check(&self) -> Result<()> {
        match self {
            Place::File(path) => WholeFile::create(path).map(drop),
            Place::Object(address) => remote::check(address),
        }
    }

    /// Writes it whole, or not at all.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Place::File(path) => {
                let mut file = WholeFile::create(path)?;
                file.write_all(bytes)?;
                file.finish()
            }
            Place::Object(address) => remote::write(address, bytes),
        }
    }
}
