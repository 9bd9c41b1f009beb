//! The query filter of `POST /channels`: MongoDB's language, as far as it is listed here, over a
//! channel's five fields.
//!
//! `$and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $all $exists $size $elemMatch $regex
//! $options`; every other name that begins with `$` is refused, at any depth.
//!
//! Invariant: a filter that was parsed means the same to MongoDB, which gets it translated, and to
//! the embedded engine, which evaluates it here. What cannot be held to that is refused.

mod evaluate;
mod order;
mod parse;
mod pattern;

use std::collections::BTreeSet;

use roundtrip_model::{Channel, ChannelId};
use serde_json::{Map, Value};

pub(crate) use pattern::Pattern;

/// The deepest nesting of a filter, its values included. MongoDB's own limit is 100.
pub const MAX_DEPTH: usize = 64;
/// The most JSON values in one filter.
pub const MAX_NODES: usize = 4096;
/// The most regular expressions in one filter.
pub const MAX_REGEXES: usize = 16;
/// The longest regular expression.
pub const MAX_REGEX_BYTES: usize = 1024;
/// The most memory that one compiled regular expression takes.
pub const MAX_REGEX_COMPILED_BYTES: usize = 256 * 1024;
/// The most memory that matching one takes; beyond it matching gets slower, not larger.
pub const MAX_REGEX_MATCHING_BYTES: usize = 1024 * 1024;
/// The greatest bound of a repetition (`a{2,1000}`) in a regular expression.
pub const MAX_REGEX_REPEAT: u32 = 1000;
/// How deep a regular expression's groups nest.
pub const MAX_REGEX_NESTING: u32 = 50;

/// A filter that was checked.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The channels that it is limited to, where it is. Not one of the nodes: nothing of any other
    /// channel may be looked at, or the time that an answer takes tells of it.
    own: Option<BTreeSet<ChannelId>>,
    nodes: Vec<Node>,
}

/// What is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FilterError {
    /// The dotted path in the filter.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl Filter {
    /// Checks a filter. `{}` matches every channel.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(filter: &Value) -> Result<Self, FilterError> {
        parse::filter(filter).map(|nodes| Self { own: None, nodes })
    }

    /// The same filter, of these channels alone. It is asked of no other: a caller who may not see a
    /// channel learns nothing of it by how long the others take.
    #[must_use]
    pub fn within<'a>(mut self, channels: impl IntoIterator<Item = &'a ChannelId>) -> Self {
        let channels = channels.into_iter();
        self.own = Some(match self.own {
            None => channels.cloned().collect(),
            Some(own) => channels
                .filter(|channel| own.contains(*channel))
                .cloned()
                .collect(),
        });
        self
    }

    /// Whether the channel matches, as MongoDB would say.
    #[must_use]
    pub fn matches(&self, channel: &Channel) -> bool {
        let id = &channel.channel_id;
        if self.own.as_ref().is_some_and(|own| !own.contains(id)) {
            return false;
        }
        match serde_json::to_value(channel) {
            Ok(Value::Object(document)) => self.matches_document(&document),
            // A channel is always an object.
            Ok(_) | Err(_) => false,
        }
    }

    /// Whether a stored document matches, which is of a channel that the filter may look at; it may
    /// lack fields that a [`Channel`] has.
    pub(crate) fn matches_document(&self, document: &Map<String, Value>) -> bool {
        evaluate::all(&self.nodes, document)
    }

    /// The channels that it is limited to, where it is. An engine reads no other.
    pub(crate) fn own(&self) -> Option<&BTreeSet<ChannelId>> {
        self.own.as_ref()
    }

    /// What must hold, all of it.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// A condition on a whole document. It mirrors the JSON: of a list of nodes all must hold, and no
/// two share a key.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    And(Vec<Vec<Node>>),
    Or(Vec<Vec<Node>>),
    Nor(Vec<Vec<Node>>),
    Field(FieldPath, Vec<Test>),
}

/// A dotted path, and its parts.
#[derive(Debug, Clone)]
pub(crate) struct FieldPath {
    pub(crate) dotted: String,
    parts: Vec<String>,
}

/// A condition on what a path leads to. It mirrors the JSON: no list of tests holds two of a kind.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Compare(Comparison, Value),
    Ne(Value),
    In(Vec<Value>),
    Nin(Vec<Value>),
    All(Vec<Value>),
    AllElements(Vec<ElemMatch>),
    Exists(bool),
    Size(u32),
    Elem(ElemMatch),
    Regex(Pattern),
    Not(Vec<Test>),
}

/// The comparisons, which hold only between values of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// What `$elemMatch` asks of an element: of itself, or of the fields in it.
#[derive(Debug, Clone)]
pub(crate) enum ElemMatch {
    Value(Vec<Test>),
    Document(Vec<Node>),
}

#[cfg(test)]
mod tests;
