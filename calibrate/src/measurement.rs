//! The measurement table: one row per timed kernel call, as CSV with a header.

use sim::document::io_message;
use sim::profile::{Dtype, Exchange, Experts, Family, Heads, Operation, Route, Routing};
use sim::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// One timed kernel call.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The call.
    pub operation: Operation,
    /// Mean time, seconds.
    pub seconds: f64,
    /// Spread of the repetitions, seconds; absent when the source has none.
    pub spread_seconds: Option<f64>,
    /// Position in [`MeasurementTable::origins`].
    pub origin: usize,
}

/// What a group of rows has in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Origin {
    /// Where the rows come from, with version.
    pub source: String,
    /// The GPU that they were measured on.
    pub gpu: String,
    /// Engine or library, with version.
    pub software: String,
    /// Clock setting, or nothing when not recorded.
    pub clocks: String,
}

/// Measurements with their origins.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeasurementTable {
    /// The rows.
    pub rows: Vec<Measurement>,
    /// What rows point at.
    pub origins: Vec<Origin>,
}

/// Every column that a measurement file may have.
pub(crate) const COLUMNS: [&str; 34] = [
    "family",
    "dtype",
    "cache",
    "m",
    "n",
    "k",
    "tokens",
    "pairs",
    "chunks",
    "sequences",
    "context",
    "heads",
    "kv_heads",
    "head_dim",
    "window",
    "hidden",
    "inter",
    "experts",
    "topk",
    "tensor_ranks",
    "expert_ranks",
    "gated",
    "routing",
    "bytes",
    "ranks",
    "route",
    "exchange",
    "seconds",
    "spread_seconds",
    "source",
    "gpu",
    "software",
    "clocks",
    "note",
];

/// Columns that every row needs.
const ALWAYS: [&str; 6] = ["family", "seconds", "source", "gpu", "software", "clocks"];

impl MeasurementTable {
    /// The position of `origin`, which is added when it is new.
    pub fn origin(&mut self, origin: Origin) -> usize {
        if let Some(found) = self.origins.iter().position(|known| *known == origin) {
            return found;
        }
        self.origins.push(origin);
        self.origins.len() - 1
    }

    /// Reads a measurement file.
    ///
    /// # Errors
    /// One error with file and line: a missing or unknown column, a figure that is not a positive finite number, an
    /// unknown family or type, a time below the data sheet's limit is left to the fit.
    pub fn read(path: &Path) -> Result<MeasurementTable> {
        let label = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Error::file(&label, io_message(&error)))?;
        MeasurementTable::parse(&label, &bytes)
    }

    /// Parses CSV text; `label` stands for it in messages.
    pub fn parse(label: &str, text: &[u8]) -> Result<MeasurementTable> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let header = reader.headers().map_err(|error| csv_error(label, &error))?.clone();
        let mut columns = BTreeMap::new();
        for (position, name) in header.iter().enumerate() {
            if !COLUMNS.contains(&name) {
                let message = format!("unknown column `{name}`; known are {}", COLUMNS.join(", "));
                return Err(Error::new(message).at(label, 1, 0));
            }
            if columns.insert(name.to_string(), position).is_some() {
                return Err(Error::new(format!("column `{name}` appears twice")).at(label, 1, 0));
            }
        }
        if let Some(missing) = ALWAYS.iter().find(|name| !columns.contains_key(**name)) {
            let message = format!("column `{missing}` is missing; every file needs {}", ALWAYS.join(", "));
            return Err(Error::new(message).at(label, 1, 0));
        }
        let mut table = MeasurementTable::default();
        for record in reader.records() {
            let record = record.map_err(|error| csv_error(label, &error))?;
            let line = record.position().map_or(0, csv::Position::line);
            let row = Row { label, line, columns: &columns, record: &record };
            let origin = Origin {
                source: row.text("source")?.to_string(),
                gpu: row.text("gpu")?.to_string(),
                software: row.text("software")?.to_string(),
                clocks: row.optional("clocks").to_string(),
            };
            let spread = row.optional("spread_seconds");
            let spread_seconds =
                if spread.is_empty() { None } else { Some(row.not_negative("spread_seconds")?) };
            let operation = row.operation()?;
            let seconds = row.number("seconds")?;
            let origin = table.origin(origin);
            table.rows.push(Measurement { operation, seconds, spread_seconds, origin });
        }
        if table.rows.is_empty() {
            return Err(Error::file(label, "holds no rows"));
        }
        Ok(table)
    }
}

/// A CSV error with its line.
pub(crate) fn csv_error(label: &str, error: &csv::Error) -> Error {
    let line = error.position().map_or(0, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("found {len} fields, the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text".to_string(),
        _ => format!("cannot be read as CSV: {error}"),
    };
    Error::new(message).at(label, line, 0)
}

/// One row with its place.
struct Row<'a> {
    label: &'a str,
    line: u64,
    columns: &'a BTreeMap<String, usize>,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn fail(&self, column: &str, message: String) -> Error {
        Error::new(message).key(column).at(self.label, self.line, 0)
    }

    fn optional(&self, column: &str) -> &str {
        self.columns.get(column).and_then(|position| self.record.get(*position)).unwrap_or_default()
    }

    fn text(&self, column: &str) -> Result<&str> {
        if !self.columns.contains_key(column) {
            let family = self.optional("family");
            return Err(self.fail(column, format!("the column is missing; `{family}` rows need it")));
        }
        let text = self.optional(column);
        if text.is_empty() {
            return Err(self.fail(column, "is empty".to_string()));
        }
        Ok(text)
    }

    fn not_negative(&self, column: &str) -> Result<f64> {
        let text = self.text(column)?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => Err(self.fail(column, format!("found `{text}`, expected a finite number, 0 or more"))),
        }
    }

    fn number(&self, column: &str) -> Result<f64> {
        let number = self.not_negative(column)?;
        if number == 0.0 {
            return Err(self.fail(column, "found 0, expected a positive number".to_string()));
        }
        Ok(number)
    }

    fn count(&self, column: &str) -> Result<u32> {
        let text = self.text(column)?;
        match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(self.fail(column, format!("found `{text}`, expected a whole number above 0"))),
        }
    }

    fn choice<T: Copy>(&self, column: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T> {
        let text = self.text(column)?;
        all.iter().copied().find(|value| name(*value) == text).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|value| name(*value)).collect();
            self.fail(column, format!("found `{text}`, expected one of {}", names.join(", ")))
        })
    }

    fn dtype(&self, column: &str) -> Result<Dtype> {
        self.choice(column, Dtype::ALL, Dtype::name)
    }

    fn heads(&self) -> Result<Heads> {
        let window = self.optional("window");
        let window = if window.is_empty() || window == "0" { 0 } else { self.count("window")? };
        let (query, kv) = (self.count("heads")?, self.count("kv_heads")?);
        if query < kv {
            let message = format!("found {query} query heads for {kv} KV heads, expected at least as many");
            return Err(self.fail("heads", message));
        }
        Ok(Heads { query, kv, dim: self.count("head_dim")?, window })
    }

    fn experts(&self) -> Result<Experts> {
        Ok(Experts {
            hidden: self.count("hidden")?,
            inter: self.count("inter")?,
            count: self.count("experts")?,
            topk: self.count("topk")?,
            tensor_ranks: self.count("tensor_ranks")?,
            expert_ranks: self.count("expert_ranks")?,
            gated: match self.text("gated")? {
                "true" => true,
                "false" => false,
                other => return Err(self.fail("gated", format!("found `{other}`, expected true or false"))),
            },
        })
    }

    /// Sequences and their context total, at least one token each.
    fn contexts(&self) -> Result<(f64, f64)> {
        self.ordered("sequences", "context")
    }

    /// Query tokens and pairs, at least one pair each.
    fn pairs(&self) -> Result<(f64, f64)> {
        self.ordered("tokens", "pairs")
    }

    fn ordered(&self, less: &str, more: &str) -> Result<(f64, f64)> {
        let (low, high) = (self.number(less)?, self.number(more)?);
        if high < low {
            return Err(self.fail(more, format!("found {high}, expected at least {less} = {low}")));
        }
        Ok((low, high))
    }

    fn operation(&self) -> Result<Operation> {
        let family = self.choice("family", Family::ALL, Family::name)?;
        Ok(match family {
            Family::Gemm => Operation::Gemm {
                m: self.number("m")?,
                n: self.count("n")?,
                k: self.count("k")?,
                dtype: self.dtype("dtype")?,
            },
            Family::AttentionPrefill => {
                let (tokens, pairs) = self.pairs()?;
                let (compute, cache) = (self.dtype("dtype")?, self.dtype("cache")?);
                let chunks = self.number("chunks")?;
                Operation::AttentionPrefill { tokens, pairs, chunks, heads: self.heads()?, compute, cache }
            }
            Family::AttentionDecode => {
                let (sequences, context) = self.contexts()?;
                let cache = self.dtype("cache")?;
                Operation::AttentionDecode { sequences, context, heads: self.heads()?, cache }
            }
            Family::MlaPrefill | Family::MlaModulePrefill => {
                let ((tokens, pairs), chunks) = (self.pairs()?, self.number("chunks")?);
                let (heads, cache) = (self.count("heads")?, self.dtype("cache")?);
                if family == Family::MlaPrefill {
                    Operation::MlaPrefill { tokens, pairs, chunks, heads, cache }
                } else {
                    let dtype = self.dtype("dtype")?;
                    Operation::MlaModulePrefill { tokens, pairs, chunks, heads, cache, dtype }
                }
            }
            Family::MlaDecode | Family::MlaModuleDecode => {
                let (sequences, context) = self.contexts()?;
                let (heads, cache) = (self.count("heads")?, self.dtype("cache")?);
                if family == Family::MlaDecode {
                    Operation::MlaDecode { sequences, context, heads, cache }
                } else {
                    let dtype = self.dtype("dtype")?;
                    Operation::MlaModuleDecode { sequences, context, heads, cache, dtype }
                }
            }
            Family::Moe => Operation::Moe {
                tokens: self.number("tokens")?,
                experts: self.experts()?,
                dtype: self.dtype("dtype")?,
                routing: self.choice("routing", Routing::ALL, Routing::name)?,
                touched: None,
            },
            Family::AllReduce | Family::AllGather | Family::ReduceScatter | Family::AllToAll => {
                let route = self.choice("route", Route::ALL, Route::name)?;
                Operation::Collective {
                    family,
                    bytes: self.number("bytes")?,
                    ranks: self.count("ranks")?,
                    route,
                }
            }
            Family::ExpertExchange => Operation::ExpertExchange {
                tokens: self.number("tokens")?,
                hidden: self.count("hidden")?,
                topk: self.count("topk")?,
                exchange: self.choice("exchange", Exchange::ALL, Exchange::name)?,
            },
            Family::Elementwise => Operation::Elementwise { bytes: self.number("bytes")? },
        })
    }
}
