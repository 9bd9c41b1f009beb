//! A filter in MongoDB's form.
//!
//! Invariant: it is built from the parsed filter and never copied from the client's text, so that
//! nothing unchecked reaches the server.

use bson::{Bson, Document, doc};
use roundtrip_model::ChannelId;
use serde_json::Value;

use super::value::to_bson;
use crate::{
    Filter,
    filter::{Comparison, ElemMatch, Node, Test},
};

/// The filter for MongoDB, without the channels that it is limited to.
pub(super) fn filter(filter: &Filter) -> Document {
    all(filter.nodes())
}

/// The condition for the channels that the filter is limited to, if it is. It is separate because
/// it must be evaluated first.
pub(super) fn own(filter: &Filter) -> Option<Document> {
    let ids: Vec<&str> = filter.own()?.iter().map(ChannelId::as_str).collect();
    Some(doc! { "channel_id": { "$in": ids } })
}

fn all(nodes: &[Node]) -> Document {
    let mut document = Document::new();
    for node in nodes {
        match node {
            Node::And(branches) => document.insert("$and", each(branches)),
            Node::Or(branches) => document.insert("$or", each(branches)),
            Node::Nor(branches) => document.insert("$nor", each(branches)),
            Node::Field(path, conditions) => document.insert(&path.dotted, tests(conditions)),
        };
    }
    document
}

fn each(branches: &[Vec<Node>]) -> Vec<Document> {
    branches.iter().map(|nodes| all(nodes)).collect()
}

/// No two tests of a list have the same operator, because they come from one JSON object.
fn tests(conditions: &[Test]) -> Document {
    let mut document = Document::new();
    for condition in conditions {
        let (operator, operand) = match condition {
            Test::Compare(comparison, value) => (operator(*comparison), to_bson(value)),
            Test::Ne(value) => ("$ne", to_bson(value)),
            Test::In(values) => ("$in", list(values.values())),
            Test::Nin(values) => ("$nin", list(values.values())),
            Test::All(values) => ("$all", list(values.values())),
            Test::AllElements(wanted) => {
                let wanted = wanted
                    .iter()
                    .map(|wanted| doc! { "$elemMatch": elem_match(wanted) });
                ("$all", Bson::Array(wanted.map(Bson::Document).collect()))
            }
            Test::Exists(wanted) => ("$exists", Bson::Boolean(*wanted)),
            Test::Size(size) => ("$size", Bson::Int64(i64::from(*size))),
            Test::Elem(wanted) => ("$elemMatch", Bson::Document(elem_match(wanted))),
            Test::Regex(pattern) => {
                document.insert("$options", pattern.options.as_str());
                ("$regex", Bson::String(pattern.source.clone()))
            }
            Test::Not(conditions) => ("$not", Bson::Document(tests(conditions))),
        };
        document.insert(operator, operand);
    }
    document
}

fn operator(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Eq => "$eq",
        Comparison::Gt => "$gt",
        Comparison::Gte => "$gte",
        Comparison::Lt => "$lt",
        Comparison::Lte => "$lte",
    }
}

fn list(values: &[Value]) -> Bson {
    Bson::Array(values.iter().map(to_bson).collect())
}

fn elem_match(wanted: &ElemMatch) -> Document {
    match wanted {
        ElemMatch::Value(conditions) => tests(conditions),
        ElemMatch::Document(nodes) => all(nodes),
    }
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_is_rebuilt_from_what_was_read() {
        let json = json!({
            "channel_tags": {"$all": [{"$elemMatch": {"$gt": "a"}}]},
            "channel_name": {"$not": {"$regex": "a b", "$options": "xi"}},
            "$or": [{"channel_metadata.n": 5_000_000_000_i64}, {"$and": [{"channel_id": null}, {}]}],
        });
        assert_eq!(
            filter(&Filter::parse(&json).unwrap()),
            doc! {
                "channel_tags": {"$all": [{"$elemMatch": {"$gt": "a"}}]},
                "channel_name": {"$not": {"$options": "i", "$regex": "ab"}},
                "$or": [
                    {"channel_metadata.n": {"$eq": 5_000_000_000_i64}},
                    {"$and": [{"channel_id": {"$eq": null}}, {}]},
                ],
            }
        );
    }
}
