//! Reading JSON with messages that name the file and the key.

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use sim::document::io_message;
use sim::{Error, Result};
use std::io::Read;
use std::path::Path;

/// A file of more bytes than this, unpacked, is no measurement.
const MOST_BYTES: u64 = 1 << 30;

/// The text of a file, unpacked where its name ends in `.gz`.
pub fn read_text(path: &Path) -> Result<String> {
    let label = path.display().to_string();
    let refuse = |e: std::io::Error| Error::file(&label, io_message(&e));
    let file = std::fs::File::open(path).map_err(refuse)?;
    let mut text = String::new();
    let read = match path.extension().is_some_and(|ending| ending == "gz") {
        true => GzDecoder::new(file).take(MOST_BYTES).read_to_string(&mut text),
        false => file.take(MOST_BYTES).read_to_string(&mut text),
    };
    match read {
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::file(&label, "ends in the middle of its packed data: copy it again"))
        }
        Err(e) => Err(refuse(e)),
    }
}

/// An object with the place that messages name.
#[derive(Clone)]
pub struct Object {
    label: String,
    path: String,
    map: Map<String, Value>,
}

impl Object {
    /// The whole of a file.
    pub fn parse(label: &str, text: &str) -> Result<Object> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| crate::from_bench::json_error(label, &e, e.line() as u64))?;
        Object::of(label, String::new(), &value)
    }

    /// The same of its keys.
    pub fn whole(label: &str, map: Map<String, Value>) -> Object {
        Object { label: label.to_string(), path: String::new(), map }
    }

    fn of(label: &str, path: String, value: &Value) -> Result<Object> {
        match value {
            Value::Object(map) => Ok(Object { label: label.to_string(), path, map: map.clone() }),
            other => Err(wrong(label, &path, other, "an object of keys")),
        }
    }

    /// The file.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// An error about one of its keys.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::file(&self.label, message).key(self.key(key))
    }

    /// An error about the whole.
    pub fn refuse(&self, message: impl Into<String>) -> Error {
        let error = Error::file(&self.label, message);
        if self.path.is_empty() { error } else { error.key(&self.path) }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// The keys.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// A value that may be missing; `null` is the same.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A value that may not.
    pub fn need(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| {
            let keys: Vec<&str> = self.map.keys().take(6).map(String::as_str).collect();
            self.error(key, format!("is missing; found {}", keys.join(", ")))
        })
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let value = self.need(key)?;
        read(value).ok_or_else(|| wrong(&self.label, &self.key(key), value, expected))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<String> {
        self.typed(key, "a text", |value| value.as_str().map(String::from))
    }

    /// A name that files and tables can carry.
    pub fn name(&self, key: &str) -> Result<String> {
        let is_plain = |sign: char| sign.is_ascii_alphanumeric() || "._+-".contains(sign);
        self.typed(key, "a name of letters, digits and . _ + -, a letter or digit first", |value| {
            let name = value.as_str()?;
            let is_name =
                name.starts_with(|sign: char| sign.is_ascii_alphanumeric()) && name.chars().all(is_plain);
            is_name.then(|| name.to_string())
        })
    }

    /// A whole number from 1 on.
    pub fn count(&self, key: &str) -> Result<u32> {
        self.typed(key, "a whole number, 1 or more", |value| {
            value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
        })
    }

    /// Yes or no.
    pub fn flag(&self, key: &str) -> Result<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Seconds as us; a little before the start is a time too.
    pub fn seconds(&self, key: &str) -> Result<i64> {
        self.typed(key, "seconds", micros)
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<&Vec<Value>> {
        let value = self.need(key)?;
        value.as_array().ok_or_else(|| wrong(&self.label, &self.key(key), value, "a list"))
    }

    /// A list of whole numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<i64>> {
        self.typed(key, "a list of whole numbers", |value| {
            value.as_array()?.iter().map(Value::as_i64).collect()
        })
    }

    /// A list of times in seconds, as us.
    pub fn times(&self, key: &str) -> Result<Vec<i64>> {
        self.typed(key, "a list of seconds", |value| value.as_array()?.iter().map(micros).collect())
    }

    /// An object inside.
    pub fn object(&self, key: &str) -> Result<Object> {
        Object::of(&self.label, self.key(key), self.need(key)?)
    }

    /// The objects of a list inside.
    pub fn objects(&self, key: &str) -> Result<Vec<Object>> {
        let of = |(index, value): (usize, &Value)| {
            Object::of(&self.label, format!("{}.{index}", self.key(key)), value)
        };
        self.list(key)?.iter().enumerate().map(of).collect()
    }
}

/// Seconds as whole us; none of what is no time.
fn micros(value: &Value) -> Option<i64> {
    let seconds = value.as_f64().filter(|seconds| seconds.abs() < 1e9)?;
    Some((seconds * 1e6).round() as i64)
}

fn wrong(label: &str, key: &str, found: &Value, expected: &str) -> Error {
    let found: String = found.to_string().chars().take(60).collect();
    Error::file(label, format!("found {found}, expected {expected}")).key(key)
}
