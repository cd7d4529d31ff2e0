//! Objects in a build without object storage: says how to get one with it.

use anyhow::{Result, bail};

/// The error of a build without object storage.
pub fn check(address: &str) -> Result<()> {
    bail!(
        "{address}: this build has no object storage; install one that has with `cargo install --path . --features \
         object-store`, or give a file"
    )
}

/// The error of a build without object storage.
pub fn read(address: &str) -> Result<Vec<u8>> {
    check(address).map(|()| Vec::new())
}

/// The error of a build without object storage.
pub fn write(address: &str, _: &[u8]) -> Result<()> {
    check(address)
}
