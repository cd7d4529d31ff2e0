//! Runs the built program with a command line as it is typed.

use std::path::Path;

/// What a run left behind.
pub struct Run {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Splits a command line at spaces outside single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in command.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).collect()
}

/// Runs `servesim` with these arguments, in the repository.
pub fn servesim(arguments: &str) -> Run {
    servesim_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments)
}

/// As [`servesim`], in `folder`.
pub fn servesim_in(folder: &Path, arguments: &str) -> Run {
    let words = words(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = crate::cli::servesim(folder, &words);
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
