//! The query filter of `POST /channels`: a subset of MongoDB's language over a channel's five
//! fields.
//!
//! The operators are `$and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $all $exists $size
//! $elemMatch $regex $options`. Every other name that begins with `$` is refused, at any depth.
//!
//! Invariant: a filter has one meaning, because both engines evaluate it here. An engine's indexes
//! only find its [`Candidates`].

mod candidates;
mod evaluate;
mod order;
mod parse;
mod pattern;
mod query_budget;

use std::collections::BTreeSet;

use regex::Regex;
use roundtrip_model::{Channel, ChannelId};
use serde_json::{Map, Value};

pub(crate) use candidates::Candidates;
use order::Set;
pub(crate) use query_budget::QueryBudget;

/// The deepest nesting of a filter, including its values. MongoDB's own limit is 100.
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 4096;
const MAX_REGEXES: usize = 16;
const MAX_REGEX_BYTES: usize = 1024;
/// The most memory for one compiled regular expression.
const MAX_REGEX_COMPILED_BYTES: usize = 256 * 1024;
/// The most memory for matching one. Beyond it matching gets slower and uses no more memory.
const MAX_REGEX_MATCHING_BYTES: usize = 1024 * 1024;
const MAX_REGEX_NESTING: u32 = 50;

#[derive(Debug, Clone)]
pub struct Filter {
    /// The channels that it is limited to, if it is. This is not one of the nodes, because no other
    /// channel may even be read: the duration would reveal that it exists.
    own: Option<BTreeSet<ChannelId>>,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FilterError {
    pub path: String,
    pub problem: String,
}

impl Filter {
    /// Parses a filter, or returns the first problem. `{}` matches every channel.
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

    #[must_use]
    pub fn matches(&self, channel: &Channel) -> bool {
        let id = &channel.channel_id;
        if self.own.as_ref().is_some_and(|own| !own.contains(id)) {
            return false;
        }
        match serde_json::to_value(channel) {
            Ok(Value::Object(document)) => {
                self.matches_document(&document, &QueryBudget::endless())
            }
            // A channel always serializes to an object.
            Ok(_) | Err(_) => false,
        }
    }

    /// Whether a candidate's stored document matches. Meaningless if the query budget is used up.
    /// The document may lack fields that a [`Channel`] has.
    pub(crate) fn matches_document(
        &self,
        document: &Map<String, Value>,
        query_budget: &QueryBudget,
    ) -> bool {
        evaluate::all(&self.nodes, document, query_budget)
    }

    pub(crate) fn matches_all(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The channels that the filter must be evaluated for. Of channels that it is not limited to,
    /// none is a candidate.
    pub(crate) fn candidates(&self) -> Candidates {
        candidates::of(self.own.as_ref(), &self.nodes)
    }
}

/// A condition on a whole document. All nodes of a list must hold.
#[derive(Debug, Clone)]
enum Node {
    Or(Vec<Vec<Node>>),
    Nor(Vec<Vec<Node>>),
    Field(Vec<String>, Vec<Test>),
}

/// A condition on the values at a path. All tests of a list must hold.
#[derive(Debug, Clone)]
enum Test {
    Compare(Comparison, Value),
    In(Set),
    All(Set),
    Exists,
    Size(u32),
    Elem(ElemMatch),
    Regex(Regex),
    Not(Vec<Test>),
}

/// The comparisons, which only hold between values of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Eq,
    Gt,
    Gte,
    Lt,
    Lte,
}

/// The condition of `$elemMatch`: on an element itself, or on its fields.
#[derive(Debug, Clone)]
enum ElemMatch {
    Value(Vec<Test>),
    Document(Vec<Node>),
}

#[cfg(test)]
mod tests;
