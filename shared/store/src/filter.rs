//! The query filter of `POST /channels`: a subset of MongoDB's language over a channel's five
//! fields.
//!
//! The operators are `$and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $all $exists $size
//! $elemMatch $regex $options`. Every other name that begins with `$` is refused, at any depth.
//!
//! Invariant: a parsed filter has the same meaning in both engines. MongoDB gets it translated; the
//! embedded engine evaluates it here. A filter that could differ is refused.

mod evaluate;
mod order;
mod parse;
mod pattern;
mod query_budget;

use std::collections::BTreeSet;

use roundtrip_model::{Channel, ChannelId};
use serde_json::{Map, Value};

use crate::StoreError;

pub(crate) use order::Set;
pub(crate) use pattern::Pattern;
pub use query_budget::MAX_STEPS;
pub(crate) use query_budget::QueryBudget;

/// The deepest nesting of a filter, including its values. MongoDB's own limit is 100.
pub const MAX_DEPTH: usize = 64;
/// The most JSON values in one filter.
pub const MAX_NODES: usize = 4096;
/// The most regular expressions in one filter.
pub const MAX_REGEXES: usize = 16;
/// The longest regular expression.
pub const MAX_REGEX_BYTES: usize = 1024;
/// The most memory for one compiled regular expression.
pub const MAX_REGEX_COMPILED_BYTES: usize = 256 * 1024;
/// The most memory for matching one. Beyond it matching gets slower and uses no more memory.
pub const MAX_REGEX_MATCHING_BYTES: usize = 1024 * 1024;
/// The highest count in a repetition (`a{2,1000}`) of a regular expression.
pub const MAX_REGEX_REPEAT: u32 = 1000;
/// The deepest nesting of a regular expression's groups.
pub const MAX_REGEX_NESTING: u32 = 50;

/// A valid filter.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The channels that it is limited to, if it is. This is not one of the nodes, because no other
    /// channel may even be read: the duration would reveal that it exists.
    own: Option<BTreeSet<ChannelId>>,
    nodes: Vec<Node>,
}

/// A problem in a filter, and its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FilterError {
    /// The dotted path in the filter.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl Filter {
    /// Parses a filter. `{}` matches every channel.
    ///
    /// # Errors
    ///
    /// The first problem.
    pub fn parse(filter: &Value) -> Result<Self, FilterError> {
        parse::filter(filter).map(|nodes| Self { own: None, nodes })
    }

    /// Limits the filter to these channels. It is evaluated for no other, so that the duration
    /// reveals nothing about channels that the caller may not see.
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

    /// Whether the channel matches, by MongoDB's rules.
    #[must_use]
    pub fn matches(&self, channel: &Channel) -> bool {
        let id = &channel.channel_id;
        if self.own.as_ref().is_some_and(|own| !own.contains(id)) {
            return false;
        }
        match serde_json::to_value(channel) {
            Ok(Value::Object(document)) => {
                matches!(
                    self.matches_document(&document, &QueryBudget::endless()),
                    Ok(true)
                )
            }
            // A channel always serializes to an object.
            Ok(_) | Err(_) => false,
        }
    }

    /// Whether a stored document matches. The filter's limit must include its channel. The document
    /// may lack fields that a [`Channel`] has.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooCostly`] if the query budget is used up.
    pub(crate) fn matches_document(
        &self,
        document: &Map<String, Value>,
        query_budget: &QueryBudget,
    ) -> Result<bool, StoreError> {
        let matches = evaluate::all(&self.nodes, document, query_budget);
        query_budget.over().map(|()| matches)
    }

    /// The channels that it is limited to, if it is. An engine reads no others.
    pub(crate) fn own(&self) -> Option<&BTreeSet<ChannelId>> {
        self.own.as_ref()
    }

    /// The conditions, which must all hold.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// A condition on a whole document. It mirrors the JSON: all nodes of a list must hold, and no two
/// have the same key.
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

/// A condition on the values at a path. It mirrors the JSON: a list of tests has at most one of
/// each kind.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Compare(Comparison, Value),
    Ne(Value),
    In(Set),
    Nin(Set),
    All(Set),
    AllElements(Vec<ElemMatch>),
    Exists(bool),
    Size(u32),
    Elem(ElemMatch),
    Regex(Pattern),
    Not(Vec<Test>),
}

/// The comparisons, which only hold between values of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// The condition of `$elemMatch`: on an element itself, or on its fields.
#[derive(Debug, Clone)]
pub(crate) enum ElemMatch {
    Value(Vec<Test>),
    Document(Vec<Node>),
}

#[cfg(test)]
mod tests;
