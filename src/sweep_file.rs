//! The rows of a sweep as CSV, JSON lines.

use crate::output::WholeFile;
use anyhow::{Context, Result, bail};
use planner::sweep::{Column, Row};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Columns that hold text and are not keys.
const TEXTS: [&str; 2] = ["status", "message"];

/// Refuses a file whose ending names no form.
pub fn check_name(path: &Path) -> Result<()> {
    match ending(path) {
        "csv" | "jsonl" => {}
        _ => bail!("{}: found an unknown ending, expected .csv or .jsonl", path.display()),
    }
    // A bad path fails before the work does.
    drop(WholeFile::create(path)?);
    Ok(())
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

/// Writes all rows.
pub fn write(path: &Path, columns: &[Column], rows: &[Row]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    if ending(path) == "jsonl" {
        for row in rows {
            writeln!(file, "{}", json_line(columns, row)?)?;
        }
        return file.finish();
    }
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(columns.iter().map(|column| &column.name))?;
    for row in rows {
        writer.write_record(&row.cells)?;
    }
    match writer.into_inner() {
        Ok(file) => file.finish(),
        Err(error) => bail!("{}: cannot be written: {}", path.display(), error.error()),
    }
}

/// A row as JSON, with the digits of its numbers as they are.
fn json_line(columns: &[Column], row: &Row) -> Result<String> {
    let entry = |(column, cell): (&Column, &String)| -> Result<String> {
        let value = match (cell.is_empty(), column.is_number) {
            (true, _) => "null".to_string(),
            (false, true) => cell.clone(),
            (false, false) => serde_json::to_string(cell)?,
        };
        Ok(format!("{}:{value}", serde_json::to_string(&column.name)?))
    };
    let entries = columns.iter().zip(&row.cells).map(entry).collect::<Result<Vec<String>>>()?;
    Ok(format!("{{{}}}", entries.join(",")))
}

/// Reads a file back. An error names the file and line.
pub fn read(path: &Path) -> Result<(Vec<Column>, Vec<Row>)> {
    let (names, cells) = match ending(path) {
        "csv" => read_csv(path)?,
        "jsonl" => read_json_lines(path)?,
        _ => bail!("{}: found an unknown ending, expected .csv or .jsonl", path.display()),
    };
    let first_measure = names.iter().position(|name| name == TEXTS[1]).map_or(names.len(), |index| index + 1);
    if names.first().map(String::as_str) != Some("point") || first_measure == names.len() {
        bail!(
            "{}: holds no rows of a sweep: expected a column `point` first, and `status` and `message`",
            path.display()
        );
    }
    let columns = names.into_iter().enumerate();
    let columns: Vec<Column> = columns
        .map(|(index, name)| Column { name, is_number: index == 0 || index >= first_measure })
        .collect();
    let rows = cells.into_iter().enumerate().map(|(index, cells)| {
        let point = cells.first().and_then(|cell| cell.parse().ok());
        let point = point.with_context(|| format!("{}: row {} has no point", path.display(), index + 1))?;
        Ok(Row { point, cells })
    });
    Ok((columns, rows.collect::<Result<Vec<Row>>>()?))
}

type Cells = (Vec<String>, Vec<Vec<String>>);

fn read_csv(path: &Path) -> Result<Cells> {
    let at = || format!("{}: cannot be read", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(at)?;
    let names = reader.headers().with_context(at)?.iter().map(String::from).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(record.with_context(at)?.iter().map(String::from).collect());
    }
    Ok((names, rows))
}

fn read_json_lines(path: &Path) -> Result<Cells> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let (mut names, mut rows): Cells = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let at = || format!("{}:{}: is no row of a sweep", path.display(), index + 1);
        let values: BTreeMap<String, &RawValue> = serde_json::from_str(line).with_context(at)?;
        if index == 0 {
            let order: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).with_context(at)?;
            names = order.keys().cloned().collect();
        }
        let cell = |name: &String| -> Result<String> {
            let raw = values.get(name).with_context(at)?.get();
            match raw.as_bytes().first() {
                Some(b'"') => serde_json::from_str(raw).with_context(at),
                Some(b'n') => Ok(String::new()),
                _ => Ok(raw.to_string()),
            }
        };
        rows.push(names.iter().map(cell).collect::<Result<Vec<String>>>()?);
    }
    Ok((names, rows))
}
