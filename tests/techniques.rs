//! Published before-and-after pairs of one technique each, replayed as two scenarios with nothing tuned to them. The rows
//! lie beside the checkout, not in it; without them the test says that it is skipped.
//!
//! `UPDATE_REPORTS=1` writes the figures of `reports/results/technique-speedups.md` anew.

mod pairs;
mod replay;

use pairs::{Outcome, Pair, figures, median_error};
use replay::{Replay, Runs};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A row of the file, by column.
type Row = BTreeMap<String, String>;

/// What the figures of the report start with; the text before it is written by hand.
const FIGURES: &str = "## Figures\n";

fn rows(path: &Path) -> Vec<Row> {
    csv::Reader::from_path(path).unwrap().deserialize().map(Result::unwrap).collect()
}

fn pair(row: &Row, runs: &mut Runs<'_>) -> Pair {
    let outcome = match Replay::of(row) {
        Ok(replay) => Outcome::Predicted(replay.figures(runs)),
        Err(reason) => Outcome::LeftOut(reason),
    };
    Pair {
        id: row["case_id"].clone(),
        technique: row["technique"].clone(),
        variant: row["variant"].clone(),
        model: row["model"].clone(),
        gpu: row["gpu"].clone(),
        load: row["load"].clone(),
        metric: row["metric"].clone(),
        baseline: row["baseline_value"].clone(),
        measured: row["ratio_variant_over_baseline"].parse().unwrap_or(f64::NAN),
        outcome,
    }
}

#[test]
fn techniques_change_serving_as_the_report_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../shared/data/measured-serving/technique_speedups.csv");
    if !path.is_file() {
        println!("skipped: {} is not here", path.display());
        return;
    }
    let folder = TempDir::new().unwrap();
    replay::write_heads(folder.path());
    let mut runs = Runs::new(folder.path());
    let pairs: Vec<Pair> = rows(&path).iter().map(|row| pair(row, &mut runs)).collect();
    let page = root.join("reports/results/technique-speedups.md");
    let committed = std::fs::read_to_string(&page).unwrap_or_else(|_| FIGURES.to_string());
    let (text, committed_figures) = committed.split_once(FIGURES).unwrap();
    let figures = figures(&pairs);
    if std::env::var_os("UPDATE_REPORTS").is_some() {
        std::fs::write(&page, format!("{text}{FIGURES}{figures}")).unwrap();
    } else {
        assert_eq!(figures, committed_figures, "set UPDATE_REPORTS=1 to write the report anew");
    }
    let predicted: Vec<&Pair> = pairs.iter().filter(|pair| pair.predicted().is_some()).collect();
    let right = predicted.iter().filter(|pair| pair.has_right_direction()).count();
    let error = median_error(&predicted);
    assert!(right >= 15 && error < 0.15, "{right} of {} right, median error {error}", predicted.len());
}
