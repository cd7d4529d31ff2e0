//! `servesim sweep table`: the rows of a sweep as people read them, seeds averaged.

use crate::compare::estimate;
use crate::output;
use crate::place::Place;
use crate::sweep_file;
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, TableStyle};
use planner::seeds::Estimate;
use planner::sweep::{Column, Row};
use reports::numbers::counted;
use std::process::ExitCode;

/// What is shown when nothing is asked for, where the rows have it.
const SHOWN: [&str; 7] = [
    "requests_per_s",
    "output_tokens_per_s",
    "goodput_share",
    "ttft_p99_ms",
    "itl_p99_ms",
    "e2el_p99_ms",
    "usd_per_million_output_tokens",
];

/// Arguments of `sweep table`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rows of a sweep: .csv, .jsonl or .parquet, a file or an address
    file: String,
    /// Measures to show, by the names of their columns [default: throughput, goodput, 99th percentiles, cost]
    #[arg(long, value_delimiter = ',', value_name = "MEASURE")]
    of: Vec<String>,
}

/// Rows that differ in the seed alone.
struct Group<'a> {
    keys: Vec<&'a str>,
    rows: Vec<&'a Row>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (columns, rows) = sweep_file::read(&Place::new(&arguments.file))?;
    let place = |name: &str| columns.iter().position(|column| column.name == name);
    let Some(status) = place("status") else { bail!("{}: has no column `status`", arguments.file) };
    let keys: Vec<usize> = (1..status).filter(|index| columns[*index].name != "seed").collect();
    let measures = measures(arguments, &columns, &rows)?;
    let (good, bad): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.cells.get(status).is_none_or(|cell| cell != "error"));
    let mut text = table(&columns, &keys, &measures, &groups(&good, &keys));
    if good.len() > 1 && place("seed").is_some() {
        text += "\n± is the 95 % interval over the seeds\n";
    }
    if let Some(first) = bad.first() {
        let why = first.cells.get(status + 1).map_or("", String::as_str);
        text += &format!("\n{} could not run; the first: {why}\n", counted(bad.len() as u64, "point"));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The columns to show: those asked for, or the usual ones that have something.
fn measures(arguments: &Arguments, columns: &[Column], rows: &[Row]) -> Result<Vec<usize>> {
    let known = || columns.iter().enumerate().filter(|(index, column)| *index > 0 && column.is_number);
    if arguments.of.is_empty() {
        let has_any = |index: usize| rows.iter().any(|row| number(row, index).is_some());
        let usual =
            known().filter(|(index, column)| SHOWN.contains(&column.name.as_str()) && has_any(*index));
        return Ok(usual.map(|(index, _)| index).collect());
    }
    let find = |name: &String| match known().find(|(_, column)| column.name == *name) {
        Some((index, _)) => Ok(index),
        None => {
            let names: Vec<&str> = known().map(|(_, column)| column.name.as_str()).collect();
            bail!("--of: found `{name}`, expected any of {}", names.join(", "))
        }
    };
    arguments.of.iter().map(find).collect()
}

fn number(row: &Row, index: usize) -> Option<f64> {
    row.cells.get(index)?.parse().ok()
}

/// In order of their first rows.
fn groups<'a>(rows: &[&'a Row], keys: &[usize]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for row in rows {
        let own: Vec<&str> = keys.iter().map(|key| row.cells.get(*key).map_or("", String::as_str)).collect();
        match groups.iter_mut().find(|group| group.keys == own) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { keys: own, rows: vec![row] }),
        }
    }
    groups
}

fn table(columns: &[Column], keys: &[usize], measures: &[usize], groups: &[Group<'_>]) -> String {
    let mut table = Table::new();
    let name = |index: &usize| columns[*index].name.clone();
    table.load_style(TableStyle::new()).set_header(keys.iter().chain(measures).map(name));
    for group in groups {
        let mean = |measure: &usize| {
            let values: Vec<f64> = group.rows.iter().filter_map(|row| number(row, *measure)).collect();
            estimate(Estimate::of(&values).as_ref())
        };
        table.add_row(group.keys.iter().map(ToString::to_string).chain(measures.iter().map(mean)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 1));
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}
