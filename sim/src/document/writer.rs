//! Values written as YAML that [`Document`](super::Document) reads back to the same values.

use serde_json::Value;

/// Sections in block style, lists and empty maps in flow style; a text is quoted where YAML would read something else.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(entries) if !entries.is_empty() => write_entries(&mut text, entries, 0),
        other => text = flow(other) + "\n",
    }
    text
}

fn write_entries(text: &mut String, entries: &serde_json::Map<String, Value>, depth: usize) {
    for (key, value) in entries {
        let pad = "  ".repeat(depth);
        let key = scalar(key);
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                *text += &format!("{pad}{key}:\n");
                write_entries(text, entries, depth + 1);
            }
            other => *text += &format!("{pad}{key}: {}\n", flow(other)),
        }
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A text that starts with a letter and holds only letters, digits and a few signs means itself, unless it is a word
/// of YAML; so does a number with a unit. Everything else is quoted as JSON does, which YAML reads.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@');
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_number_with_unit = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_alphabetic())
        && !text.contains(['e', 'E', 'x', 'o', '_']);
    let is_word =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if text.chars().all(plain) && (starts_plain || is_number_with_unit) && !is_word {
        text.to_string()
    } else {
        Value::String(text.to_string()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::to_yaml;
    use crate::document::Document;
    use serde_json::{Value, json};

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = json!({
            "model": "llama-3.1-8b", "path": "/a b/c: d.csv", "word": "no", "digits": "12", "rate": "5.53/s",
            "span": "500ms", "money": "3.5USD/h", "empty": {}, "exponent": "1e5s", "hash": "a #b", "line": "a\nb",
            "hex": "0x1f", "tilde": "~", "star": "*a", "none": null,
            "deep": { "list": [[0.0, 2], [50.5, 129]], "maps": [{"weight": 1.5, "length": {"constant": 3}}], "yes": true }
        });
        let text = to_yaml(&value);
        let back: Value = Document::parse("t", &text).unwrap().resolve().unwrap();
        assert_eq!(back, value, "{text}");
    }
}
