//! A YAML document whose every value knows where it stands, so that each error can name file, line, column and key.
//! `serde-saphyr` parses the text; this module keeps the tree, applies `--set` overrides to it, and feeds it to the
//! ordinary serde types of the caller.

mod reader;
mod writer;

use crate::error::{Error, Result};
use reader::NodeReader;
pub(crate) use reader::hint;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::io::Read;
use std::path::Path;
pub use writer::to_yaml;

/// A file of more bytes than this is not a scenario.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// One value of a document.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
struct Key {
    name: String,
    spot: Spot,
}

/// Where a node stands: in source number `origin` of its document, at a line and column counted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spot {
    origin: usize,
    line: u64,
    column: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    value: Value,
    spot: Spot,
}

/// A parsed document with the overrides that were applied to it.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file name first, then the text of each `--set`.
    origins: Vec<String>,
    root: Node,
}

impl Document {
    /// Reads and parses a file.
    pub fn read(path: &Path) -> Result<Document> {
        let label = path.display().to_string();
        let text = read_text(path, MAX_DOCUMENT_BYTES)?;
        Document::parse(&label, &text)
    }

    /// Parses `text`; `label` stands for it in messages.
    pub fn parse(label: &str, text: &str) -> Result<Document> {
        let root = parse_node(label, text, 0)?;
        Ok(Document { origins: vec![label.to_string()], root })
    }

    /// Applies one override, `a.b=c`: the key is a dotted path, the value is YAML.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let label = format!("--set {assignment}");
        let Some((path, text)) = assignment.split_once('=') else {
            return Err(Error::file(
                label,
                "found no `=`, expected a.b=c, for example `engine.max_num_seqs=128`",
            ));
        };
        let parts: Vec<&str> = path.split('.').map(str::trim).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(Error::file(
                label,
                "found an empty key, expected a dotted path such as engine.max_num_seqs",
            ));
        }
        let origin = self.origins.len();
        let mut value = parse_node(&label, text, origin)?;
        blank_positions(&mut value, origin);
        self.origins.push(label);
        self.root.put(&parts, value);
        Ok(())
    }

    /// Turns the document into the caller's type; every error names its place and key.
    pub fn resolve<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(NodeReader::new(&self.root)).map_err(|failure| {
            let spot = failure.spot.unwrap_or(self.root.spot);
            self.error_at(spot, failure.path, failure.message)
        })
    }

    /// An error about the key at `path`, placed there, or at its nearest parent that is in the document.
    pub fn error(&self, path: &str, message: impl Into<String>) -> Error {
        let mut node = &self.root;
        for part in path.split('.') {
            match node.child(part) {
                Some(child) => node = child,
                None => break,
            }
        }
        self.error_at(node.spot, path.to_string(), message.into())
    }

    fn error_at(&self, spot: Spot, path: String, message: String) -> Error {
        Error::new(message).key(path).at(self.origins[spot.origin].clone(), spot.line, spot.column)
    }
}

/// Reads a whole text file of at most `max_bytes`.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    let label = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(|e| Error::file(&label, io_message(&e)))?;
    if metadata.is_dir() {
        return Err(Error::file(label, "is a directory, expected a file"));
    }
    if metadata.len() > max_bytes {
        return Err(Error::file(
            label,
            format!("holds {} bytes, at most {max_bytes} are read: is this the right file?", metadata.len()),
        ));
    }
    // A device has no length of its own, and some never end.
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let read = std::fs::File::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes));
    read.map_err(|e| Error::file(&label, io_message(&e)))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::file(
            label,
            format!("is longer than the {max_bytes} bytes that are read: is this the right file?"),
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Error::new("is not UTF-8 text").at(label, line as u64, 0)
    })
}

/// What to tell a user about an operating-system error.
pub fn io_message(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_string(),
        std::io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_string(),
        std::io::ErrorKind::IsADirectory => "is a directory, expected a file".to_string(),
        _ => format!("cannot be read: {error}"),
    }
}

fn parse_node(label: &str, text: &str, origin: usize) -> Result<Node> {
    let parsed: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
        // The first line of the library's text without its own position; the rest repeats the source.
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.splitn(3, ": ").nth(2).unwrap_or(first);
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
        let message = message.split("; use from_str_multiple").next().unwrap_or(message);
        Error::new(format!("not valid YAML: {message}")).at(label, line, column)
    })?;
    Ok(convert(parsed, origin))
}

/// The tree as the parser gives it.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> serde::Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_bool<E>(self, value: bool) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }
    fn visit_u64<E>(self, value: u64) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Unsigned(value)))
    }
    fn visit_i64<E>(self, value: i64) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned)))
    }
    fn visit_f64<E>(self, value: f64) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }
    fn visit_str<E>(self, value: &str) -> std::result::Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_string())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

fn convert(raw: Spanned<Raw>, origin: usize) -> Node {
    let spot = Spot { origin, line: raw.referenced.line(), column: raw.referenced.column() };
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => Value::List(items.into_iter().map(|item| convert(item, origin)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let spot = Spot { origin, line: key.referenced.line(), column: key.referenced.column() };
                    (Key { name: key.value, spot }, convert(value, origin))
                })
                .collect(),
        ),
    };
    Node { value, spot }
}

/// An override has no line of its own: its label says it all.
fn blank_positions(node: &mut Node, origin: usize) {
    let blank = Spot { origin, line: 0, column: 0 };
    node.spot = blank;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| blank_positions(item, origin)),
        Value::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
            key.spot = blank;
            blank_positions(value, origin);
        }),
        _ => {}
    }
}

impl Node {
    fn child(&self, part: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == part).map(|(_, value)| value),
            Value::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        }
    }

    /// Replaces the value at `parts`, making the maps on the way where there are none.
    fn put(&mut self, parts: &[&str], value: Node) {
        let [first, rest @ ..] = parts else {
            *self = value;
            return;
        };
        if let Value::List(items) = &mut self.value
            && let Some(item) = first.parse::<usize>().ok().and_then(|index| items.get_mut(index))
        {
            item.put(rest, value);
            return;
        }
        if !matches!(self.value, Value::Map(_)) {
            *self = Node { value: Value::Map(Vec::new()), spot: value.spot };
        }
        if let Value::Map(entries) = &mut self.value {
            match entries.iter_mut().find(|(key, _)| key.name == *first) {
                Some((_, child)) => child.put(rest, value),
                None => {
                    let spot = value.spot;
                    let mut child = Node { value: Value::Null, spot };
                    child.put(rest, value);
                    entries.push((Key { name: (*first).to_string(), spot }, child));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
