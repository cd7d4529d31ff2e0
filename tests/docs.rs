//! The commands of the documentation are run. Every line that starts with `servesim ` in a fenced `sh` block of
//! README.md and docs/*.md must exit 0, or as the fence says: `sh exit=1`; a block marked `sh not-run` is skipped. The .csv files of docs/ lie
//! in their folder, and a block `yaml FILE`, `csv FILE` or `jsonl FILE` is written there as that file. When
//! a `text` block follows, it is what the commands print. A file named by `--chart` must equal the one of that name
//! beside the page. `SERVESIM_WRITE=1` rewrites the text blocks and the charts.

use crate::command::servesim_in;
use std::path::{Path, PathBuf};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    pages.push(root.join("README.md"));
    pages.retain(|path| path.exists());
    pages.sort();
    pages
}

/// Puts the example files of docs/ into the folder that a page's commands run in.
fn copy_examples(folder: &Path) {
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// What the commands of a `sh` block print, run in a folder that the page's blocks share; charts are compared with those beside the page.
fn run_block(folder: &Path, page: &Path, fence: &str, block: &[&str], is_writing: bool) -> Option<String> {
    let commands: Vec<&str> = block.iter().filter_map(|line| line.strip_prefix("servesim ")).collect();
    if commands.is_empty() || fence.contains("not-run") {
        return None;
    }
    let code = fence.split_whitespace().find_map(|word| word.strip_prefix("exit="));
    let code: i32 = code.map_or(0, |digits| digits.parse().unwrap());
    let mut printed = String::new();
    for command in commands {
        let run = servesim_in(folder, command);
        assert!(code == 2 || !run.stdout.is_empty(), "{}: servesim {command} prints nothing", page.display());
        assert_eq!(run.code, code, "{}: servesim {command}\n{}{}", page.display(), run.stdout, run.stderr);
        printed.push_str(&run.stdout);
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let made = entry.unwrap().path();
        if made.extension().is_some_and(|extension| extension == "svg") {
            let committed = page.with_file_name(made.file_name().unwrap());
            let text = std::fs::read_to_string(&made).unwrap();
            if is_writing {
                std::fs::write(&committed, &text).unwrap();
            }
            let beside = std::fs::read_to_string(&committed).unwrap_or_default();
            assert!(beside == text, "{} is not what {} makes", committed.display(), page.display());
        }
    }
    Some(printed)
}

#[test]
fn the_commands_of_the_documentation_do_what_it_says() {
    let is_writing = std::env::var_os("SERVESIM_WRITE").is_some();
    for page in pages() {
        let folder = tempfile::tempdir().unwrap();
        copy_examples(folder.path());
        let text = std::fs::read_to_string(&page).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut rewritten: Vec<String> = Vec::new();
        let mut printed: Option<String> = None;
        let mut index = 0;
        while let Some(line) = lines.get(index) {
            index += 1;
            rewritten.push((*line).to_string());
            let Some(fence) = line.strip_prefix("```") else {
                if !line.trim().is_empty() {
                    printed = None;
                }
                continue;
            };
            let length = lines[index..].iter().position(|line| *line == "```").expect("a fence that ends");
            let block = &lines[index..index + length];
            index += length + 1;
            if let Some(("yaml" | "csv" | "jsonl", file)) = fence.split_once(' ') {
                std::fs::write(folder.path().join(file), block.join("\n") + "\n").unwrap();
            }
            match (fence, printed.take()) {
                ("text", Some(printed)) => {
                    if !is_writing {
                        assert_eq!(block.join("\n") + "\n", printed, "{}", page.display());
                    }
                    rewritten.extend(printed.lines().map(String::from));
                }
                _ => {
                    rewritten.extend(block.iter().map(ToString::to_string));
                    if fence == "sh" || fence.starts_with("sh ") {
                        printed = run_block(folder.path(), &page, fence, block, is_writing);
                    }
                }
            }
            rewritten.push("```".to_string());
        }
        if is_writing {
            std::fs::write(&page, rewritten.join("\n") + "\n").unwrap();
        }
    }
}

/// The README's picture is what the README's command prints.
#[test]
fn the_readme_shows_what_quickstart_prints() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let printed = crate::cli::answer(folder.path(), &["simulate", "quickstart"]);
    let trimmed: String = printed.lines().map(|line| line.trim_end().to_string() + "\n").collect();
    assert!(readme.contains(&trimmed), "the README should show:\n{trimmed}");
}

/// The Markdown files below `folder`, without what is built and what is hidden.
fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && name != "target" && !name.starts_with('.') {
            markdown(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text without fenced blocks and code between backticks, in which brackets are no links.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            kept.extend(line.split('`').step_by(2));
            kept.push('\n');
        }
    }
    kept
}

/// The anchor that a heading gets: lower case, spaces as dashes, without punctuation.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What is wrong with a link of `page`, if anything.
fn broken(page: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    let target = if file.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(file) };
    if !target.exists() {
        return Some(format!("{}: `{link}` leads nowhere", page.display()));
    }
    let text = heading.map(|_| std::fs::read_to_string(&target).unwrap()).unwrap_or_default();
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    let is_there =
        heading.is_none_or(|wanted| headings.any(|line| anchor(line.trim_start_matches('#')) == wanted));
    (!is_there).then(|| format!("{}: `{link}` names no heading", page.display()))
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut pages = Vec::new();
    markdown(Path::new(env!("CARGO_MANIFEST_DIR")), &mut pages);
    let (mut links, mut wrong) = (0, Vec::new());
    for page in &pages {
        let text = prose(&std::fs::read_to_string(page).unwrap());
        for part in text.split("](").skip(1) {
            let link = part.split([')', ' ']).next().unwrap_or_default();
            links += 1;
            wrong.extend(broken(page, link));
        }
    }
    assert!(pages.len() > 20 && links > 50, "{} pages, {links} links", pages.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
