//! Deserializes the configuration.
//!
//! Invariant: a problem says what is valid and names the key and its place. It never quotes a
//! value, which may be a password in the wrong line.

use std::{fmt::Display, str::FromStr};

use roundtrip_model::{Check, WrongSetting};
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor,
        value::{MapAccessDeserializer, StrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};

use super::tree::{Node, Origin, Table, Value};

/// A longer text is not shown as a mistyped key.
const MAX_SHOWN_KEY: usize = 40;

/// The problem of a value if nothing better is known.
const UNSPECIFIED: &str = "cannot be used";

#[derive(Debug)]
pub(super) struct InvalidValue {
    /// Its key and sections, the innermost first.
    path: Vec<String>,
    origin: Option<String>,
    /// What is wrong, without the key. `None` if only the value's own parser knows: its message may
    /// quote the value.
    problem: Option<String>,
    /// For an unknown key: the known ones.
    pub(super) known: Option<&'static [&'static str]>,
}

impl InvalidValue {
    fn because(problem: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            origin: None,
            problem: Some(problem.into()),
            known: None,
        }
    }

    fn must_be(expected: &str) -> Self {
        Self::because(format!("must be {}", in_words(expected)))
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.to_string());
        self
    }

    fn under(mut self, key: impl Into<String>) -> Self {
        self.path.push(key.into());
        self
    }

    fn entry(mut self, number: usize) -> Self {
        let problem = self.problem.as_deref().unwrap_or(UNSPECIFIED);
        self.problem = Some(format!("(entry {number}) {problem}"));
        self
    }

    /// Says what is valid, unless a message is already set.
    fn or_must_be(mut self, expected: &str) -> Self {
        self.problem
            .get_or_insert_with(|| format!("must be {}", in_words(expected)));
        self
    }
}

impl std::error::Error for InvalidValue {}

/// serde asks for it; [`WrongSetting`] is what is shown.
impl Display for InvalidValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.problem.as_deref().unwrap_or(UNSPECIFIED))
    }
}

impl From<InvalidValue> for WrongSetting {
    fn from(invalid: InvalidValue) -> Self {
        let path: Vec<&str> = invalid.path.iter().rev().map(String::as_str).collect();
        let wrong = Self::new(path.join("."), invalid.to_string());
        match &invalid.origin {
            Some(origin) => wrong.at(origin),
            None => wrong,
        }
    }
}

impl Error for InvalidValue {
    fn custom<T: Display>(_words_that_may_repeat_the_value: T) -> Self {
        Self {
            problem: None,
            ..Self::because("")
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(&expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(&expected.to_string())
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::must_be(&expected.to_string())
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::because(one_of(expected))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self {
            known: Some(expected),
            ..Self::because("is an unknown key")
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::because("must be set too").under(field)
    }
}

fn one_of(variants: &[&str]) -> String {
    let variants: Vec<_> = variants.iter().map(|one| format!("\"{one}\"")).collect();
    format!("must be {}", variants.join(" or "))
}

fn in_words(expected: &str) -> String {
    let whole = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or greater".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "a string in quotes".to_owned(),
        "a duration" => "a duration such as \"250ms\" or \"1h 30m\"".to_owned(),
        "socket address" => "an address and a port such as \"127.0.0.1:8000\"".to_owned(),
        "a sequence" => "a list".to_owned(),
        other if other.starts_with("struct ") => "a section".to_owned(),
        other => other.to_owned(),
    }
}

/// A key from the file, if it looks like one; other text may stand in its place.
pub(super) fn shown(key: &str) -> &str {
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if (1..=MAX_SHOWN_KEY).contains(&key.len()) && key.bytes().all(is_key) {
        key
    } else {
        "this"
    }
}

fn expected_by<'de, V: Visitor<'de>>(visitor: &V) -> String {
    let expected: &dyn Expected = visitor;
    expected.to_string()
}

/// A value, in the form that its key needs.
enum Form {
    Text,
    Number,
    Flag,
    List,
    Section,
}

impl Node {
    fn visit<'de, V: Visitor<'de>>(
        self,
        form: &Form,
        visitor: V,
    ) -> Result<V::Value, InvalidValue> {
        let expected = expected_by(&visitor);
        let wrong = || InvalidValue::must_be(&expected);
        let origin = self.origin;
        let visited = match (form, self.value) {
            (Form::Text, Value::Variable { text, .. } | Value::Text(text)) => visitor
                .visit_string(text)
                .map_err(|invalid: InvalidValue| invalid.or_must_be(&expected)),
            (Form::Number, value) => value
                .parsed(|value| match value {
                    Value::Number(number) => Some(*number),
                    _ => None,
                })
                .and_then(|number| u64::try_from(number).ok())
                .map_or_else(|| Err(wrong()), |number| visitor.visit_u64(number)),
            (Form::Flag, value) => value
                .parsed(|value| match value {
                    Value::Flag(flag) => Some(*flag),
                    _ => None,
                })
                .map_or_else(|| Err(wrong()), |flag| visitor.visit_bool(flag)),
            (Form::List, Value::List(nodes)) => visitor.visit_seq(Entries::of(nodes)),
            (Form::List, Value::Variable { text, .. }) => {
                visitor.visit_seq(Entries::of(between_commas(&text, &origin)))
            }
            (Form::List, _) => Err(InvalidValue::because("must be a list")),
            (Form::Section, Value::Section(table)) => visitor.visit_map(Section::of(table)),
            (Form::Section, _) => Err(InvalidValue::because("must be a section")),
            (Form::Text, _) => Err(wrong()),
        };
        visited.map_err(|invalid| invalid.at(&origin))
    }
}

impl Value {
    /// What the file's value is, or what a variable's text says.
    fn parsed<T: FromStr>(&self, of_file: impl FnOnce(&Self) -> Option<T>) -> Option<T> {
        match self {
            Self::Variable { text, .. } => text.trim().parse().ok(),
            value => of_file(value),
        }
    }
}

/// The entries between the commas. Empty ones are dropped: an unset variable or a trailing comma
/// leaves them.
fn between_commas(text: &str, origin: &Origin) -> Vec<Node> {
    let entries = text.split(',').map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty());
    let nodes = entries.map(|entry| Node {
        value: Value::Variable {
            text: entry.to_owned(),
            of_file: None,
        },
        origin: origin.clone(),
    });
    nodes.collect()
}

/// Reads everything and collects all wrong values: each one found is removed, and the rest is read
/// again.
pub(super) fn read_all<T: DeserializeOwned>(mut table: Table, check: &mut Check) -> Option<T> {
    let mut removed = Vec::new();
    loop {
        let invalid = match read(table.clone()) {
            Ok(read) => return Some(read),
            Err(invalid) => invalid,
        };
        let path = invalid.path.clone();
        let goes_on = if removed.contains(&path) {
            // Missing only because its wrong value was removed: its section goes too.
            remove(&mut table, path.get(1..).unwrap_or_default())
        } else {
            check.add(invalid.into());
            remove(&mut table, &path)
        };
        if !goes_on {
            return None;
        }
        removed.push(path);
    }
}

/// Removes the value at this path, the innermost key first; `false` if there is none.
fn remove(table: &mut Table, path: &[String]) -> bool {
    let Some((key, sections)) = path.split_first() else {
        return false;
    };
    let mut table = table;
    for section in sections.iter().rev() {
        match table.get_mut(section).map(|node| &mut node.value) {
            Some(Value::Section(inner)) => table = inner,
            _ => return false,
        }
    }
    table.remove(key).is_some()
}

/// Reads everything, up to the first wrong value.
pub(super) fn read<T: DeserializeOwned>(table: Table) -> Result<T, InvalidValue> {
    T::deserialize(MapAccessDeserializer::new(Section::of(table)))
}

/// Each kind of value of serde in the form that it is written in.
macro_rules! forms {
    ($($method:ident $form:ident),+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InvalidValue> {
                self.visit(&Form::$form, visitor)
            }
        )+
    };
}

impl<'de> Deserializer<'de> for Node {
    type Error = InvalidValue;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InvalidValue> {
        let form = match self.value {
            Value::Variable { .. } | Value::Text(_) | Value::Other => Form::Text,
            Value::Number(_) => Form::Number,
            Value::Flag(_) => Form::Flag,
            Value::List(_) => Form::List,
            Value::Section(_) => Form::Section,
        };
        self.visit(&form, visitor)
    }

    forms! {
        deserialize_str Text, deserialize_string Text, deserialize_u8 Number,
        deserialize_u16 Number, deserialize_u32 Number, deserialize_u64 Number,
        deserialize_bool Flag, deserialize_seq List, deserialize_map Section
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, InvalidValue> {
        self.visit(&Form::Section, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, InvalidValue> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, InvalidValue> {
        match self.value {
            // Set but empty means not set.
            Value::Variable { text, of_file } if text.is_empty() => match of_file {
                Some(of_file) => visitor.visit_some(*of_file),
                None => visitor.visit_none(),
            },
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, InvalidValue> {
        match self.value {
            Value::Variable { text, .. } | Value::Text(text) => {
                let variant: StringDeserializer<InvalidValue> = text.into_deserializer();
                visitor.visit_enum(variant)
            }
            _ => Err(InvalidValue::because(one_of(variants))),
        }
        .map_err(|invalid| invalid.at(&self.origin))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

struct Entries {
    nodes: std::vec::IntoIter<Node>,
    number: usize,
}

impl Entries {
    fn of(nodes: Vec<Node>) -> Self {
        Self {
            nodes: nodes.into_iter(),
            number: 0,
        }
    }
}

impl<'de> SeqAccess<'de> for Entries {
    type Error = InvalidValue;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, InvalidValue> {
        let Some(node) = self.nodes.next() else {
            return Ok(None);
        };
        self.number += 1;
        let entry = seed.deserialize(node);
        entry
            .map(Some)
            .map_err(|invalid| invalid.entry(self.number))
    }
}

struct Section {
    entries: std::collections::btree_map::IntoIter<String, Node>,
    next: Option<(String, Node)>,
}

impl Section {
    fn of(table: Table) -> Self {
        Self {
            entries: table.into_iter(),
            next: None,
        }
    }
}

impl<'de> MapAccess<'de> for Section {
    type Error = InvalidValue;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, InvalidValue> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, InvalidValue> = key.as_str().into_deserializer();
        let field = seed
            .deserialize(name)
            .map_err(|invalid| invalid.at(&node.origin).under(shown(&key)))?;
        self.next = Some((key, node));
        Ok(Some(field))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, InvalidValue> {
        let Some((key, node)) = self.next.take() else {
            return Err(InvalidValue::because("was read twice"));
        };
        let origin = node.origin.clone();
        seed.deserialize(node)
            .map_err(|invalid| invalid.at(&origin).under(key))
    }
}
