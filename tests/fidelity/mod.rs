//! Published serving runs beside their predictions. The rows lie beside the checkout, not in it; without them these tests
//! say that they are skipped.
//!
//! `UPDATE_REPORTS=1` writes the figures of `reports/results/fidelity.md` anew, as `servesim fidelity DIR --out PAGE` does.

mod bench;

use calibrate::fidelity::{
    Load, Metric, Run, catalogue_residuals, deploy, fidelity, left_out_pages, read_runs,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/measured-serving");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return None;
    }
    Some(folder)
}

const FIGURES: &str = "## Figures\n";

#[test]
fn published_runs_are_predicted_as_the_page_says() {
    let Some(folder) = folder() else { return };
    let found = fidelity(&folder, catalogue_residuals().unwrap()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/results/fidelity.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (text, committed) = page.split_once(FIGURES).unwrap();
    let figures = found.figures();
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&path, format!("{text}{FIGURES}{figures}")).unwrap();
    } else {
        assert_eq!(figures, committed, "set UPDATE_REPORTS=1 to write the page anew");
    }
    // On runs that no fit has seen, the calibrated profile beats the data sheet and the constant efficiency.
    for (metric, queued) in [(Metric::Ttft, false), (Metric::Tpot, false), (Metric::Throughput, true)] {
        let median = |model| {
            let held_out = |run: &Run| run.is_held_out() && run.is_saturated() == queued;
            found.errors(model, metric, held_out).unwrap().median
        };
        assert!(median(1) < median(2) && median(1) < median(3), "{metric:?}");
        assert!(
            median(1) <= median(0),
            "{metric:?}: a calibration must not do worse on what it has not seen"
        );
    }
}

#[test]
fn runs_of_one_page_are_all_on_one_side_and_copies_are_set_aside() {
    let Some(folder) = folder() else { return };
    let runs = read_runs(&folder).unwrap();
    assert!(runs.len() > 400, "{}", runs.len());
    let mut sides: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for run in &runs {
        let side = sides.entry((&run.source, &run.page)).or_insert(run.is_held_out());
        assert_eq!(*side, run.is_held_out(), "{}", run.page);
    }
    let held_out = sides.values().filter(|side| **side).count();
    assert!(held_out * 3 > sides.len() && held_out * 3 < 2 * sides.len(), "{held_out} of {}", sides.len());
    let run = |id: &str| runs.iter().find(|run| run.id == id).unwrap();
    let copied = run("gps-0065").unusable.as_deref().unwrap();
    assert_eq!(copied, "its figures are those of gps-0050 to the last digit");
    assert!(run("gps-0050").unusable.is_none());
}

#[test]
fn whether_requests_queued_is_read_from_the_measurement_alone() {
    let Some(folder) = folder() else { return };
    let runs = read_runs(&folder).unwrap();
    let run = |id: &str| runs.iter().find(|run| run.id == id).unwrap();
    assert!(run("gps-0001").is_saturated(), "a burst");
    assert!(!run("gps-0288").is_saturated(), "one client");
    assert!(!run("iog-0053").is_saturated(), "a median TTFT of 38 ms at 15 ms per token");
    assert!(run("iog-0064").is_saturated(), "a median TTFT of 5 s at 106 ms per token");
    assert!(matches!(run("lss-0004").load, Load::Replay(_)) && run("lss-0004").is_saturated());
}

#[test]
fn the_scenario_of_a_run_has_its_settings_and_lengths() {
    let Some(folder) = folder() else { return };
    let runs = read_runs(&folder).unwrap();
    let case = |id: &str| deploy(runs.iter().find(|run| run.id == id).unwrap().clone());
    let Ok(case_128) = case("gps-0128") else { panic!("gps-0128 is left out") };
    let config = &case_128.scenario.engine.scheduler;
    assert!(config.async_scheduling && config.max_num_batched_tokens == 4096 && config.max_num_seqs == 256);
    assert_eq!(case_128.lengths.len(), 1000);
    let mean = case_128.lengths.iter().map(|(prompt, _)| f64::from(*prompt)).sum::<f64>() / 1000.0;
    assert!((mean - 215.31).abs() < 0.5, "{mean}");
    // Half of the pieces of ShareGPT start with an answer: short outputs beside whole answers.
    let outputs: Vec<u32> = case_128.lengths.iter().map(|(_, output)| *output).collect();
    let share = |from: u32, to: u32| outputs.iter().filter(|output| (from..to).contains(*output)).count();
    assert!(share(0, 50) > 250 && share(600, 2048) > 50, "{} short, {} long", share(0, 50), share(600, 2048));
    let Ok(replay) = case("lss-0004") else { panic!("lss-0004 is left out") };
    assert_eq!((replay.lengths.len(), replay.times.len()), (300, 300));
    assert_eq!(replay.scenario.engine.scheduler.total_blocks, 2588, "the cache that the engine logged");
    let Err(copy) = case("gps-0065") else { panic!("a copy is simulated") };
    assert!(copy.reason.contains("gps-0050"));
}

#[test]
fn a_chat_template_costs_where_the_version_parses_it_again() {
    let Some(folder) = folder() else { return };
    let runs = read_runs(&folder).unwrap();
    let known = |id: &str| runs.iter().find(|run| run.id == id).unwrap().known_front_end_ns();
    assert_eq!(known("gps-0199"), 11_500_000, "Qwen3-14B, vLLM 0.11.0");
    assert_eq!(known("gps-0140"), 0, "gpt-oss has no template, and vLLM 0.10.2 keeps it");
    assert_eq!(known("gps-0200"), 0, "SGLang");
    assert_eq!(known("iog-0069"), 0, "not sent as chat");
}

/// Of the rows of IOG alone, which are few: what is printed counts the training part only.
#[test]
fn leaving_out_pages_uses_the_training_part_only() {
    let Some(folder) = folder() else { return };
    let index = std::fs::read_to_string(folder.join("cases_index.csv")).unwrap();
    let mut lines = index.lines();
    let mut rows = vec![lines.next().unwrap()];
    rows.extend(lines.filter(|line| line.starts_with("iog-")));
    let own = tempfile::TempDir::new().unwrap();
    std::fs::write(own.path().join("cases_index.csv"), rows.join("\n")).unwrap();
    let table = left_out_pages(own.path()).unwrap();
    let training = read_runs(own.path()).unwrap().into_iter().filter(|run| !run.is_held_out());
    let simulated = training.filter(|run| deploy(run.clone()).is_ok()).count();
    let row = table.lines().last().unwrap();
    assert!(row.starts_with(&format!("| vLLM 0.8 | {simulated} |")), "{table}");
    let figures: Vec<f64> = row.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    let [_, before, after, left_out] = figures[..] else { panic!("{table}") };
    assert!(after < before && after <= left_out, "a page left out is not predicted better: {table}");
}
