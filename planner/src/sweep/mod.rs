//! `sweep`: one run per point, one row per run, in any number of pieces and after any number of interruptions.

mod axes;
mod journal;
mod manifest;
mod merge;

pub use axes::Axis;
pub use journal::Journal;
pub use manifest::{Manifest, kubernetes, slurm};
pub use merge::merge;

use crate::measures::{self, MEASURES};
use rayon::prelude::*;
use sim::document::Document;
use sim::error::{Error, Result};
use sim::scenario::{Scenario, ScenarioFile};
use std::path::PathBuf;

/// A sweep that is ready to run.
pub struct Sweep {
    label: String,
    document: Document,
    folder: PathBuf,
    axes: Vec<Axis>,
    points: Vec<Vec<String>>,
    digest: String,
}

/// A column of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether its cells are numbers.
    pub is_number: bool,
}

/// A row: a text per column, empty where there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The index of its point.
    pub point: usize,
    /// Its cells, the index first.
    pub cells: Vec<String>,
}

/// A part of the points: those whose index leaves `index` when divided by `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0 to `count - 1`.
    pub index: usize,
    /// How many shards there are.
    pub count: usize,
}

impl Shard {
    /// All points.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Reads `i/n`, `i` counted from 0.
    pub fn parse(text: &str) -> Result<Shard> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count => Ok(Shard { index, count }),
            _ => Err(Error::new(format!(
                "--shard: found `{text}`, expected i/n with i from 0 to n - 1, for example 0/8"
            ))),
        }
    }
}

/// Whether a point was run, and what hindered it.
const STATUS: [&str; 2] = ["status", "message"];

impl Sweep {
    /// Reads the scenario and the `--set` texts; those with one value are overrides. With `sample`, that many points
    /// are drawn as a Latin hypercube instead of every combination. Every point must name existing keys and readable
    /// values; whether its values go together is found when it runs.
    pub fn load(name_or_path: &str, sets: &[String], sample: Option<usize>) -> Result<Sweep> {
        let parsed = sets.iter().map(|set| Axis::parse(set)).collect::<Result<Vec<Axis>>>()?;
        let (fixed, axes): (Vec<_>, Vec<_>) =
            parsed.into_iter().zip(sets).partition(|(axis, _)| axis.is_fixed());
        let overrides: Vec<String> = fixed.into_iter().map(|(_, set)| set.clone()).collect();
        let axes: Vec<Axis> = axes.into_iter().map(|(axis, _)| axis).collect();
        if let Some(twice) = axes.iter().enumerate().find(|(i, a)| axes[..*i].iter().any(|b| b.key == a.key))
        {
            return Err(Error::new(format!(
                "--set {}: found twice; give all its values at once",
                twice.1.key
            )));
        }
        let (document, folder) = Scenario::document(name_or_path, &overrides)?;
        let file: ScenarioFile = document.resolve()?;
        let points = match sample {
            Some(count) => axes::latin_hypercube(&axes, count, file.seed)?,
            None => axes::grid(&axes)?,
        };
        let base = serde_json::to_string(&file).unwrap_or_default();
        let keys: Vec<&str> = axes.iter().map(|axis| axis.key.as_str()).collect();
        let digest = digest(&format!("{} {base} {keys:?} {points:?}", env!("CARGO_PKG_VERSION")));
        let sweep = Sweep { label: name_or_path.to_string(), document, folder, axes, points, digest };
        for point in 0..sweep.points.len() {
            sweep.document_of(point)?.resolve::<ScenarioFile>()?;
        }
        Ok(sweep)
    }

    /// How many points there are.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// A text that tells this sweep from others: of the program's version, the scenario and the points.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The columns of its rows.
    pub fn columns(&self) -> Vec<Column> {
        let column = |name: &str, is_number| Column { name: name.to_string(), is_number };
        let mut columns = vec![column("point", true)];
        columns.extend(self.axes.iter().map(|axis| column(&axis.key, false)));
        columns.extend(STATUS.map(|name| column(name, false)));
        columns.extend(MEASURES.iter().map(|measure| column(measure.name, true)));
        columns
    }

    fn document_of(&self, point: usize) -> Result<Document> {
        let mut document = self.document.clone();
        for (axis, value) in self.axes.iter().zip(&self.points[point]) {
            document.set(&format!("{}={value}", axis.key))?;
        }
        Ok(document)
    }

    /// Runs one point. What hinders it, such as a model that does not fit, is in its row.
    pub fn row(&self, point: usize) -> Row {
        let mut cells = vec![point.to_string()];
        cells.extend(self.points[point].iter().cloned());
        let run = || -> Result<serde_json::Value> {
            let scenario = Scenario::resolve(&self.label, &self.document_of(point)?, &self.folder)?;
            let run = scenario.simulate(&mut ())?;
            serde_json::to_value(scenario.report(&run)).map_err(|e| Error::new(e.to_string()))
        };
        match run() {
            Ok(report) => {
                cells.extend(["ok".to_string(), String::new()]);
                let text =
                    |measure| measures::number(&report, measure).map_or(String::new(), |v| v.to_string());
                cells.extend(MEASURES.iter().map(text));
            }
            Err(error) => {
                cells.extend(["error".to_string(), format!("{}: {}", error.key_path(), error.message())]);
                cells.extend(MEASURES.iter().map(|_| String::new()));
            }
        }
        Row { point, cells }
    }

    /// Runs the points of a shard that the journal does not have yet, and gives all its rows by point. `on_done` is
    /// called once per point that runs now. After an error the journal keeps what was finished.
    pub fn run(&self, shard: Shard, journal: &Journal, on_done: &(dyn Fn() + Sync)) -> Result<Vec<Row>> {
        let open: Vec<usize> = self.points_of(shard).filter(|point| !journal.has(*point)).collect();
        let results: Vec<Result<Row>> = open
            .into_par_iter()
            .map(|point| {
                journal.check()?;
                let row = self.row(point);
                journal.append(&row)?;
                on_done();
                Ok(row)
            })
            .collect();
        let mut rows = journal.rows();
        for row in results {
            rows.push(row?);
        }
        rows.sort_unstable_by_key(|row| row.point);
        Ok(rows)
    }

    /// The points of a shard.
    pub fn points_of(&self, shard: Shard) -> impl Iterator<Item = usize> + use<> {
        (shard.index..self.points.len()).step_by(shard.count)
    }
}

/// FNV-1a over the text: it tells apart sweeps that follow each other in one place, not forgeries.
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
