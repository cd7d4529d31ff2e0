//! `servesim tokens` as its users run it.

use crate::command::servesim;

#[cfg(not(feature = "tokens"))]
#[test]
fn a_build_without_vocabularies_says_so() {
    let run = servesim("tokens text.txt --tokenizer o200k");
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("--features tokens"), "{}", run.stderr);
}

#[cfg(feature = "tokens")]
mod with_vocabularies {
    use super::servesim;
    use serde_json::Value;

    /// The first sentence of the Universal Declaration of Human Rights, article 1.
    const ENGLISH: &str = "All human beings are born free and equal in dignity and rights.";

    #[test]
    fn tokens_by_file_and_language_with_kv_and_cost() {
        let folder = tempfile::tempdir().unwrap();
        let (en, other) = (folder.path().join("en.txt"), folder.path().join("text.txt"));
        std::fs::write(&en, ENGLISH).unwrap();
        std::fs::write(&other, format!("{ENGLISH} {ENGLISH}")).unwrap();
        let run = servesim(&format!(
            "tokens {} de={} --model llama-3.1-8b --usd-per-million-tokens 2 --format json",
            en.display(),
            other.display()
        ));
        assert_eq!(run.code, 0, "{}", run.stderr);
        let rows: Value = serde_json::from_str(&run.stdout).unwrap();
        // Two files, then the sums of two languages.
        assert_eq!(rows.as_array().unwrap().len(), 4);
        assert_eq!((rows[0]["tokens"].as_u64(), rows[1]["tokens"].as_u64()), (Some(13), Some(26)));
        assert_eq!(rows[0]["kv_bytes"], 13 * 131_072);
        assert_eq!(rows[3]["language"], "de");
        assert_eq!(rows[3]["over_english"], 2.0);
        assert!((rows[1]["usd"].as_f64().unwrap() - 52e-6).abs() < 1e-12);
    }

    #[test]
    fn bad_input_is_one_clear_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.txt");
        std::fs::write(&path, b"ab\xff").unwrap();
        let path = path.display();
        let cases = [
            (format!("{path}"), "is not UTF-8 from byte 2"),
            (format!("{path}.missing"), "cannot be read"),
            (format!("en={path}.missing"), "cannot be read"),
            ("Cargo.toml --tokenizer gpt5".to_string(), "expected one of cl100k, o200k"),
            ("Cargo.toml --tokenizer Cargo.json".to_string(), "Cargo.json"),
            ("Cargo.toml --model llama-9".to_string(), "unknown model `llama-9`"),
            ("Cargo.toml --usd-per-million-tokens NaN".to_string(), "expected 0 or more"),
        ];
        for (arguments, part) in cases {
            let run = servesim(&format!("tokens {arguments}"));
            assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments}");
            assert!(run.stderr.contains(part), "{arguments}: {}", run.stderr);
        }
    }
}
