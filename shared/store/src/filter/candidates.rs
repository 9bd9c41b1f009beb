//! What an index finds of a filter.
//!
//! Invariant: the candidates include every channel that matches. The evaluator alone decides which
//! of them do.

use std::{collections::BTreeSet, ops::Bound};

use roundtrip_model::ChannelId;
use serde_json::Value;

use super::{Comparison, Node, Test};

/// The most texts that an index looks up. With more, every channel is evaluated.
const MAX_TEXTS: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Candidates {
    Ids(BTreeSet<String>),
    /// Those whose field is one of these texts, or an array with one of them. There is at least one
    /// text.
    Texts(&'static str, BTreeSet<String>),
    Range(Bound<String>, Bound<String>),
}

/// The fields whose texts both engines have in an index.
const INDEXED: [&str; 2] = ["channel_name", "channel_tags"];

pub(super) fn of(own: Option<&BTreeSet<ChannelId>>, nodes: &[Node]) -> Candidates {
    let mut ids: Option<BTreeSet<String>> =
        own.map(|own| own.iter().map(ToString::to_string).collect());
    let mut texts: Option<(&'static str, BTreeSet<String>)> = None;
    let (mut from, mut to) = (Bound::Unbounded, Bound::Unbounded);
    for (field, test) in tests(nodes) {
        if let Some(field) = INDEXED.into_iter().find(|indexed| *indexed == field) {
            let most = texts.as_ref().map_or(MAX_TEXTS, |(_, texts)| texts.len());
            if let Some(found) = texts_of(test).filter(|found| found.len() <= most) {
                texts = Some((field, found));
            }
        } else if field == "channel_id" {
            if let Some(found) = texts_of(test) {
                ids = Some(match ids {
                    None => found,
                    Some(ids) => ids.intersection(&found).cloned().collect(),
                });
            }
            if let Test::Compare(comparison, Value::String(id)) = test {
                match comparison {
                    Comparison::Eq => {}
                    Comparison::Gt => from = Bound::Excluded(id.clone()),
                    Comparison::Gte => from = Bound::Included(id.clone()),
                    Comparison::Lt => to = Bound::Excluded(id.clone()),
                    Comparison::Lte => to = Bound::Included(id.clone()),
                }
            }
        }
    }
    match (ids, texts) {
        (Some(ids), _) => Candidates::Ids(ids),
        (None, Some((_, texts))) if texts.is_empty() => Candidates::Ids(texts),
        (None, Some((field, texts))) => Candidates::Texts(field, texts),
        (None, None) => Candidates::Range(from, to),
    }
}

fn tests(nodes: &[Node]) -> impl Iterator<Item = (&str, &Test)> {
    nodes.iter().flat_map(|node| {
        let (field, tests) = match node {
            Node::Field(path, tests) if path.len() == 1 => (path[0].as_str(), &tests[..]),
            Node::Field(..) | Node::Or(_) | Node::Nor(_) => ("", &[][..]),
        };
        tests.iter().map(move |test| (field, test))
    })
}

/// The texts of which a value must have one for the test to hold. `None` if it can hold without.
fn texts_of(test: &Test) -> Option<BTreeSet<String>> {
    // SQLite's JSON functions end a text at a NUL.
    let indexed = |text: &&str| !text.contains('\0');
    let text = |value: &Value| value.as_str().filter(indexed).map(str::to_owned);
    match test {
        Test::Compare(Comparison::Eq, value) => Some(BTreeSet::from([text(value)?])),
        Test::In(values) => values.values().iter().map(text).collect(),
        Test::All(values) => Some(BTreeSet::from([values.values().iter().find_map(text)?])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::Filter;

    fn ids<const N: usize>(ids: [&str; N]) -> Candidates {
        Candidates::Ids(ids.map(str::to_owned).into())
    }

    fn texts<const N: usize>(field: &'static str, texts: [&str; N]) -> Candidates {
        Candidates::Texts(field, texts.map(str::to_owned).into())
    }

    fn all() -> Candidates {
        Candidates::Range(Bound::Unbounded, Bound::Unbounded)
    }

    #[rstest]
    #[case(json!({}), all())]
    #[case(json!({"channel_id": "a"}), ids(["a"]))]
    #[case(json!({"channel_id": {"$in": ["a", "b"]}, "channel_tags": "t"}), ids(["a", "b"]))]
    #[case(json!({"$and": [{"channel_id": "a"}, {"channel_id": {"$in": ["b"]}}]}), ids([]))]
    #[case(json!({"channel_name": "n"}), texts("channel_name", ["n"]))]
    #[case(json!({"channel_tags": {"$in": ["s", "t"]}}), texts("channel_tags", ["s", "t"]))]
    #[case(json!({"channel_tags": {"$all": [["x"], "s", "t"]}}), texts("channel_tags", ["s"]))]
    #[case(json!({"channel_tags": {"$in": []}}), ids([]))]
    #[case(json!({"channel_tags": {"$in": ["s", "t"]}, "$and": [{"channel_name": "n"}]}),
        texts("channel_name", ["n"]))]
    #[case(json!({"channel_id": {"$gt": "a", "$lte": "b"}}),
        Candidates::Range(Bound::Excluded("a".to_owned()), Bound::Included("b".to_owned())))]
    // A match needs none of the texts.
    #[case(json!({"channel_tags": {"$in": ["s", null]}}), all())]
    #[case(json!({"channel_tags": {"$ne": "s"}}), all())]
    #[case(json!({"channel_tags": {"$not": {"$eq": "s"}}}), all())]
    #[case(json!({"channel_tags": ["s"]}), all())]
    #[case(json!({"channel_tags.0": "s"}), all())]
    #[case(json!({"channel_tags": "s\u{0}"}), all())]
    #[case(json!({"channel_description": "s"}), all())]
    #[case(json!({"$or": [{"channel_tags": "s"}, {"channel_name": "n"}]}), all())]
    #[case(json!({"$nor": [{"channel_id": "a"}]}), all())]
    fn candidates_include_every_match(#[case] filter: Value, #[case] expected: Candidates) {
        let filter = Filter::parse(&filter).unwrap();
        assert_eq!(filter.candidates(), expected);
    }

    #[test]
    fn a_limited_filter_has_no_other_candidates() {
        let own = ["a", "b"].map(|id| id.parse().unwrap());
        for (filter, expected) in [
            (json!({"channel_tags": "t"}), ids(["a", "b"])),
            (json!({"channel_id": {"$in": ["b", "c"]}}), ids(["b"])),
        ] {
            let filter = Filter::parse(&filter).unwrap().within(&own);
            assert_eq!(filter.candidates(), expected);
        }
    }

    #[test]
    fn a_long_list_of_texts_is_evaluated_channel_by_channel() {
        let texts: Vec<_> = (0..=MAX_TEXTS).map(|at| at.to_string()).collect();
        let filter = Filter::parse(&json!({"channel_tags": {"$in": texts}})).unwrap();
        assert_eq!(filter.candidates(), all());
    }
}
