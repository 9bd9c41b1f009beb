//! Each operator by MongoDB's documentation, and the filters that are refused.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// Whether a channel with this metadata matches.
fn matches(metadata: &Value, filter: &Value) -> bool {
    let channel: Channel = serde_json::from_value(json!({
        "channel_id": "slack-sim",
        "channel_name": "Slack",
        "channel_tags": ["slack", "test"],
        "channel_metadata": metadata,
    }))
    .unwrap();
    Filter::parse(filter).unwrap().matches(&channel)
}

/// Whether `{"a": value}` in the metadata matches a condition on `a`, or on a path below it.
fn holds(value: &Value, path: &str, condition: &Value) -> bool {
    matches(
        &json!({ "a": value }),
        &json!({ format!("channel_metadata.{path}"): condition }),
    )
}

#[rstest]
#[case::everything(json!({}), true)]
#[case::the_seeds(json!({"channel_tags": {"$in": ["slack"]}}), true)]
#[case::implicit(json!({"channel_id": "slack-sim"}), true)]
#[case::two_fields(json!({"channel_id": "slack-sim", "channel_name": "x"}), false)]
#[case::element(json!({"channel_tags": "test"}), true)]
#[case::whole_array(json!({"channel_tags": ["slack", "test"]}), true)]
#[case::part_of_an_array(json!({"channel_tags": ["slack"]}), false)]
#[case::other_order(json!({"channel_tags": ["test", "slack"]}), false)]
#[case::indexed(json!({"channel_tags.1": "test"}), true)]
#[case::indexed_otherwise(json!({"channel_tags.0": "test"}), false)]
#[case::beyond(json!({"channel_tags.2": null}), false)]
#[case::and(json!({"$and": [{"channel_id": "slack-sim"}, {"channel_tags": "x"}]}), false)]
#[case::or(json!({"$or": [{"channel_id": "x"}, {"channel_tags": "test"}]}), true)]
#[case::nor(json!({"$nor": [{"channel_id": "x"}, {"channel_tags": "x"}]}), true)]
#[case::nor_one(json!({"$nor": [{"channel_id": "x"}, {"channel_tags": "test"}]}), false)]
#[case::regex(json!({"channel_name": {"$regex": "^sl", "$options": "i"}}), true)]
#[case::regex_in_an_array(json!({"channel_tags": {"$regex": "^te"}}), true)]
#[case::not_regex(json!({"channel_tags": {"$not": {"$regex": "^te"}}}), false)]
fn a_filter_matches_as_documented(#[case] filter: Value, #[case] expected: bool) {
    assert_eq!(matches(&json!({}), &filter), expected);
}

#[rstest]
// Equality.
#[case::int_and_double(json!(1), "a", json!(1.0), true)]
#[case::kinds(json!("1"), "a", json!(1), false)]
#[case::document(json!({"x": 1, "y": 2}), "a", json!({"x": 1, "y": 2}), true)]
#[case::document_in_other_order(json!({"x": 1, "y": 2}), "a", json!({"y": 2, "x": 1}), false)]
#[case::document_in_part(json!({"x": 1, "y": 2}), "a", json!({"x": 1}), false)]
#[case::empty_document(json!({}), "a", json!({}), true)]
#[case::nested_array(json!([[1, 2], 3]), "a", json!([1, 2]), true)]
#[case::nested_element(json!([[1, 2], 3]), "a", json!(1), false)]
#[case::null(json!(null), "a", json!(null), true)]
#[case::null_is_missing(json!(1), "b", json!(null), true)]
#[case::null_below(json!({"b": 1}), "a.c", json!(null), true)]
#[case::null_below_a_scalar(json!(1), "a.c", json!(null), true)]
#[case::null_in_an_array(json!([1, null]), "a", json!(null), true)]
#[case::null_below_an_array(json!([{"b": 1}, {"c": 1}]), "a.b", json!(null), true)]
#[case::null_below_an_array_of_scalars(json!([1, 2]), "a.b", json!(null), false)]
#[case::null_below_an_empty_array(json!([]), "a.b", json!(null), false)]
// Comparison brackets by kind.
#[case::gt(json!(5), "a", json!({"$gt": 4.5}), true)]
#[case::gt_kind(json!("5"), "a", json!({"$gt": 4}), false)]
#[case::gte_null(json!({}), "b", json!({"$gte": null}), true)]
#[case::gt_null(json!({}), "b", json!({"$gt": null}), false)]
#[case::lt_text(json!("abc"), "a", json!({"$lt": "abd"}), true)]
#[case::lte_bool(json!(false), "a", json!({"$lte": true}), true)]
#[case::range_over_an_array(json!([1, 10]), "a", json!({"$gt": 4, "$lt": 6}), true)]
#[case::gt_document(json!({"x": 2}), "a", json!({"$gt": {"x": 1}}), true)]
#[case::gt_array(json!([1, 3]), "a", json!({"$gt": [1, 2]}), true)]
// Negation is of the whole array.
#[case::ne(json!([1, 2]), "a", json!({"$ne": 1}), false)]
#[case::ne_missing(json!(1), "b", json!({"$ne": 1}), true)]
#[case::ne_null_missing(json!(1), "b", json!({"$ne": null}), false)]
#[case::nin(json!([1, 2]), "a", json!({"$nin": [2, 3]}), false)]
#[case::nin_missing(json!(1), "b", json!({"$nin": [2, 3]}), true)]
#[case::not(json!(5), "a", json!({"$not": {"$gt": 5}}), true)]
#[case::not_missing(json!(5), "b", json!({"$not": {"$gt": 5}}), true)]
#[case::not_of_two(json!(5), "a", json!({"$not": {"$gt": 1, "$lt": 4}}), true)]
// $in.
#[case::in_null(json!(1), "b", json!({"$in": [null]}), true)]
#[case::in_array(json!([1, 2]), "a", json!({"$in": [[1, 2]]}), true)]
#[case::in_nothing(json!(1), "a", json!({"$in": []}), false)]
// $all.
#[case::all(json!(["x", "y", "z"]), "a", json!({"$all": ["z", "x"]}), true)]
#[case::all_but_one(json!(["x"]), "a", json!({"$all": ["z", "x"]}), false)]
#[case::all_of_a_scalar(json!("x"), "a", json!({"$all": ["x"]}), true)]
#[case::all_of_nothing(json!([]), "a", json!({"$all": []}), false)]
#[case::all_nested(json!([["x", "y"]]), "a", json!({"$all": [["x", "y"]]}), true)]
#[case::all_elem_match(json!([{"q": 1}, {"q": 5}]), "a", json!({"$all": [{"$elemMatch": {"q": 1}}, {"$elemMatch": {"q": {"$gt": 4}}}]}), true)]
// $exists.
#[case::exists_null(json!(null), "a", json!({"$exists": true}), true)]
#[case::exists_not(json!(1), "b", json!({"$exists": false}), true)]
#[case::exists_number(json!(1), "a", json!({"$exists": 0}), false)]
#[case::exists_in_one_element(json!([{"b": 1}, {}]), "a.b", json!({"$exists": true}), true)]
// $size.
#[case::size(json!([1, 2]), "a", json!({"$size": 2}), true)]
#[case::size_of_a_scalar(json!(1), "a", json!({"$size": 1}), false)]
#[case::size_of_an_inner_array(json!([[1, 2], 3]), "a", json!({"$size": 1}), false)]
#[case::size_by_index(json!([[1, 2], 3]), "a.0", json!({"$size": 2}), true)]
// $elemMatch.
#[case::elem_match(json!([1, 10]), "a", json!({"$elemMatch": {"$gt": 4, "$lt": 6}}), false)]
#[case::elem_match_one(json!([1, 5]), "a", json!({"$elemMatch": {"$gt": 4, "$lt": 6}}), true)]
#[case::elem_match_scalar(json!(5), "a", json!({"$elemMatch": {"$gt": 4}}), false)]
#[case::elem_match_document(json!([{"x": 1, "y": 9}, {"x": 2, "y": 8}]), "a", json!({"$elemMatch": {"x": 1, "y": 8}}), false)]
#[case::elem_match_document_one(json!([{"x": 1, "y": 8}]), "a", json!({"$elemMatch": {"x": 1, "y": {"$gt": 7}}}), true)]
#[case::elem_match_or(json!([{"x": 1}]), "a", json!({"$elemMatch": {"$or": [{"x": 2}, {"x": 1}]}}), true)]
#[case::elem_match_of_arrays(json!([[1, 5]]), "a", json!({"$elemMatch": {"$elemMatch": {"$gt": 4}}}), true)]
#[case::elem_match_by_index(json!([[1, 5]]), "a", json!({"$elemMatch": {"1": 5}}), true)]
#[case::elem_match_not_nested(json!([[5]]), "a", json!({"$elemMatch": {"$gt": 4}}), false)]
// Dotted paths through arrays.
#[case::through(json!([{"b": 1}, {"b": 2}]), "a.b", json!(2), true)]
#[case::through_and_into(json!([{"b": [1, 2]}]), "a.b", json!(2), true)]
#[case::index_then_field(json!([{"b": 1}, {"b": 2}]), "a.1.b", json!(1), false)]
#[case::index_as_a_key(json!({"0": "x"}), "a.0", json!("x"), true)]
#[case::index_leads_to_the_array(json!([[1, 2]]), "a.0", json!([1, 2]), true)]
#[case::index_does_not_lead_into_it(json!([[1, 2]]), "a.0", json!(1), false)]
#[case::two_indexes(json!([[1, 2]]), "a.0.1", json!(2), true)]
#[case::index_with_a_zero_before(json!([1, 2]), "a.01", json!(2), false)]
#[case::arrays_in_arrays_are_not_searched(json!([[{"b": 1}]]), "a.b", json!(1), false)]
#[case::but_by_index(json!([[{"b": 1}]]), "a.0.b", json!(1), true)]
// $regex.
#[case::regex_of_a_number(json!(5), "a", json!({"$regex": "5"}), false)]
#[case::regex_missing(json!(5), "b", json!({"$regex": ""}), false)]
fn a_condition_holds_as_documented(
    #[case] value: Value,
    #[case] path: &str,
    #[case] condition: Value,
    #[case] expected: bool,
) {
    assert_eq!(holds(&value, path, &condition), expected);
}

#[rstest]
#[case(json!([]), "filter")]
#[case(json!({"$where": "true"}), "$where")]
#[case(json!({"$expr": {}}), "$expr")]
#[case(json!({"$text": {"$search": "x"}}), "$text")]
#[case(json!({"$comment": "x"}), "$comment")]
#[case(json!({"name": "x"}), "name")]
#[case(json!({"_id": 1}), "_id")]
#[case(json!({"channel_name.x": 1}), "channel_name.x")]
#[case(json!({"channel_tags.x": 1}), "channel_tags.x")]
#[case(json!({"channel_metadata..x": 1}), "channel_metadata..x")]
#[case(json!({"channel_metadata.$x": 1}), "channel_metadata.$x")]
#[case(json!({"channel_id": {"$type": "string"}}), "channel_id.$type")]
#[case(json!({"channel_id": {"$where": "true"}}), "channel_id.$where")]
#[case(json!({"channel_id": {"$gt": 1, "x": 2}}), "channel_id.x")]
#[case(json!({"channel_id": {"x": 2, "$gt": 1}}), "channel_id.$gt")]
#[case(json!({"channel_metadata": {"a": {"$where": "true"}}}), "channel_metadata.a.$where")]
#[case(json!({"channel_id": {"$in": [{"a": [{"$function": {}}]}]}}), "channel_id.$in.0.a.0.$function")]
#[case(json!({"channel_id": {"$in": "x"}}), "channel_id.$in")]
#[case(json!({"channel_id": {"$options": "i"}}), "channel_id.$options")]
#[case(json!({"channel_id": {"$regex": "("}}), "channel_id.$regex")]
#[case(json!({"channel_id": {"$regex": "a", "$options": "u"}}), "channel_id.$options")]
#[case(json!({"channel_id": {"$regex": "a", "$options": 5}}), "channel_id.$options")]
#[case(json!({"": 1}), "\"\"")]
#[case(json!({"channel_metadata": {"$eq": {"": {"$x": 1}}}}), "channel_metadata.$eq.\"\".$x")]
#[case(json!({"channel_id": {"$regex": 5}}), "channel_id.$regex")]
#[case(json!({"channel_id": {"$not": "x"}}), "channel_id.$not")]
#[case(json!({"channel_id": {"$not": {}}}), "channel_id.$not")]
#[case(json!({"channel_tags": {"$size": -1}}), "channel_tags.$size")]
#[case(json!({"channel_tags": {"$size": 1.5}}), "channel_tags.$size")]
#[case(json!({"channel_tags": {"$exists": "yes"}}), "channel_tags.$exists")]
#[case(json!({"channel_tags": {"$elemMatch": 1}}), "channel_tags.$elemMatch")]
#[case(json!({"channel_tags": {"$elemMatch": {"$expr": 1}}}), "channel_tags.$elemMatch.$expr")]
#[case(json!({"channel_tags": {"$all": [{"$elemMatch": {}}, 1]}}), "channel_tags.$all.1")]
#[case(json!({"channel_tags": {"$all": [1, {"$elemMatch": {}}]}}), "channel_tags.$all.1.$elemMatch")]
#[case(json!({"$or": []}), "$or")]
#[case(json!({"$or": [{"channel_id": "x"}, 5]}), "$or.1")]
#[case(json!({"$or": [{"$and": [{"name": 1}]}]}), "$or.0.$and.0.name")]
#[case(json!({"channel_id": {"$in": vec![0; MAX_NODES]}}), "filter")]
fn an_invalid_filter_is_named_by_its_path(#[case] filter: Value, #[case] path: &str) {
    assert_eq!(Filter::parse(&filter).unwrap_err().path, path);
}

#[test]
fn a_filter_is_bounded_in_depth_and_in_expressions() {
    let mut deep = json!({"channel_id": "x"});
    for _ in 0..MAX_DEPTH {
        deep = json!({ "$and": [deep] });
    }
    assert_eq!(Filter::parse(&deep).unwrap_err().path, "filter");

    let regex = json!({"channel_id": {"$regex": "x"}});
    let many = json!({ "$or": vec![regex; MAX_REGEXES + 1] });
    let error = Filter::parse(&many).unwrap_err();
    assert_eq!(error.path, format!("$or.{MAX_REGEXES}.channel_id.$regex"));
}
