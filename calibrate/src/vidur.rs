//! Profiling CSVs of microsoft/vidur (MIT licence) as measurements: `mlp.csv` and `attention.csv`, one row per token count
//! or batch, times in milliseconds in columns `time_stats.<operator>.<statistic>`.

use crate::measurement::{Measurement, MeasurementTable, Origin, csv_error};
use sim::document::io_message;
use sim::profile::{Dtype, Heads, Operation};
use sim::{Error, Result};
use std::path::Path;

/// A file of more bytes than this is refused.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Adds the rows of a Vidur file to `table`: an `attention.csv` when it has the column `is_prefill`, an `mlp.csv`
/// otherwise. `gpu` is the name of the GPU, which the file does not state. Medians are taken; the standard deviation is
/// the spread. All figures are 16-bit. The embedding, the rotary embedding and the cache writes are not taken.
///
/// # Errors
/// A missing column, or a figure that cannot be read, with file and line.
pub fn import_vidur(path: &Path, gpu: &str, table: &mut MeasurementTable) -> Result<()> {
    let label = path.display().to_string();
    let fail = |error: &std::io::Error| Error::file(&label, io_message(error));
    if std::fs::metadata(path).map_err(|error| fail(&error))?.len() > MAX_FILE_BYTES {
        return Err(Error::file(label, format!("holds more than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::fs::read(path).map_err(|error| fail(&error))?;
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let header = reader.headers().map_err(|error| csv_error(&label, &error))?.clone();
    let is_attention = header.iter().any(|name| name == "is_prefill");
    let origin = table.origin(Origin {
        source: "microsoft/vidur profiling (MIT)".to_string(),
        gpu: gpu.to_string(),
        software: "Sarathi-Serve kernels under Vidur".to_string(),
        clocks: String::new(),
    });
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(&label, &error))?;
        let row = Row { label: &label, header: &header, record: &record };
        let calls = if is_attention { row.attention()? } else { row.layer()? };
        for (operation, name) in calls {
            let seconds = row.number(&format!("time_stats.{name}.median"))? * 1e-3;
            let spread_seconds = row.not_negative(&format!("time_stats.{name}.std"))? * 1e-3;
            table.rows.push(Measurement { operation, seconds, spread_seconds: Some(spread_seconds), origin });
        }
    }
    Ok(())
}

/// Calls of a row, each with the name of the operator that its time stands under.
type Calls = Vec<(Operation, &'static str)>;

struct Row<'a> {
    label: &'a str,
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn fail(&self, column: &str, message: String) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        Error::new(message).key(column).at(self.label, line, 0)
    }

    fn text(&self, column: &str) -> Result<&str> {
        let position = self.header.iter().position(|name| name == column);
        position
            .and_then(|position| self.record.get(position))
            .ok_or_else(|| self.fail(column, "the column is missing; is it a file of Vidur?".to_string()))
    }

    fn not_negative(&self, column: &str) -> Result<f64> {
        let text = self.text(column)?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => Err(self.fail(column, format!("found `{text}`, expected a finite number, 0 or more"))),
        }
    }

    fn number(&self, column: &str) -> Result<f64> {
        match self.not_negative(column)? {
            0.0 => Err(self.fail(column, "found 0, expected a positive number".to_string())),
            number => Ok(number),
        }
    }

    fn count(&self, column: &str) -> Result<u32> {
        let number = self.number(column)?;
        if number.fract() != 0.0 || number > f64::from(1 << 24) {
            return Err(self.fail(column, format!("found {number}, expected a whole number up to 2^24")));
        }
        Ok(number as u32)
    }

    fn is_true(&self, column: &str) -> Result<bool> {
        match self.text(column)? {
            "True" | "true" => Ok(true),
            "False" | "false" => Ok(false),
            other => Err(self.fail(column, format!("found `{other}`, expected True or False"))),
        }
    }

    /// `column` over the ranks that share it.
    fn shared(&self, column: &str) -> Result<u32> {
        let (count, ranks) = (self.count(column)?, self.count("num_tensor_parallel_workers")?);
        if !count.is_multiple_of(ranks) {
            return Err(self.fail(column, format!("found {count}, which {ranks} ranks cannot share")));
        }
        Ok(count / ranks)
    }

    /// The products and streaming kernels of a layer.
    fn layer(&self) -> Result<Calls> {
        let (m, width) = (self.number("num_tokens")?, self.count("n_embd")?);
        let (heads, kv) = (self.shared("n_head")?, self.kv_heads("n_head")?);
        let head_dim = width / self.count("n_head")?;
        let inter = self.shared("n_expanded_embd")?;
        let matrices = if self.is_true("use_gated_mlp")? { 2 } else { 1 };
        let product = |n: u32, k: u32| Operation::Gemm { m, n, k, dtype: Dtype::Bfloat16 };
        let stream = |elements: u32| Operation::Elementwise { bytes: 2.0 * m * f64::from(elements) };
        Ok(vec![
            (product((heads + 2 * kv) * head_dim, width), "attn_pre_proj"),
            (product(width, heads * head_dim), "attn_post_proj"),
            (product(matrices * inter, width), "mlp_up_proj"),
            (product(width, inter), "mlp_down_proj"),
            (stream(2 * width), "input_layernorm"),
            (stream((matrices + 1) * inter), "mlp_act"),
            (stream(3 * width), "add"),
        ])
    }

    /// KV heads on a rank: at least one.
    fn kv_heads(&self, query_column: &str) -> Result<u32> {
        let (kv, ranks) = (self.count("n_kv_head")?, self.count("num_tensor_parallel_workers")?);
        if kv > self.count(query_column)? {
            return Err(self.fail("n_kv_head", format!("found {kv}, more than there are query heads")));
        }
        Ok((kv / ranks).max(1))
    }

    /// One prefill chunk after its context, or a batch of decoding sequences of equal context.
    fn attention(&self) -> Result<Calls> {
        let query = self.shared("n_q_head")?;
        let dim = self.count("n_embd")? / self.count("n_q_head")?;
        let heads = Heads { query, kv: self.kv_heads("n_q_head")?, dim: dim.max(1), window: 0 };
        let (sequences, context) = (self.number("batch_size")?, self.not_negative("kv_cache_size")?);
        let cache = Dtype::Bfloat16;
        if self.is_true("is_prefill")? {
            let chunk = self.number("prefill_chunk_size")?;
            let pairs = sequences * (chunk * context + chunk * (chunk + 1.0) / 2.0);
            let tokens = sequences * chunk;
            let compute = Dtype::Bfloat16;
            let call =
                Operation::AttentionPrefill { tokens, pairs, chunks: sequences, heads, compute, cache };
            return Ok(vec![(call, "attn_prefill")]);
        }
        let context = sequences * (context + 1.0);
        Ok(vec![(Operation::AttentionDecode { sequences, context, heads, cache }, "attn_decode")])
    }
}
