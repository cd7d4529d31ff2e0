//! The rows of a sweep as CSV, JSON lines or Parquet, by the ending of their place.

use crate::place::Place;
use anyhow::{Context, Result, bail};
use planner::sweep::{Column, Row};
use reports::tables::{Table, Values};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Columns that hold text and are not keys.
const TEXTS: [&str; 2] = ["status", "message"];

/// The form of the rows.
#[derive(Clone, Copy)]
enum Form {
    Csv,
    JsonLines,
    Parquet,
}

impl Form {
    fn of(place: &Place) -> Result<Form> {
        match place.ending() {
            "csv" => Ok(Form::Csv),
            "jsonl" => Ok(Form::JsonLines),
            "parquet" => {
                reports::parquet::check().map_err(|e| anyhow::anyhow!("{}: {e}", place.label()))?;
                Ok(Form::Parquet)
            }
            _ => bail!("{}: found an unknown ending, expected .csv, .jsonl or .parquet", place.label()),
        }
    }
}

/// Refuses a place whose ending names no form, or that cannot be written, before the work is done.
pub fn check(place: &Place) -> Result<()> {
    Form::of(place)?;
    place.check()
}

/// Writes all rows.
pub fn write(place: &Place, columns: &[Column], rows: &[Row]) -> Result<()> {
    let mut bytes = Vec::new();
    match Form::of(place)? {
        Form::Csv => {
            let mut writer = csv::Writer::from_writer(&mut bytes);
            writer.write_record(columns.iter().map(|column| &column.name))?;
            for row in rows {
                writer.write_record(&row.cells)?;
            }
            writer.flush()?;
            drop(writer);
        }
        Form::JsonLines => {
            for row in rows {
                bytes.extend(json_line(columns, row)?.into_bytes());
                bytes.push(b'\n');
            }
        }
        Form::Parquet => reports::parquet::write(&mut bytes, &table(columns, rows))?,
    }
    place.write(&bytes)
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

/// The rows by column: the point whole, measures real, everything else text.
fn table(columns: &[Column], rows: &[Row]) -> Table {
    let mut table = Table::default();
    for (index, column) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| row.cells.get(index).filter(|cell| !cell.is_empty()));
        table.push(
            &column.name,
            match (index, column.is_number) {
                (0, _) => Values::Whole(rows.iter().map(|row| Some(row.point as u64)).collect()),
                (_, true) => Values::Real(cells.map(|cell| cell?.parse().ok()).collect()),
                (_, false) => Values::Text(cells.map(Option::<&String>::cloned).collect()),
            },
        );
    }
    table
}

/// Reads rows back. An error names the place and line.
pub fn read(place: &Place) -> Result<(Vec<Column>, Vec<Row>)> {
    let (form, label) = (Form::of(place)?, place.label());
    let bytes = place.read()?;
    let (names, cells) = match form {
        Form::Csv => read_csv(&label, &bytes)?,
        Form::JsonLines => read_json_lines(&label, &bytes)?,
        Form::Parquet => reports::parquet::read(&label, &bytes)?,
    };
    let first_measure = names.iter().position(|name| name == TEXTS[1]).map_or(names.len(), |index| index + 1);
    if names.first().map(String::as_str) != Some("point") || first_measure == names.len() {
        bail!(
            "{label}: holds no rows of a sweep: expected a column `point` first, and `status` and `message`"
        );
    }
    let columns = names.into_iter().enumerate();
    let columns: Vec<Column> = columns
        .map(|(index, name)| Column { name, is_number: index == 0 || index >= first_measure })
        .collect();
    let rows = cells.into_iter().enumerate().map(|(index, cells)| {
        let point = cells.first().and_then(|cell| cell.parse().ok());
        let point = point.with_context(|| format!("{label}: row {} has no point", index + 1))?;
        Ok(Row { point, cells })
    });
    Ok((columns, rows.collect::<Result<Vec<Row>>>()?))
}

type Cells = (Vec<String>, Vec<Vec<String>>);

fn read_csv(label: &str, bytes: &[u8]) -> Result<Cells> {
    let at = || format!("{label}: cannot be read");
    let mut reader = csv::Reader::from_reader(bytes);
    let names = reader.headers().with_context(at)?.iter().map(String::from).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(record.with_context(at)?.iter().map(String::from).collect());
    }
    Ok((names, rows))
}

fn read_json_lines(label: &str, bytes: &[u8]) -> Result<Cells> {
    let text = std::str::from_utf8(bytes).with_context(|| format!("{label}: cannot be read"))?;
    let (mut names, mut rows): Cells = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let at = || format!("{label}:{}: is no row of a sweep", index + 1);
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
