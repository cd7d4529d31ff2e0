//! Runs the built program.

use std::path::Path;
use std::process::Command;

/// What a run left behind.
pub struct Run {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `servesim` with arguments that are separated by spaces, in the repository.
pub fn servesim(arguments: &str) -> Run {
    servesim_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments)
}

/// As [`servesim`], in `folder`.
pub fn servesim_in(folder: &Path, arguments: &str) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
