//! What a body's JSON must be besides JSON: shallow, of few values, and readable by every receiver.
//!
//! `message` and `response_data` are relayed as they are written, so they reach parsers that the
//! gateway does not know. Strict parsers refuse deep nesting, half of a surrogate pair (`"\ud800"`)
//! and a number beyond a double (`1e400`), and some of them crash. Long and precise numbers pass.
//!
//! Invariant: the check builds nothing of the JSON, and recurses no deeper than [`Rules::max_depth`].

use std::{borrow::Cow, cell::Cell, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// The most values in a document that is parsed and kept. A value takes many times the memory of
/// its text: 340,000 empty strings are 1 MB of a body and 24 MB of a document.
pub(crate) const MAX_VALUES: usize = 10_000;

/// An object whose first name is this is no object to `serde_json`: it parses the text under the
/// name as JSON and puts that in the object's place, past this check.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// What the JSON of a body must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How deep it may nest, the body's own level included.
    max_depth: usize,
    /// Whether it is parsed and kept, rather than relayed as text.
    pub(super) is_kept: bool,
}

impl Rules {
    /// For JSON that is parsed: an object has each name once, and the values are few. Of two
    /// members of one name a parser would keep either.
    pub(crate) const fn kept(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: true,
        }
    }

    /// For JSON whose content is relayed as text: names may repeat, for the receiver sees both.
    pub(crate) const fn relayed(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: false,
        }
    }

    /// Reads any JSON, and fails where it breaks these rules.
    pub(super) fn check<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let left = Cell::new(if self.is_kept { MAX_VALUES } else { usize::MAX });
        let value = Checked {
            rules: self,
            depth: 0,
            left: &left,
        };
        value.deserialize(deserializer)
    }
}

/// A value at some depth of a body.
#[derive(Clone, Copy)]
struct Checked<'a> {
    rules: Rules,
    depth: usize,
    /// How many values may follow.
    left: &'a Cell<usize>,
}

impl Checked<'_> {
    /// What is within this array or object.
    fn within<E: Error>(mut self) -> Result<Self, E> {
        let max_depth = self.rules.max_depth;
        self.depth += 1;
        if self.depth > max_depth {
            return Err(E::custom(format_args!(
                "must not nest deeper than {max_depth} levels, the body's own included"
            )));
        }
        Ok(self)
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("must have at most {MAX_VALUES} values in all"))
        })?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let value = self.within()?;
        if !self.rules.is_kept {
            while map.next_key_seed(Text)?.is_some() {
                map.next_value_seed(value)?;
            }
            return Ok(());
        }
        let mut names = HashSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if name == RAW_VALUE {
                return Err(A::Error::custom(format_args!(
                    "cannot have the name '{name}'"
                )));
            }
            if names.contains(&name) {
                // In serde's words for a struct.
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            names.insert(name);
            map.next_value_seed(value)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let value = self.within()?;
        while seq.next_element_seed(value)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Any text, unless it cannot be read.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// A member's name, borrowed where it has no escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
