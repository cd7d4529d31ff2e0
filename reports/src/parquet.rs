//! Tables as Parquet files, through polars (feature `parquet`).

use crate::tables::{Table, Values};
use polars_core::prelude::{AnyValue, Column, DataFrame, NamedFrom, Series};
use polars_io::SerReader;
use polars_io::parquet::read::ParquetReader;
use polars_io::parquet::write::ParquetWriter;
use sim::error::{Error, Result};
use std::io::{Cursor, Write};

/// Rows of a group; fixed, so that equal tables are equal bytes.
const ROWS_PER_GROUP: usize = 1 << 18;

/// A file of more rows than this is refused: its memory would be claimed before a row is read.
const MOST_ROWS: usize = 1 << 28;

/// Nothing: this build has Parquet.
pub fn check() -> Result<()> {
    Ok(())
}

/// Writes a table as one Parquet file: zstd, row groups of 262,144 rows; equal tables give equal bytes.
///
/// # Errors
/// What the writer says.
pub fn write(writer: impl Write, table: &Table) -> Result<()> {
    let columns = table.columns.iter().map(|column| {
        let name = column.name.as_str().into();
        Column::from(match &column.values {
            Values::Whole(values) => Series::new(name, values),
            Values::Signed(values) => Series::new(name, values),
            Values::Real(values) => Series::new(name, values),
            Values::Text(values) => Series::new(name, values),
        })
    });
    let mut frame = DataFrame::new_infer_height(columns.collect()).map_err(error)?;
    let writer = ParquetWriter::new(writer).with_row_group_size(Some(ROWS_PER_GROUP));
    writer.finish(&mut frame).map_err(error)?;
    Ok(())
}

/// Reads a Parquet file as texts: the names of its columns, and the cells of each row, empty where there is nothing.
/// Numbers have as many digits as they need to be read back as they are.
///
/// # Errors
/// Bytes that are no Parquet, and columns of anything but numbers, texts and truth values, with `label`.
pub fn read(label: &str, bytes: &[u8]) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let no_parquet = |what: &dyn std::fmt::Display| {
        let what = what.to_string();
        Error::file(label, format!("is no Parquet file: {}", what.lines().next().unwrap_or_default()))
    };
    let frame = quietly(|| {
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let groups = &reader.get_metadata().map_err(|e| no_parquet(&e))?.row_groups;
        let rows = groups.iter().try_fold(0usize, |sum, group| {
            let rows = group.num_rows();
            let are_whole = group.parquet_columns().iter().all(|column| column.num_values() == rows as i64);
            are_whole.then_some(sum.saturating_add(rows))
        });
        if rows.is_none_or(|rows| rows > MOST_ROWS) {
            return Err(no_parquet(&"its columns differ in length, or it has more than 268,435,456 rows"));
        }
        reader.finish().map_err(|e| no_parquet(&e))
    });
    let frame = frame.unwrap_or_else(|| Err(no_parquet(&"it is damaged")))?;
    let mut names = Vec::with_capacity(frame.width());
    let mut rows = vec![Vec::with_capacity(frame.width()); frame.height()];
    for column in frame.columns() {
        names.push(column.name().to_string());
        for (index, row) in rows.iter_mut().enumerate() {
            let value = column.get(index).map_err(|e| no_parquet(&e))?;
            row.push(text(&value).ok_or_else(|| {
                let found = format!("found {}, expected numbers or texts", column.dtype());
                Error::file(label, format!("column {}: {found}", column.name()))
            })?);
        }
    }
    Ok((names, rows))
}

/// Runs what may panic on damaged bytes; none when it does.
fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.ok()
}

fn text(value: &AnyValue<'_>) -> Option<String> {
    Some(match value {
        AnyValue::Null => String::new(),
        AnyValue::Boolean(value) => value.to_string(),
        AnyValue::String(value) => (*value).to_string(),
        AnyValue::StringOwned(value) => value.to_string(),
        AnyValue::UInt8(value) => value.to_string(),
        AnyValue::UInt16(value) => value.to_string(),
        AnyValue::UInt32(value) => value.to_string(),
        AnyValue::UInt64(value) => value.to_string(),
        AnyValue::Int8(value) => value.to_string(),
        AnyValue::Int16(value) => value.to_string(),
        AnyValue::Int32(value) => value.to_string(),
        AnyValue::Int64(value) => value.to_string(),
        AnyValue::Float32(value) => value.to_string(),
        AnyValue::Float64(value) => value.to_string(),
        _ => return None,
    })
}

fn error(error: polars_core::prelude::PolarsError) -> Error {
    Error::new(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.push("whole", Values::Whole(vec![Some(u64::MAX), None, Some(0)]));
        table.push("signed", Values::Signed(vec![Some(i64::MIN), Some(3), None]));
        table.push("real", Values::Real(vec![Some(0.1 + 0.2), Some(1e300), None]));
        table.push("text", Values::Text(vec![Some("a,\"b\"\n".into()), None, Some("ü".into())]));
        table
    }

    fn bytes(table: &Table) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, table).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (names, rows) = read("t", &bytes(&table())).unwrap();
        assert_eq!(names, ["whole", "signed", "real", "text"]);
        assert_eq!(
            rows[0],
            ["18446744073709551615", "-9223372036854775808", "0.30000000000000004", "a,\"b\"\n"]
        );
        assert_eq!(rows[1], ["", "3", &format!("{}", 1e300), ""]);
        assert_eq!(rows[2], ["0", "", "", "ü"]);
        assert_eq!(bytes(&table()), bytes(&table()));
        let mut empty = Table::default();
        empty.push("a", Values::Whole(Vec::new()));
        assert_eq!(read("t", &bytes(&empty)).unwrap(), (vec!["a".to_string()], Vec::new()));
    }

    #[test]
    fn damaged_files_are_refused_or_read_but_never_a_panic() {
        let whole = bytes(&table());
        for bad in [&b""[..], b"PAR1", b"no parquet at all", &whole[..whole.len() - 1], &whole[4..]] {
            let message = read("t.parquet", bad).unwrap_err().to_string();
            assert!(message.starts_with("t.parquet: is no Parquet file: "), "{message}");
        }
        // The footer: schema, lengths and places of all columns. Its own length stands before the last four bytes.
        let length = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
        for index in whole.len() - 8 - length..whole.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[index] ^= change;
                let _ = read("t", &damaged);
            }
        }
    }
}
