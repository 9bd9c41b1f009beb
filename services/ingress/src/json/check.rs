//! Checks a body's JSON: its depth, its number of values, and that every receiver can read it.
//!
//! `message` and `response_data` are relayed verbatim to unknown parsers. Strict parsers refuse
//! deep nesting, half a surrogate pair (`"\ud800"`) and numbers beyond a double (`1e400`); some
//! crash. Long and precise numbers pass.
//!
//! Invariant: the check builds no values and recurses no deeper than [`Rules::max_depth`].

use std::{borrow::Cow, cell::Cell, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// The most values in a document that is kept. A value takes many times the memory of its text:
/// 340,000 empty strings are 1 MB of a body and 24 MB of a document.
pub(crate) const MAX_VALUES: usize = 10_000;

/// `serde_json` treats an object with this first name specially: it parses the text under the name
/// and uses the result, which bypasses this check.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Rules for the JSON of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The body's own level counts.
    max_depth: usize,
    /// Whether it is parsed and kept, rather than relayed as text.
    pub(super) is_kept: bool,
}

impl Rules {
    /// For JSON that is kept: names are unique and values are few. Of two members with one name a
    /// parser may keep either.
    pub(crate) const fn kept(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: true,
        }
    }

    /// For JSON that is relayed as text: names may repeat, as the receiver sees both.
    pub(crate) const fn relayed(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: false,
        }
    }

    /// Reads any JSON and fails if it breaks a rule.
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
    /// How many values may still follow.
    left: &'a Cell<usize>,
}

impl Checked<'_> {
    /// The rules one level deeper.
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
                // serde's wording for a struct.
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

/// A text that can be read.
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

/// A member's name, borrowed if it has no escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
