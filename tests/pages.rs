//! Pages: well formed, self-contained, and drawn by a browser where one is installed.

use crate::cli::{answer, refused};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const EMPTY_ELEMENTS: [&str; 5] = ["!DOCTYPE", "meta", "link", "br", "hr"];

/// Tags open and close in order, and nothing is loaded from elsewhere.
pub fn check_structure(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).map(|part| part.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if EMPTY_ELEMENTS.contains(&name) {
            continue;
        }
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closes what is open"),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(html.contains("default-src 'none'"), "the page forbids itself to load anything");
    for load in ["src=", "href=\"http", "url(", "@import", "<script", "<iframe", "NaN"] {
        assert!(!html.contains(load), "the page has {load}");
    }
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "an address in the page");
}

/// The page as a browser shows it, without an error on the console; the page's own policy makes each attempt to load
/// something such an error. None without browser.
pub fn rendered(page: &Path) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()));
    let Some(browser) = browser else {
        eprintln!("skipped: no chromium is installed, the page was checked as text only");
        return None;
    };
    let profile = TempDir::new().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(!console.contains("CONSOLE"), "{console}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_page_of_a_run_renders_and_loads_nothing() {
    let folder = TempDir::new().unwrap();
    let small = ["--set", "workload.requests=300", "--set", "deployment.replicas=2"];
    answer(folder.path(), &[&["simulate", "quickstart", "--out", "runs/a"][..], &small].concat());
    let printed = answer(folder.path(), &["report", "runs/a"]);
    let page = folder.path().join(printed.trim());
    let html = std::fs::read_to_string(&page).unwrap();
    check_structure(&html);
    assert_eq!(html.matches("<svg").count(), 13);
    for text in [
        "llama-3.1-8b on 2 × h200-sxm in 2 replicas",
        "SLO TTFT",
        "p99 over 300 requests",
        "assumed",
        "Where the step time goes",
        "gate and up projection",
        "memory bandwidth",
        "steps that only decode",
        "CUDA graphs",
        "; error band ",
    ] {
        assert!(html.contains(text), "{text}");
    }
    if let Some(dom) = rendered(&page) {
        assert!(dom.contains("Time to first token over time") && dom.matches("<svg").count() == 13);
    }
    // With a sweep, its latency against its throughput.
    let sweep = ["sweep", "quickstart", "--set", "workload.requests=200", "--out", "s.csv"];
    answer(
        folder.path(),
        &[&sweep[..], &["--set", "workload.arrivals={poisson: 5/s},{poisson: 40/s}"]].concat(),
    );
    answer(folder.path(), &["report", "runs/a", "--sweep", "s.csv"]);
    let with_curve = std::fs::read_to_string(&page).unwrap();
    check_structure(&with_curve);
    assert!(with_curve.matches("<svg").count() == 15 && with_curve.contains("TTFT p99 against throughput"));
    // The same page at once, with the run kept and without.
    answer(folder.path(), &[&["simulate", "quickstart", "--report", "at-once.html"][..], &small].concat());
    assert_eq!(std::fs::read_to_string(folder.path().join("at-once.html")).unwrap(), html);
    let both = ["simulate", "quickstart", "--out", "runs/c", "--report", "both.html"];
    answer(folder.path(), &[&both[..], &small].concat());
    assert_eq!(std::fs::read_to_string(folder.path().join("both.html")).unwrap(), html);
    assert!(folder.path().join("runs/c/steps.csv").is_file());
    // The same run gives the same page, and the scenario of the folder gives the same run.
    answer(folder.path(), &["simulate", "runs/a/scenario.yaml", "--out", "runs/b"]);
    for file in ["requests.csv", "steps.csv", "scenario.yaml"] {
        let read = |run: &str| std::fs::read(folder.path().join("runs").join(run).join(file)).unwrap();
        assert_eq!(read("a"), read("b"), "{file}");
    }
}

#[test]
fn a_page_of_a_run_without_tokens_or_slo_says_so() {
    let folder = TempDir::new().unwrap();
    let sets =
        ["workload.requests=5", "engine.max_model_len=64", "workload.prompt={constant: 100}", "slo={}"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    answer(folder.path(), &[&["simulate", "quickstart", "--out", "r"][..], &sets].concat());
    answer(folder.path(), &["report", "r"]);
    let html = std::fs::read_to_string(folder.path().join("r/report.html")).unwrap();
    check_structure(&html);
    assert!(html.contains("Nothing to draw") && html.contains("5 of 5 requests were rejected"), "{html}");
}

/// Without a profile there are no operators, no roofline and no error band; without the model's file no memory either.
#[test]
fn a_page_leaves_out_what_cannot_be_told_and_says_so() {
    let folder = TempDir::new().unwrap();
    let yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/models/llama-3.1-8b.yaml");
    let model = folder.path().join("mine.yaml");
    std::fs::copy(yaml, &model).unwrap();
    let sets = [
        "workload.requests=50",
        "model=mine.yaml",
        "cost={linear: {base: 5ms, per_token: 20us, per_context_token: 1ns}}",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    answer(folder.path(), &[&["simulate", "quickstart", "--out", "r"][..], &sets].concat());
    let page = || {
        answer(folder.path(), &["report", "r"]);
        std::fs::read_to_string(folder.path().join("r/report.html")).unwrap()
    };
    let html = page();
    check_structure(&html);
    assert!(html.contains("Memory of a GPU") && !html.contains("error band") && !html.contains("Roofline:"));
    std::fs::remove_file(model).unwrap();
    let html = page();
    check_structure(&html);
    assert!(html.contains("Roofline and memory are left out: ") && !html.contains("Memory of a GPU"));
}

#[test]
fn folders_that_hold_something_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let run = ["simulate", "quickstart", "--set", "workload.requests=20", "--out", "r"];
    answer(folder.path(), &run);
    let before = std::fs::read(folder.path().join("r/report.json")).unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let refused = |arguments: &[&str], expected: &str| {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(expected), "{message}");
    };
    refused(&run, "r: holds another run; choose a new folder");
    refused(&["simulate", "quickstart", "--out", "file"], "file: is a file");
    refused(&["simulate", "quickstart", "--out", "file/r"], "file/r: cannot be made");
    refused(&["simulate", "nothing.yaml", "--out", "new"], "no such file");
    refused(&["report", "missing"], "missing: is not a finished run: it has no scenario.yaml");
    std::fs::write(folder.path().join("r/steps.csv"), "replica,start_ns\n0,x\n").unwrap();
    refused(&["report", "r"], "r/steps.csv:2: not a row of a run");
    assert_eq!(std::fs::read(folder.path().join("r/report.json")).unwrap(), before);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}
