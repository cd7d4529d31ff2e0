//! A full disk: an error that says so, nothing half-written, nothing lost.

use crate::cli::answer;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Runs the program with files limited to `blocks` of 512 bytes each: what is beyond fails to be written, as on a full
/// disk.
fn limited(folder: &Path, blocks: u32, command: &str) -> Output {
    let script =
        format!("trap '' XFSZ; ulimit -f {blocks}; exec {} {command}", env!("CARGO_BIN_EXE_servesim"));
    Command::new("sh").current_dir(folder).args(["-c", &script]).output().unwrap()
}

fn message(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{text}");
    text.lines().last().unwrap_or_default().to_string()
}

/// Files are written beside their names first; that such a file is the device `/dev/full` makes every write fail.
fn fill(folder: &Path, name: &str) {
    symlink("/dev/full", folder.join(format!("{name}.partial"))).unwrap();
}

#[test]
fn files_that_cannot_be_written_whole_are_not_there() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    answer(path, &["simulate", "quickstart", "--set", "workload.requests=50", "--out", "r"]);
    let set = ["--set", "plan.goal={ttft_p99: 500ms}", "--set", "workload.requests=50"];
    for (arguments, name) in [
        (&["report", "r"][..], "r/report.html"),
        (&["report", "r", "--perfetto", "t.json"], "t.json"),
        (&["simulate", "quickstart", "--set", "workload.requests=50", "--requests-out", "q.csv"], "q.csv"),
        (&[&["plan", "quickstart", "--report", "p.html"][..], &set].concat(), "p.html"),
        (&["memory", "--model", "llama-3.1-8b", "--gpu", "h200", "--chart", "m.svg"], "m.svg"),
    ] {
        fill(path, name);
        let output = crate::cli::servesim(path, arguments);
        let text = message(&output);
        assert!(text.contains("cannot be written") && text.contains("No space left on device"), "{text}");
        assert!(text.contains(name), "{text}");
        assert!(!path.join(name).exists(), "{name} is there");
        assert!(path.join(format!("{name}.partial")).symlink_metadata().is_err(), "{name}.partial is left");
    }
}

#[test]
fn a_run_that_does_not_fit_leaves_no_folder() {
    let folder = TempDir::new().unwrap();
    let output = limited(folder.path(), 16, "simulate quickstart --set workload.requests=2000 --out r");
    let text = message(&output);
    assert!(text.contains("cannot be written") && text.contains("File too large"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_sweep_goes_on_where_the_disk_was_full() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let sweep = "sweep quickstart --set workload.requests=100 --set seed=1..40 --out";
    let words = |out: &'static str| sweep.split(' ').chain([out]).collect::<Vec<_>>();
    answer(path, &words("whole.csv"));
    let output = limited(path, 16, &format!("{sweep} s.csv"));
    let text = message(&output);
    assert!(text.contains("s.csv.journal: cannot be written: File too large"), "{text}");
    assert!(text.contains("what is finished is kept, and the same command goes on from there"), "{text}");
    let kept = std::fs::read_to_string(path.join("s.csv.journal")).unwrap().lines().count();
    assert!((3..40).contains(&kept), "{kept}");
    let output = crate::cli::servesim(path, &words("s.csv"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on: "));
    let read = |name: &str| std::fs::read(path.join(name)).unwrap();
    assert!(read("s.csv") == read("whole.csv"));
}

#[test]
fn an_answer_that_cannot_be_printed_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_servesim"))
        .args(["list", "models"])
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(2));
}

#[test]
fn a_reader_that_left_and_a_full_output_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let shell = |command: &str| {
        let servesim = env!("CARGO_BIN_EXE_servesim");
        let script = format!("{servesim} {command}");
        Command::new("bash").current_dir(folder.path()).args(["-c", &script]).output().unwrap()
    };
    let run = "simulate quickstart --no-band --set workload.requests=50";
    // The run warns after the reader of its errors has gone.
    let left = shell(&format!("{run} 2>&1 > /dev/null | true; exit ${{PIPESTATUS[0]}}"));
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    let full = shell(&format!("{run} > /dev/full"));
    let text = message(&full);
    assert!(text.contains("standard output: cannot be written") && text.contains("No space left"), "{text}");
}

#[test]
fn links_are_followed_and_devices_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("real")).unwrap();
    symlink(path.join("real"), path.join("link")).unwrap();
    symlink(path.join("nothing"), path.join("dangling")).unwrap();
    let run = ["simulate", "quickstart", "--no-band", "--set", "workload.requests=50", "--out"];
    answer(path, &[&run[..], &["link"]].concat());
    assert!(path.join("real/report.json").is_file() && path.join("link").is_symlink());
    // A file that a link names is written, a device is left alone.
    std::fs::write(path.join("page.html"), "").unwrap();
    symlink(path.join("page.html"), path.join("page-link.html")).unwrap();
    answer(path, &["report", "link", "--html", "page-link.html"]);
    assert!(path.join("page-link.html").is_symlink());
    assert!(std::fs::metadata(path.join("page.html")).unwrap().len() > 1000);
    let text = message(&crate::cli::servesim(path, &["report", "link", "--html", "/dev/null"]));
    assert!(text.contains("/dev/null: is no regular file"), "{text}");
    let text = message(&crate::cli::servesim(path, &[&run[..], &["dangling"]].concat()));
    assert!(text.contains("dangling: is a link to what does not exist"), "{text}");
    let text = message(&crate::cli::servesim(path, &["report", "link", "--html", "dangling"]));
    assert!(text.contains("dangling: is a link to what does not exist"), "{text}");
    // Nor is a pipe replaced, whatever names it, and one file is not written twice.
    assert!(Command::new("mkfifo").arg(path.join("pipe")).status().unwrap().success());
    symlink(path.join("pipe"), path.join("to-pipe")).unwrap();
    for name in ["pipe", "to-pipe"] {
        let text = message(&crate::cli::servesim(path, &["report", "link", "--html", name]));
        assert!(text.contains(&format!("{name}: is no regular file")), "{text}");
    }
    std::fs::write(path.join("rows.csv"), "").unwrap();
    symlink("rows.csv", path.join("rows-link.csv")).unwrap();
    let twice = ["--requests-out", "rows.csv", "--steps-out", "rows-link.csv"];
    let text = message(&crate::cli::servesim(path, &[&run[..5], &twice].concat()));
    assert!(text.contains("--steps-out: found the same name as for --requests-out"), "{text}");
    assert_eq!(std::fs::read(path.join("rows.csv")).unwrap(), b"");
}
