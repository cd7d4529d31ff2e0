//! Counts tokens of texts: with vocabularies that crates embed, or with a `tokenizer.json` of the Hugging Face format.
#![forbid(unsafe_code)]

use serde::Serialize;
use std::path::Path;

/// The vocabularies that are embedded, each with where it is from and its licence.
#[cfg(not(feature = "llama3"))]
pub const VOCABULARIES: &[(&str, &str)] = &[CL100K, O200K, VOYAGE3, QWEN2, MISTRAL_V3];
/// The vocabularies that are embedded, each with where it is from and its licence.
#[cfg(feature = "llama3")]
pub const VOCABULARIES: &[(&str, &str)] = &[CL100K, O200K, VOYAGE3, QWEN2, MISTRAL_V3, LLAMA3];

const CL100K: (&str, &str) = ("cl100k", "OpenAI, from the crate bpe-openai (MIT)");
const O200K: (&str, &str) = ("o200k", "OpenAI, from the crate bpe-openai (MIT)");
const VOYAGE3: (&str, &str) = ("voyage3", "Voyage AI, from the crate bpe-openai (MIT)");
const QWEN2: (&str, &str) = ("qwen2", "Qwen 2 to 3 (Apache-2.0), from the crate tiktoken");
const MISTRAL_V3: (&str, &str) = ("mistral-v3", "Mistral Tekken (Apache-2.0), from the crate tiktoken");
#[cfg(feature = "llama3")]
const LLAMA3: (&str, &str) =
    ("llama3", "Llama 3 (Llama 3 Community License), from the crate tiktoken; Built with Meta Llama 3");

/// A tokenizer that counts.
pub enum Tokenizer {
    /// One of the crate bpe-openai.
    OpenAi(&'static bpe_openai::Tokenizer),
    /// One of the crate tiktoken.
    Tiktoken(&'static tiktoken::CoreBpe),
    /// One from a file.
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// A vocabulary of [`VOCABULARIES`], or the path of a `tokenizer.json`. The error says what was found and what is
    /// allowed.
    pub fn open(name: &str) -> Result<Tokenizer, String> {
        let tiktoken = |encoding: &str| {
            let found = tiktoken::get_encoding(encoding).map(Tokenizer::Tiktoken);
            found.ok_or_else(|| format!("the vocabulary `{name}` is not in this build"))
        };
        match name {
            "cl100k" => Ok(Tokenizer::OpenAi(bpe_openai::cl100k_base())),
            "o200k" => Ok(Tokenizer::OpenAi(bpe_openai::o200k_base())),
            "voyage3" => Ok(Tokenizer::OpenAi(bpe_openai::voyage3_base())),
            "qwen2" => tiktoken("qwen2"),
            "mistral-v3" => tiktoken("mistral_v3"),
            "llama3" if cfg!(feature = "llama3") => tiktoken("llama3"),
            _ if name.ends_with(".json") => {
                let read = tokenizers::Tokenizer::from_file(Path::new(name));
                read.map(|found| Tokenizer::HuggingFace(Box::new(found))).map_err(|e| format!("{name}: {e}"))
            }
            _ => {
                let names: Vec<&str> = VOCABULARIES.iter().map(|(name, _)| *name).collect();
                let more = if name == "llama3" { " (llama3 needs the feature tokens-llama3)" } else { "" };
                Err(format!(
                    "found the tokenizer `{name}`, expected one of {} or the path of a tokenizer.json{more}",
                    names.join(", ")
                ))
            }
        }
    }

    /// Tokens of `text`, without special tokens. An error when a tokenizer from a file fails on the text.
    pub fn count(&self, text: &str) -> Result<u64, String> {
        match self {
            Tokenizer::OpenAi(tokenizer) => Ok(tokenizer.count(text) as u64),
            Tokenizer::Tiktoken(tokenizer) => Ok(tokenizer.count(text) as u64),
            Tokenizer::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|e| e.to_string())?;
                Ok(encoding.len() as u64)
            }
        }
    }
}

/// What one text, or all texts of a language, come to under one vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    /// The vocabulary.
    pub tokenizer: String,
    /// The file; empty for the sum of a language.
    pub file: String,
    /// The language; empty when it is not known.
    pub language: String,
    /// Characters (Unicode scalar values).
    pub characters: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Tokens, special ones aside.
    pub tokens: u64,
    /// Bytes per token; none of an empty text.
    pub bytes_per_token: Option<f64>,
    /// Tokens over those of all English texts; none without any. It compares languages where the texts are parallel.
    pub over_english: Option<f64>,
}

/// A text with its file and language.
pub struct Text {
    /// Where it is from.
    pub file: String,
    /// Its language; empty when it is not known.
    pub language: String,
    /// The text.
    pub text: String,
}

/// The language that a file's name says: `fr` of `fr.txt` and of `declaration.fr.txt`; empty otherwise.
pub fn language_of(file: &str) -> String {
    let stem = Path::new(file).file_stem().and_then(std::ffi::OsStr::to_str).unwrap_or("");
    let last = stem.rsplit('.').next().unwrap_or("");
    let is_code = (2..=3).contains(&last.len()) && last.bytes().all(|byte| byte.is_ascii_lowercase());
    if is_code { last.to_string() } else { String::new() }
}

/// Counts every text, and the sum of every language with more than one.
pub fn counts(name: &str, tokenizer: &Tokenizer, texts: &[Text]) -> Result<Vec<Count>, String> {
    let mut counts = Vec::new();
    for text in texts {
        let tokens = tokenizer.count(&text.text).map_err(|e| format!("{}: {e}", text.file))?;
        let characters = text.text.chars().count() as u64;
        counts.push(count(name, &text.file, &text.language, [characters, text.text.len() as u64, tokens]));
    }
    let mut languages: Vec<&str> = Vec::new();
    for text in texts.iter().filter(|text| !text.language.is_empty()) {
        if !languages.contains(&text.language.as_str()) {
            languages.push(&text.language);
        }
    }
    let mut sums = Vec::new();
    for language in languages {
        let of: Vec<&Count> = counts.iter().filter(|count| count.language == language).collect();
        let sum = |field: fn(&Count) -> u64| of.iter().map(|count| field(count)).sum::<u64>();
        sums.push(count(name, "", language, [sum(|c| c.characters), sum(|c| c.bytes), sum(|c| c.tokens)]));
    }
    let english =
        sums.iter().find(|sum| ["en", "eng"].contains(&sum.language.as_str())).map(|sum| sum.tokens);
    if let Some(english) = english.filter(|tokens| *tokens > 0) {
        for sum in &mut sums {
            sum.over_english = Some(sum.tokens as f64 / english as f64);
        }
    }
    counts.extend(sums);
    Ok(counts)
}

fn count(tokenizer: &str, file: &str, language: &str, [characters, bytes, tokens]: [u64; 3]) -> Count {
    Count {
        tokenizer: tokenizer.to_string(),
        file: file.to_string(),
        language: language.to_string(),
        characters,
        bytes,
        tokens,
        bytes_per_token: (tokens > 0).then(|| bytes as f64 / tokens as f64),
        over_english: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first sentence of the Universal Declaration of Human Rights, article 1.
    const ENGLISH: &str = "All human beings are born free and equal in dignity and rights.";
    const FRENCH: &str = "Tous les êtres humains naissent libres et égaux en dignité et en droits.";

    fn text(language: &str, text: &str) -> Text {
        Text { file: format!("{language}.txt"), language: language.to_string(), text: text.to_string() }
    }

    #[test]
    fn known_counts() {
        // One token for each word and one for the full stop.
        for name in ["cl100k", "o200k", "qwen2", "mistral-v3"] {
            assert_eq!(Tokenizer::open(name).unwrap().count(ENGLISH).unwrap(), 13, "{name}");
        }
        assert_eq!(Tokenizer::open("o200k").unwrap().count("").unwrap(), 0);
    }

    #[test]
    fn languages_are_summed_and_compared_with_english() {
        let tokenizer = Tokenizer::open("o200k").unwrap();
        let texts = [text("en", ENGLISH), text("fr", FRENCH), text("fr", FRENCH)];
        let counts = counts("o200k", &tokenizer, &texts).unwrap();
        assert_eq!(counts.len(), 3 + 2);
        let french = &counts[4];
        assert_eq!((french.language.as_str(), french.tokens), ("fr", 2 * counts[1].tokens));
        assert_eq!(french.bytes, 2 * FRENCH.len() as u64);
        assert_eq!(french.over_english, Some(french.tokens as f64 / 13.0));
        assert_eq!(counts[3].over_english, Some(1.0));
    }

    #[test]
    fn names_say_the_language() {
        let cases =
            [("fr.txt", "fr"), ("a/udhr.vie.txt", "vie"), ("notes.txt", ""), ("README.md", ""), ("x", "")];
        for (file, language) in cases {
            assert_eq!(language_of(file), language, "{file}");
        }
    }

    #[test]
    fn an_unknown_tokenizer_says_what_is_allowed() {
        let error = |name: &str| Tokenizer::open(name).err().unwrap();
        assert!(error("gpt5").contains("expected one of cl100k, o200k"));
        assert!(error("missing/tokenizer.json").contains("missing/tokenizer.json"));
    }

    /// A vocabulary in a file: words only.
    #[test]
    fn a_tokenizer_from_a_file_counts() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"[UNK]":0,"born":1,"free":2},"unk_token":"[UNK]"}}"#;
        let tokenizer = Tokenizer::HuggingFace(Box::new(json.parse().unwrap()));
        assert_eq!(tokenizer.count("born free and").unwrap(), 3);
    }
}
