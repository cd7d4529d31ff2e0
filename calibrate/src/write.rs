//! Writing a measurement table as CSV, so that [`MeasurementTable::parse`] gives the same table back.

use crate::measurement::{COLUMNS, Measurement, MeasurementTable, Origin};
use sim::profile::{Experts, Heads, Operation};
use sim::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Columns of one row with what they hold.
type Cells = BTreeMap<&'static str, String>;

impl MeasurementTable {
    /// The table as CSV with a header, every column that any row uses and no other.
    ///
    /// # Errors
    /// When a row points at an origin that the table does not have.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let mut used = [false; COLUMNS.len()];
        for row in &self.rows {
            let cells = self.cells(row)?;
            for (used, column) in used.iter_mut().zip(COLUMNS) {
                *used |= cells.contains_key(column);
            }
        }
        let columns: Vec<&str> =
            COLUMNS.iter().zip(used).filter_map(|(column, used)| used.then_some(*column)).collect();
        let mut writer = csv::Writer::from_writer(Vec::new());
        let failed = |error: csv::Error| Error::new(format!("the table cannot be written as CSV: {error}"));
        writer.write_record(&columns).map_err(failed)?;
        for row in &self.rows {
            let cells = self.cells(row)?;
            let record = columns.iter().map(|column| cells.get(column).map_or("", String::as_str));
            writer.write_record(record).map_err(failed)?;
        }
        writer
            .into_inner()
            .map_err(|error| Error::new(format!("the table cannot be written as CSV: {error}")))
    }

    /// The sources that the rows name, each once.
    pub fn attribution(&self) -> String {
        let sources: BTreeSet<&str> = self.origins.iter().map(|origin| origin.source.as_str()).collect();
        let sources: Vec<&str> = sources.into_iter().collect();
        format!("Fitted from kernel measurements of {}", sources.join("; "))
    }

    fn cells(&self, row: &Measurement) -> Result<Cells> {
        let Some(origin) = self.origins.get(row.origin) else {
            return Err(Error::new(format!("a row has no origin {}", row.origin)));
        };
        let mut cells = Cells::new();
        cells.insert("family", row.operation.family().name().to_string());
        operation(&row.operation, &mut cells);
        cells.insert("seconds", row.seconds.to_string());
        if let Some(spread) = row.spread_seconds {
            cells.insert("spread_seconds", spread.to_string());
        }
        cells.insert("source", origin.source.clone());
        cells.insert("gpu", origin.gpu.clone());
        cells.insert("software", origin.software.clone());
        cells.insert("clocks", origin.clocks.clone());
        Ok(cells)
    }
}

/// One line of a file that grows row by row: it has every column.
///
/// # Errors
/// When a cell cannot be written as CSV.
pub(crate) fn line(
    operation_of_row: &Operation,
    origin: &Origin,
    times: (f64, f64),
    note: &str,
) -> Result<Vec<u8>> {
    let mut cells = Cells::new();
    cells.insert("family", operation_of_row.family().name().to_string());
    operation(operation_of_row, &mut cells);
    put(&mut cells, &[("seconds", &times.0), ("spread_seconds", &times.1), ("note", &note)]);
    put(&mut cells, &[("source", &origin.source), ("gpu", &origin.gpu)]);
    put(&mut cells, &[("software", &origin.software), ("clocks", &origin.clocks)]);
    record(COLUMNS.iter().map(|column| cells.get(column).map_or("", String::as_str)))
}

/// The header of such a file.
///
/// # Errors
/// Never in practice: the names are plain.
pub(crate) fn header_line() -> Result<Vec<u8>> {
    record(COLUMNS.iter().copied())
}

fn record<'a>(cells: impl Iterator<Item = &'a str>) -> Result<Vec<u8>> {
    let failed = |error: String| Error::new(format!("a row cannot be written as CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| failed(error.to_string()))?;
    writer.into_inner().map_err(|error| failed(error.to_string()))
}

fn put(cells: &mut Cells, values: &[(&'static str, &dyn ToString)]) {
    for (column, value) in values {
        cells.insert(*column, value.to_string());
    }
}

fn put_heads(cells: &mut Cells, heads: &Heads) {
    put(
        cells,
        &[
            ("heads", &heads.query),
            ("kv_heads", &heads.kv),
            ("head_dim", &heads.dim),
            ("window", &heads.window),
        ],
    );
}

fn put_experts(cells: &mut Cells, experts: &Experts) {
    put(
        cells,
        &[
            ("hidden", &experts.hidden),
            ("inter", &experts.inter),
            ("experts", &experts.count),
            ("topk", &experts.topk),
            ("tensor_ranks", &experts.tensor_ranks),
            ("expert_ranks", &experts.expert_ranks),
            ("gated", &experts.gated),
        ],
    );
}

fn operation(operation: &Operation, cells: &mut Cells) {
    match operation {
        Operation::Gemm { m, n, k, dtype } => {
            put(cells, &[("m", m), ("n", n), ("k", k), ("dtype", &dtype.name())]);
        }
        Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache } => {
            put(cells, &[("tokens", tokens), ("pairs", pairs), ("chunks", chunks)]);
            put(cells, &[("dtype", &compute.name()), ("cache", &cache.name())]);
            put_heads(cells, heads);
        }
        Operation::AttentionDecode { sequences, context, heads, cache } => {
            put(cells, &[("sequences", sequences), ("context", context), ("cache", &cache.name())]);
            put_heads(cells, heads);
        }
        Operation::MlaPrefill { tokens, pairs, chunks, heads, cache } => {
            put(cells, &[("tokens", tokens), ("pairs", pairs), ("chunks", chunks)]);
            put(cells, &[("heads", heads), ("cache", &cache.name())]);
        }
        Operation::MlaModulePrefill { tokens, pairs, chunks, heads, cache, dtype } => {
            put(cells, &[("tokens", tokens), ("pairs", pairs), ("chunks", chunks)]);
            put(cells, &[("heads", heads), ("cache", &cache.name()), ("dtype", &dtype.name())]);
        }
        Operation::MlaDecode { sequences, context, heads, cache } => {
            put(cells, &[("sequences", sequences), ("context", context), ("heads", heads)]);
            put(cells, &[("cache", &cache.name())]);
        }
        Operation::MlaModuleDecode { sequences, context, heads, cache, dtype } => {
            put(cells, &[("sequences", sequences), ("context", context), ("heads", heads)]);
            put(cells, &[("cache", &cache.name()), ("dtype", &dtype.name())]);
        }
        Operation::Moe { tokens, experts, dtype, routing, .. } => {
            put(cells, &[("tokens", tokens), ("dtype", &dtype.name()), ("routing", &routing.name())]);
            put_experts(cells, experts);
        }
        Operation::Collective { bytes, ranks, route, .. } => {
            put(cells, &[("bytes", bytes), ("ranks", ranks), ("route", &route.name())]);
        }
        Operation::ExpertExchange { tokens, hidden, topk, exchange } => {
            put(cells, &[("tokens", tokens), ("hidden", hidden), ("topk", topk)]);
            put(cells, &[("exchange", &exchange.name())]);
        }
        Operation::Elementwise { bytes } => put(cells, &[("bytes", bytes)]),
    }
}
