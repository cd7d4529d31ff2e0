//! How often drafts hold, as a scenario states it or as somebody measured it.

use crate::error::{Error, Result};
use crate::speculation::Acceptance;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often drafts hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptanceSection {
    /// Each position with this chance when the one before it held.
    Rate(f64),
    /// For each position the chance that it and all before it hold, as the engine's metrics give it.
    ByPosition(Vec<f64>),
    /// Mean tokens per verification, the model's own included.
    MeanLength(f64),
    /// A published measurement.
    Profile(String),
}

/// What was measured of a drafter.
enum Measured {
    ByPosition(&'static [f64]),
    MeanLength { tokens: f64, drafts: u32 },
}

/// Published acceptance, by name: figures and source.
const MEASURED: [(&str, Measured, &str); 6] = [
    (
        "eagle3-minicpm3",
        Measured::ByPosition(&[0.58, 0.34, 0.22, 0.15, 0.11]),
        "MiniCPM3 with EAGLE-3, 200 samples, vllm-project/vllm pull request 24243",
    ),
    (
        "ngram-eagle-edit",
        Measured::ByPosition(&[0.77, 0.45, 0.24]),
        "n-gram and EAGLE together on edits, vllm-project/vllm pull request 24344",
    ),
    (
        "ngram-edit",
        Measured::ByPosition(&[0.442, 0.404, 0.382, 0.371, 0.361]),
        "n-gram of 2 to 5 on edits, vllm-project/vllm pull request 24344: .81 .74 .70 .68 .66 where something was found, \
         times the 55 % of steps where it was",
    ),
    (
        "eagle3-llama-3.1-8b-mt-bench",
        Measured::MeanLength { tokens: 3.53, drafts: 7 },
        "Llama-3.1-8B with EAGLE-3 on MT-bench, greedy, vllm-project/vllm issue 26191; only the mean is published",
    ),
    (
        "eagle-llama-3-8b-mt-bench-2",
        Measured::MeanLength { tokens: 1.89, drafts: 2 },
        "Llama-3-8B with EAGLE on MT-bench, vllm-project/vllm pull request 16035; only the mean is published",
    ),
    (
        "eagle-llama-3-8b-mt-bench-4",
        Measured::MeanLength { tokens: 2.08, drafts: 4 },
        "Llama-3-8B with EAGLE on MT-bench, vllm-project/vllm pull request 16035; only the mean is published",
    ),
];

impl AcceptanceSection {
    /// Its key below `acceptance`.
    pub(super) fn key(&self) -> &'static str {
        match self {
            AcceptanceSection::Rate(_) => "rate",
            AcceptanceSection::ByPosition(_) => "by_position",
            AcceptanceSection::MeanLength(_) => "mean_length",
            AcceptanceSection::Profile(_) => "profile",
        }
    }
}

/// The chances for so many drafts, and where they are from.
pub(super) fn resolve(section: &AcceptanceSection, drafts: u32) -> Result<(Acceptance, String)> {
    let given = |what: String| format!("given: {what}");
    match section {
        AcceptanceSection::Rate(rate) => {
            let acceptance = Acceptance::geometric(*rate, drafts)?;
            Ok((acceptance, given(format!("each position holds with {rate} after the one before"))))
        }
        AcceptanceSection::ByPosition(chances) => {
            if chances.len() != drafts as usize {
                let message = format!(
                    "found {} positions, expected {drafts}, one for each of num_speculative_tokens",
                    chances.len()
                );
                return Err(Error::new(message));
            }
            Ok((Acceptance::by_position(chances)?, given("by position".into())))
        }
        AcceptanceSection::MeanLength(tokens) => {
            let acceptance = Acceptance::mean_length(*tokens, drafts)?;
            Ok((acceptance, given(format!("{tokens} tokens per verification on average"))))
        }
        AcceptanceSection::Profile(name) => measured(name, drafts),
    }
}

fn measured(name: &str, drafts: u32) -> Result<(Acceptance, String)> {
    let Some((_, figures, source)) = MEASURED.iter().find(|row| row.0 == name) else {
        let names: Vec<&str> = MEASURED.iter().map(|row| row.0).collect();
        let hint = crate::document::hint(name, &names);
        return Err(Error::new(format!(
            "found no measured acceptance `{name}`{hint}; there are {}",
            names.join(", ")
        )));
    };
    let known = match figures {
        Measured::ByPosition(chances) => chances.len() as u32,
        Measured::MeanLength { drafts, .. } => *drafts,
    };
    let acceptance = match figures {
        Measured::ByPosition(chances) => {
            Acceptance::by_position(chances).ok().and_then(|all| all.first(drafts))
        }
        // A mean says something of the number of drafts that it was measured with alone.
        Measured::MeanLength { tokens, .. } if drafts == known => {
            Acceptance::mean_length(*tokens, drafts).ok()
        }
        Measured::MeanLength { .. } => None,
    };
    let expected = match figures {
        Measured::ByPosition(_) => format!("at most {known}"),
        Measured::MeanLength { .. } => format!("{known}"),
    };
    let acceptance = acceptance.ok_or_else(|| {
        Error::new(format!("found {drafts} drafts, but `{name}` was measured with {known}; use {expected}"))
    })?;
    Ok((acceptance, format!("imported: {source}")))
}
