//! serde's view of the document's tree: a `Deserializer` whose failures know their place and key.

use super::{Key, Node, Spot, Value};
use crate::digits::decimal;
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use std::cmp::Reverse;
use std::fmt;

type Read<T> = Result<T, Failure>;

/// A failure on the way into the caller's types.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) spot: Option<Spot>,
    pub(super) path: String,
    pub(super) message: String,
}

impl Failure {
    /// Gives a failure that has no place yet the place of this node.
    fn placed(mut self, spot: Spot, path: &str) -> Failure {
        if self.spot.is_none() {
            self.spot = Some(spot);
            self.path = match (path.is_empty(), self.path.is_empty()) {
                (_, true) => path.to_string(),
                (true, false) => self.path,
                (false, false) => format!("{path}.{}", self.path),
            };
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// serde's names of expected types, in a user's words.
fn plain_expectation(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_string(),
        "i32" | "i64" => "a whole number".to_string(),
        "f32" | "f64" => "a number".to_string(),
        "a boolean" => "true or false".to_string(),
        "a string" => "a text".to_string(),
        "newtype variant" | "struct variant" | "tuple variant" => {
            "a value with it, as in `{ name: value }`".to_string()
        }
        other => match other.strip_prefix("struct ") {
            Some(_) => "a section of keys".to_string(),
            None => other.to_string(),
        },
    }
}

/// The largest value of a whole-number type that serde names so.
fn largest(expected: &str) -> Option<u64> {
    match expected {
        "u8" => Some(u64::from(u8::MAX)),
        "u16" => Some(u64::from(u16::MAX)),
        "u32" => Some(u64::from(u32::MAX)),
        "u64" | "usize" => Some(u64::MAX),
        "i32" => Some(i32::MAX as u64),
        "i64" => Some(i64::MAX as u64),
        _ => None,
    }
}

fn plain_finding(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {}", decimal(*number)),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unit => "nothing".to_string(),
        Unexpected::UnitVariant => "the name alone".to_string(),
        Unexpected::Seq => "a list".to_string(),
        Unexpected::Map => "a section of keys".to_string(),
        other => other.to_string(),
    }
}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Failure { spot: None, path: String::new(), message: message.to_string() }
    }
    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let expected = match (&found, largest(&expected)) {
            (Unexpected::Unsigned(number), Some(most)) if *number > most => {
                format!("a whole number, 0 to {most}")
            }
            (Unexpected::Float(number), Some(most)) if number.fract() == 0.0 && *number >= 0.0 => {
                format!("a whole number without a point or exponent, 0 to {most}")
            }
            _ => plain_expectation(&expected),
        };
        Failure::custom(format!("found {}, expected {expected}", plain_finding(&found)))
    }
    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Failure::invalid_type(found, expected)
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Failure::custom(format!(
            "found `{variant}`, expected one of {}{}",
            expected.join(", "),
            hint(variant, expected)
        ))
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = if expected.is_empty() { "none".to_string() } else { expected.join(", ") };
        Failure::custom(format!("unknown key{}; known here: {known}", hint(field, expected)))
    }
    fn missing_field(field: &'static str) -> Self {
        Failure { spot: None, path: field.to_string(), message: "is missing and has no default".to_string() }
    }
}

/// `, did you mean ...?` when one of the known words is close.
pub(crate) fn hint(word: &str, known: &[&str]) -> String {
    // A name without its version, the newest of which comes last.
    if let Some(name) = known.iter().rev().find(|k| k.split_once('@').is_some_and(|(name, _)| name == word)) {
        return format!(" (did you mean `{name}`?)");
    }
    // Among equally close ones the one that starts and ends alike for longest.
    let alike = |name: &str| {
        let start = word.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        start + word.chars().rev().zip(name.chars().rev()).take_while(|(a, b)| a == b).count()
    };
    let best = known.iter().map(|k| (edit_distance(word, k), Reverse(alike(k)), *k)).min();
    match best {
        Some((distance, _, name)) if distance <= 1 + name.len() / 4 => format!(" (did you mean `{name}`?)"),
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// serde's view of a node.
pub(super) struct NodeReader<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> NodeReader<'a> {
    pub(super) fn new(root: &'a Node) -> Self {
        NodeReader { node: root, path: String::new() }
    }

    fn placed<T>(&self, result: Read<T>) -> Read<T> {
        result.map_err(|failure| failure.placed(self.node.spot, &self.path))
    }

    /// Digits grouped with underscores (`100_000`) are a text to YAML 1.2 and a number to people.
    fn grouped_number(&self) -> Option<u64> {
        match &self.node.value {
            Value::Text(text)
                if text.contains('_') && text.bytes().all(|b| b == b'_' || b.is_ascii_digit()) =>
            {
                text.replace('_', "").parse().ok()
            }
            _ => None,
        }
    }

    fn number<V: Visitor<'a>>(self, visitor: V) -> Read<V::Value> {
        match self.grouped_number() {
            Some(number) => {
                let result = visitor.visit_u64(number);
                self.placed(result)
            }
            None => de::Deserializer::deserialize_any(self, visitor),
        }
    }
}

macro_rules! as_number {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            self.number(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for NodeReader<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let node: &'de Node = self.node;
        let result = match &node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(ListReader { items, next: 0, path: self.path.clone() }),
            Value::Map(entries) => visitor.visit_map(MapReader { entries, next: 0, path: self.path.clone() }),
        };
        self.placed(result)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        // A section left empty means "all defaults".
        match self.node.value {
            Value::Null => {
                let result = visitor.visit_map(MapReader { entries: &[], next: 0, path: self.path.clone() });
                self.placed(result)
            }
            Value::List(_) => {
                let found = de::Error::invalid_type(Unexpected::Seq, &"struct ");
                self.placed(Err(found))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        let known = variants.join(", ");
        let node: &'de Node = self.node;
        let result = match &node.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Map(entries) => match entries.as_slice() {
                [(key, content)] => {
                    visitor.visit_enum(VariantReader { key, content, path: self.path.clone() })
                }
                _ => Err(de::Error::custom(format!(
                    "found {} keys, expected exactly one of {known}",
                    entries.len()
                ))),
            },
            other => {
                let found = match other {
                    Value::Null => "nothing".to_string(),
                    Value::List(_) => "a list".to_string(),
                    Value::Bool(value) => format!("`{value}`"),
                    Value::Unsigned(value) => format!("the number {value}"),
                    Value::Signed(value) => format!("the number {value}"),
                    Value::Float(value) => format!("the number {}", decimal(*value)),
                    Value::Text(_) | Value::Map(_) => String::new(),
                };
                Err(de::Error::custom(format!("found {found}, expected one of {known}")))
            }
        };
        self.placed(result)
    }

    as_number!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16
        deserialize_i32 deserialize_i64 deserialize_f32 deserialize_f64);

    serde::forward_to_deserialize_any! {
        bool i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
        ignored_any
    }
}

fn join(path: &str, part: impl fmt::Display) -> String {
    if path.is_empty() { part.to_string() } else { format!("{path}.{part}") }
}

struct ListReader<'a> {
    items: &'a [Node],
    next: usize,
    path: String,
}

impl<'a> SeqAccess<'a> for ListReader<'a> {
    type Error = Failure;
    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = join(&self.path, self.next);
        self.next += 1;
        seed.deserialize(NodeReader { node, path }).map(Some)
    }
}

struct MapReader<'a> {
    entries: &'a [(Key, Node)],
    next: usize,
    path: String,
}

impl<'a> MapAccess<'a> for MapReader<'a> {
    type Error = Failure;
    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        let deserializer: de::value::StrDeserializer<'_, Failure> = key.name.as_str().into_deserializer();
        seed.deserialize(deserializer).map(Some).map_err(|e| e.placed(key.spot, &join(&self.path, &key.name)))
    }
    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Read<V::Value> {
        let (key, node) = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(NodeReader { node, path: join(&self.path, &key.name) })
    }
}

struct VariantReader<'a> {
    key: &'a Key,
    content: &'a Node,
    path: String,
}

impl<'a> VariantReader<'a> {
    fn content(&self) -> NodeReader<'a> {
        NodeReader { node: self.content, path: join(&self.path, &self.key.name) }
    }
}

impl<'a> EnumAccess<'a> for VariantReader<'a> {
    type Error = Failure;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Read<(V::Value, Self)> {
        let deserializer: de::value::StrDeserializer<'_, Failure> =
            self.key.name.as_str().into_deserializer();
        let variant = seed.deserialize(deserializer).map_err(|e| e.placed(self.key.spot, &self.path))?;
        Ok((variant, self))
    }
}

impl<'a> VariantAccess<'a> for VariantReader<'a> {
    type Error = Failure;
    fn unit_variant(self) -> Read<()> {
        match self.content.value {
            Value::Null => Ok(()),
            _ => Err(Failure::placed(
                de::Error::custom(format!("`{}` takes no value", self.key.name)),
                self.content.spot,
                &self.path,
            )),
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Read<T::Value> {
        seed.deserialize(self.content())
    }
    fn tuple_variant<V: Visitor<'a>>(self, _len: usize, visitor: V) -> Read<V::Value> {
        de::Deserializer::deserialize_any(self.content(), visitor)
    }
    fn struct_variant<V: Visitor<'a>>(self, fields: &'static [&'static str], visitor: V) -> Read<V::Value> {
        de::Deserializer::deserialize_struct(self.content(), "", fields, visitor)
    }
}
