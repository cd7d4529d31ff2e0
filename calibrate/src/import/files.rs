//! The collection's files: as CSV, or as the Parquet files of the wheel `aiconfigurator-core`.

use super::MAX_FILE_BYTES;
use crate::measurement::csv_error;
use flate2::read::GzDecoder;
use sim::document::io_message;
use sim::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Reads a Parquet file of this label as texts: the names of its columns and the cells of each row.
pub type ParquetReader = fn(&str, &[u8]) -> Result<(Vec<String>, Vec<Vec<String>>)>;

/// The reader of programs without Parquet.
///
/// # Errors
/// Always, with `label`.
pub fn csv_only(label: &str, _: &[u8]) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    Err(Error::file(label, "is Parquet, of which this program reads only the CSV form"))
}

/// The rows of one file.
pub(super) struct Rows {
    /// The file's name.
    pub(super) label: String,
    pub(super) header: csv::StringRecord,
    /// Each with its line; in Parquet, its row counted from 1.
    pub(super) records: Vec<csv::StringRecord>,
}

/// Where the rows of `file` (`gemm__vllm-0.24.0__gemm_perf`) may lie in `dir`: one file beside the others, or in the
/// folders of the wheel, `h200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet`.
fn places(dir: &Path, system: &str, file: &str) -> Vec<PathBuf> {
    let flat = |ending: &str| dir.join(format!("{system}__{file}{ending}"));
    let mut places: Vec<PathBuf> = [".csv.gz", ".csv", ".parquet"].map(flat).to_vec();
    if let [family, software, table] = file.split("__").collect::<Vec<_>>()[..]
        && let Some((name, version)) = software.split_once('-')
    {
        let folder = PathBuf::from(system).join(family).join(name).join(version);
        let table = folder.join(format!("{table}.parquet"));
        places.push(dir.join(&table));
        places.push(dir.join("aiconfigurator_core/systems/data").join(&table));
    }
    places
}

/// Reads the rows of `file` from the first place that has it.
pub(super) fn read(dir: &Path, system: &str, file: &str, parquet: ParquetReader) -> Result<Rows> {
    let places = places(dir, system, file);
    let Some(path) = places.iter().find(|path| path.is_file()) else {
        let label = format!("{system}__{file}.csv.gz");
        let message =
            format!("no such file, nor as .csv or .parquet, nor in the folders of the wheel under {system}");
        return Err(Error::file(label, message));
    };
    let label = path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let file = std::fs::File::open(path).map_err(|error| Error::file(&label, io_message(&error)))?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let mut bytes = Vec::new();
    let read = match ending {
        "gz" => GzDecoder::new(file).take(MAX_FILE_BYTES).read_to_end(&mut bytes),
        _ => file.take(MAX_FILE_BYTES).read_to_end(&mut bytes),
    };
    read.map_err(|error| Error::file(&label, format!("cannot be unpacked: {error}")))?;
    if bytes.len() as u64 == MAX_FILE_BYTES {
        return Err(Error::file(label, format!("holds more than {MAX_FILE_BYTES} bytes unpacked")));
    }
    if ending == "parquet" {
        let (names, cells) = parquet(&label, &bytes)?;
        return Ok(Rows { label, header: names.into(), records: (1..).zip(cells).map(record).collect() });
    }
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header = reader.headers().map_err(|error| csv_error(&label, &error))?.clone();
    let records = reader.records().collect::<std::result::Result<Vec<_>, csv::Error>>();
    let records = records.map_err(|error| csv_error(&label, &error))?;
    Ok(Rows { label, header, records })
}

fn record((row, cells): (u64, Vec<String>)) -> csv::StringRecord {
    let mut record = csv::StringRecord::from(cells);
    let mut position = csv::Position::new();
    position.set_line(row);
    record.set_position(Some(position));
    record
}
