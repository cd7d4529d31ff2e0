//! `servesim tokens`: how many tokens texts are, and what that does to the KV cache and to the cost.

use crate::output::{self, Format};
use ::tokens::{Count, Text, Tokenizer, counts, language_of};
use anyhow::{Context, Result, anyhow, bail};
use comfy_table::{CellAlignment, Table, TableStyle};
use reports::numbers::grouped;
use serde::Serialize;
use sim::catalogue;
use sim::model::KvDtype;
use std::process::ExitCode;

/// Files of more bytes are refused: they would be read whole.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Arguments of `tokens`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Text files in UTF-8; the language is in the name (fr.txt, page.fr.txt) or before it (fr=page.txt)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Vocabularies (cl100k, o200k, voyage3, qwen2, mistral-v3, llama3) or paths of tokenizer.json files
    #[arg(long, value_delimiter = ',', default_value = "o200k", value_name = "NAME")]
    tokenizer: Vec<String>,
    /// What the tokens take in the KV cache of this model, at 16 bits
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// What a million tokens cost
    #[arg(long, value_name = "USD")]
    usd_per_million_tokens: Option<f64>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    count: Count,
    /// KV bytes of the tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_bytes: Option<u64>,
    /// What they cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    usd: Option<f64>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let price = arguments.usd_per_million_tokens;
    if price.is_some_and(|usd| !(usd.is_finite() && usd >= 0.0)) {
        bail!("--usd-per-million-tokens: found {}, expected 0 or more", price.unwrap_or(0.0));
    }
    let kv_bytes_per_token = match &arguments.model {
        None => None,
        Some(name) => {
            let model = catalogue::find_model(name)?;
            Some(model.kv_bytes_per_token(KvDtype::Auto, 1, model.all_layers())?)
        }
    };
    let texts = arguments.files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for name in &arguments.tokenizer {
        let tokenizer = Tokenizer::open(name).map_err(|e| anyhow!("--tokenizer: {e}"))?;
        for count in counts(name, &tokenizer, &texts).map_err(|e| anyhow!("{e}"))? {
            let kv_bytes = kv_bytes_per_token.map(|bytes| bytes.saturating_mul(count.tokens));
            let usd = price.map(|usd| usd * count.tokens as f64 / 1e6);
            rows.push(Row { count, kv_bytes, usd });
        }
    }
    match arguments.format {
        Format::Json => output::print_json(&rows)?,
        Format::Text => output::print(&table(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(argument: &str) -> Result<Text> {
    let (language, file) = match argument.split_once('=') {
        Some((language, file)) => (language.to_string(), file),
        None => (language_of(argument), argument),
    };
    let size = std::fs::metadata(file).with_context(|| format!("{file}: cannot be read"))?.len();
    if size > MAX_FILE_BYTES {
        bail!("{file}: found {size} bytes, expected at most {MAX_FILE_BYTES}; split it");
    }
    let bytes = std::fs::read(file).with_context(|| format!("{file}: cannot be read"))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| anyhow!("{file}: is not UTF-8 from byte {}", e.utf8_error().valid_up_to()))?;
    Ok(Text { file: file.to_string(), language, text })
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header([
        "tokenizer",
        "file",
        "language",
        "characters",
        "bytes",
        "tokens",
        "bytes/token",
        "over English",
        "KV MiB",
        "USD",
    ]);
    for row in rows {
        let count = &row.count;
        let decimal = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_string(), |value| format!("{value:.digits$}"))
        };
        let file = if count.file.is_empty() { "(all)" } else { &count.file };
        table.add_row([
            count.tokenizer.clone(),
            file.to_string(),
            if count.language.is_empty() { "-".to_string() } else { count.language.clone() },
            grouped(count.characters),
            grouped(count.bytes),
            grouped(count.tokens),
            decimal(count.bytes_per_token, 2),
            decimal(count.over_english, 2),
            decimal(row.kv_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), 1),
            decimal(row.usd, 6),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 1));
        if index > 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}
