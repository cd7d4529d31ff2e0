//! The commands of the documentation are run: each line of a `sh` block that starts with `servesim` must succeed.

use crate::cli::servesim;
use std::path::Path;
use tempfile::TempDir;

/// The command lines of a page's `sh` blocks.
fn commands(page: &str) -> Vec<String> {
    let mut in_block = false;
    let mut commands = Vec::new();
    for line in page.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            line if in_block && line.starts_with("servesim ") => commands.push(line.to_string()),
            _ => {}
        }
    }
    commands
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

#[test]
fn every_command_of_the_documentation_runs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let folder = TempDir::new().unwrap();
    let mut run = 0;
    for name in crate::recordings::names(&docs) {
        let page = std::fs::read_to_string(docs.join(&name)).unwrap();
        for command in commands(&page) {
            let words = words(&command);
            let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let output = servesim(folder.path(), &arguments);
            assert!(
                output.status.success(),
                "{name}: {command}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.stdout.is_empty(), "{name}: {command} prints nothing");
            run += 1;
        }
    }
    assert!(run >= 8, "{run} commands run");
}

/// The README's picture is what the README's command prints.
#[test]
fn the_readme_shows_what_quickstart_prints() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let folder = TempDir::new().unwrap();
    let printed = crate::cli::answer(folder.path(), &["simulate", "quickstart"]);
    let trimmed: String = printed.lines().map(|line| line.trim_end().to_string() + "\n").collect();
    assert!(readme.contains(&trimmed), "the README should show:\n{trimmed}");
}
