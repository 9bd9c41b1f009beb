//! The results of a query.

use serde_json::{Value, json};

use super::{Harness, channel, create, id, patch};
use roundtrip_store::{Direction, Filter, PageRequest, QueryError, Sort, SortField};

async fn found(harness: &impl Harness, filter: &Value) -> String {
    let parsed = Filter::parse(filter).expect("a filter");
    let page = harness
        .store()
        .query(&parsed, &PageRequest::default())
        .await
        .unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    page.channels
        .iter()
        .map(|channel| channel.channel_id.as_str())
        .collect()
}

/// Each operator, over four channels: `a` to `d`.
pub(crate) async fn a_query_answers_by_its_filter(harness: &impl Harness) {
    let store = &**harness.store();
    for document in [
        json!({"channel_id": "a", "channel_name": "Slack", "channel_tags": ["slack", "test"],
            "channel_metadata": {"endpoint_url": "http://h/a", "n": 1, "o": {"x": 1, "y": 2}, "l": [1, 5]}}),
        json!({"channel_id": "b", "channel_name": "Teams", "channel_tags": ["teams"],
            "channel_metadata": {"endpoint_url": "http://h/b", "n": 2.5, "o": {"y": 2, "x": 1}, "l": [[1, 5], 9]}}),
        json!({"channel_id": "c", "channel_name": "slack\n", "channel_tags": [],
            "channel_metadata": {"n": "2", "o": null, "l": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}}),
        json!({"channel_id": "d", "channel_description": "x", "channel_tags": ["test", "slack"],
            "channel_metadata": {"n": true, "l": []}}),
    ] {
        create(store, &channel(document)).await;
    }
    for (filter, expected) in [
        (json!({}), "abcd"),
        (json!({"channel_id": "b"}), "b"),
        (json!({"channel_tags": {"$in": ["slack"]}}), "ad"),
        (json!({"channel_tags": ["slack", "test"]}), "a"),
        (json!({"channel_tags.0": "test"}), "d"),
        (json!({"channel_tags": []}), "c"),
        (json!({"channel_tags": {"$nin": ["slack", "x"]}}), "bc"),
        (json!({"channel_tags": {"$ne": "slack"}}), "bc"),
        (json!({"channel_tags": {"$all": ["test", "slack"]}}), "ad"),
        (json!({"channel_tags": {"$size": 1}}), "b"),
        (json!({"channel_tags": {"$size": 0}}), "c"),
        (
            json!({"channel_tags": {"$elemMatch": {"$gt": "slack", "$lt": "test1"}}}),
            "abd",
        ),
        (json!({"channel_metadata.n": 1.0}), "a"),
        (json!({"channel_metadata.n": {"$gte": 1}}), "ab"),
        (json!({"channel_metadata.n": {"$gt": 1, "$lt": 3}}), "b"),
        (json!({"channel_metadata.n": {"$lte": "3"}}), "c"),
        (json!({"channel_metadata.n": {"$eq": true}}), "d"),
        (json!({"channel_metadata.n": {"$not": {"$gt": 1}}}), "acd"),
        (json!({"channel_metadata.o": {"x": 1, "y": 2}}), "a"),
        (json!({"channel_metadata.o.x": 1}), "ab"),
        (json!({"channel_metadata.o": null}), "cd"),
        (json!({"channel_metadata.o": {"$exists": false}}), "d"),
        (
            json!({"channel_metadata.o": {"$in": [null, {"y": 2, "x": 1}]}}),
            "bcd",
        ),
        (json!({"channel_metadata.o.z": {"$exists": true}}), ""),
        (json!({"channel_metadata.l": 5}), "a"),
        (json!({"channel_metadata.l": [1, 5]}), "ab"),
        (json!({"channel_metadata.l.0.1": 5}), "b"),
        (json!({"channel_metadata.l.x": 3}), "c"),
        (
            json!({"channel_metadata.l": {"$elemMatch": {"x": 1, "y": 4}}}),
            "",
        ),
        (
            json!({"channel_metadata.l": {"$elemMatch": {"x": 3, "y": {"$gte": 4}}}}),
            "c",
        ),
        (
            json!({"channel_metadata.l": {"$all": [{"$elemMatch": {"x": 1}}, {"$elemMatch": {"x": 3}}]}}),
            "c",
        ),
        (json!({"channel_name": {"$regex": "^sl"}}), "c"),
        (
            json!({"channel_name": {"$regex": "^SLACK", "$options": "i"}}),
            "ac",
        ),
        (json!({"channel_tags": {"$regex": "^te"}}), "abd"),
        (json!({"channel_tags": {"$not": {"$regex": "^te"}}}), "c"),
        (
            json!({"$or": [{"channel_id": "a"}, {"channel_name": "Teams"}]}),
            "ab",
        ),
        (
            json!({"$nor": [{"channel_id": "a"}, {"channel_name": "Teams"}]}),
            "cd",
        ),
        (
            json!({"$and": [{"channel_tags": "slack"}, {"channel_id": {"$gt": "a"}}]}),
            "d",
        ),
        (json!({"channel_name": {"$gt": "Slack", "$lt": "t"}}), "bc"),
        // The evaluator's regular expressions, and not MongoDB's.
        (json!({"channel_name": {"$regex": "slack$"}}), ""),
        (json!({"channel_name": {"$regex": r"^[\w&&[^T]]\w+$"}}), "a"),
        (json!({"channel_id": {"$gte": "b", "$lt": "d"}}), "bc"),
        (
            json!({"channel_tags": "test", "channel_metadata.n": 1}),
            "a",
        ),
        (
            json!({"channel_tags": {"$in": ["test", "slack", "teams"]}}),
            "abd",
        ),
    ] {
        assert_eq!(found(harness, &filter).await, expected, "{filter}");
    }
}

/// As a text, in a list, deeper in it, or as another kind of value.
pub(crate) async fn a_query_finds_names_and_tags_of_any_form(harness: &impl Harness) {
    for (id, name, tags) in [
        ("a", json!("n"), json!(["t", "s", "t"])),
        ("b", json!(["n", "m", ["o"]]), json!("t")),
        ("c", json!({"n": "n"}), json!(["s", ["t"]])),
        ("d", json!(7), json!({"t": "t"})),
        ("e", json!(""), json!(["", "\u{0}", "t\u{0}"])),
        ("f", json!(["n"]), json!(null)),
    ] {
        let document = json!({"channel_id": id, "channel_name": name, "channel_tags": tags});
        harness.insert_foreign(document).await;
    }
    for (filter, expected) in [
        (json!({"channel_tags": "t"}), "ab"),
        (json!({"channel_tags": {"$in": ["t", "s"]}}), "abc"),
        (json!({"channel_tags": {"$all": ["t", "s"]}}), "a"),
        (json!({"channel_tags": {"$all": [["t"], "s"]}}), "c"),
        (json!({"channel_tags": ["t"]}), "c"),
        (json!({"channel_tags": ""}), "e"),
        (json!({"channel_tags": "\u{0}"}), "e"),
        (json!({"channel_tags": "t\u{0}"}), "e"),
        (json!({"channel_tags": {"$in": ["t", null]}}), "abf"),
        (json!({"channel_name": "n"}), "abf"),
        (json!({"channel_name": {"$in": ["m", "", "x"]}}), "be"),
        (json!({"channel_name": {"$in": [7, "m"]}}), "bd"),
    ] {
        assert_eq!(found(harness, &filter).await, expected, "{filter}");
    }
}

/// Also right after a change.
pub(crate) async fn a_query_finds_a_channel_by_its_present_name_and_tags(harness: &impl Harness) {
    let store = &**harness.store();
    let (old, new) = (
        json!({"channel_tags": "old"}),
        json!({"channel_tags": "new"}),
    );
    let (before, after) = (json!({"channel_name": "b"}), json!({"channel_name": "a"}));
    let first = json!({"channel_id": "c", "channel_name": "b", "channel_tags": ["old", "kept"]});
    create(store, &channel(first.clone())).await;
    let change = patch(json!({"channel_name": "a", "channel_tags": ["kept", "new"]}));
    store
        .update(&id("c"), &change, None)
        .await
        .expect("updated");
    for (filter, expected) in [(&old, ""), (&new, "c"), (&before, ""), (&after, "c")] {
        assert_eq!(found(harness, filter).await, expected, "{filter}");
    }
    store.delete(&id("c"), None).await.expect("deleted");
    create(store, &channel(first)).await;
    for (filter, expected) in [(&old, "c"), (&new, ""), (&before, "c"), (&after, "")] {
        assert_eq!(found(harness, filter).await, expected, "{filter}");
    }
}

/// A condition with this many branches, which matches every channel.
fn laborious(branches: usize) -> Value {
    let branches: Vec<_> = (0..branches)
        .map(|at| json!({"channel_metadata.l": format!("no {at}")}))
        .collect();
    json!({ "$nor": branches })
}

/// Creates channels, of which those with a long name need much work of a laborious filter.
async fn create_large(harness: &impl Harness, names: &[&str]) {
    let values: Vec<_> = (0..9_900).map(Value::from).collect();
    for name in names {
        let list = if name.len() > 1 { &values[..] } else { &[] };
        let document = json!({"channel_id": name, "channel_metadata": {"l": list}});
        create(&**harness.store(), &channel(document)).await;
    }
}

/// A page ends when the query's budget is used up, even if it has fewer channels than its limit.
pub(crate) async fn a_page_ends_with_the_budget_and_the_next_goes_on(harness: &impl Harness) {
    let names = ["a", "large-1", "large-2", "z"];
    create_large(harness, &names).await;
    // For one large channel, the budget suffices.
    let filter = Filter::parse(&laborious(700)).expect("a filter");
    let mut request = PageRequest::default();
    let mut pages = Vec::new();
    loop {
        let page = harness
            .store()
            .query(&filter, &request)
            .await
            .expect("a page");
        let ids = page
            .channels
            .into_iter()
            .map(|one| one.channel_id.to_string());
        pages.push(ids.collect::<Vec<_>>());
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [["a", "large-1"], ["large-2", "z"]]);
}

/// The budget of a limited caller is its own.
pub(crate) async fn only_candidates_use_up_a_budget(harness: &impl Harness) {
    create_large(harness, &["a", "large"]).await;
    let filter = Filter::parse(&laborious(1300)).expect("a filter");
    let store = harness.store();
    let mut request = PageRequest::default();
    let page = store.query(&filter, &request).await.expect("a page");
    assert_eq!((page.channels.len(), page.next.is_some()), (1, true));
    // One channel alone uses it up.
    request.cursor = page.next;
    let refused = store.query(&filter, &request).await;
    assert!(matches!(refused, Err(QueryError::TooCostly)), "{refused:?}");
    let own = filter.within(&[id("a")]);
    let page = store
        .query(&own, &PageRequest::default())
        .await
        .expect("a page");
    assert_eq!((page.channels.len(), page.next), (1, None));
}

/// A field that another client omitted does not exist for `$exists`, and equals null. Roundtrip's
/// own channels have all five.
pub(crate) async fn a_query_tells_missing_fields_from_empty_ones(harness: &impl Harness) {
    create(&**harness.store(), &channel(json!({"channel_id": "a"}))).await;
    harness.insert_foreign(json!({"channel_id": "b"})).await;
    for (filter, expected) in [
        (json!({"channel_name": ""}), "a"),
        (json!({"channel_name": null}), "b"),
        (json!({"channel_name": {"$exists": true}}), "a"),
        (json!({"channel_tags": {"$size": 0}}), "a"),
        (json!({"channel_metadata": {}}), "a"),
        (json!({"channel_metadata.x": null}), "ab"),
    ] {
        assert_eq!(found(harness, &filter).await, expected, "{filter}");
    }
}

/// For any filter, also with channels that do not exist.
pub(crate) async fn a_query_within_channels_finds_no_others(harness: &impl Harness) {
    let store = &**harness.store();
    for id in ["a", "b", "c", "d"] {
        create(
            store,
            &channel(json!({"channel_id": id, "channel_name": id})),
        )
        .await;
    }
    let allowed = ["b", "d", "e"].map(super::id);
    for (filter, expected) in [
        (json!({}), "bd"),
        (json!({"channel_id": "a"}), ""),
        (
            json!({"$or": [{"channel_id": "a"}, {"channel_name": "d"}]}),
            "d",
        ),
        (json!({"$nor": [{"channel_id": "b"}]}), "d"),
        (json!({"$and": [{"channel_id": {"$ne": "d"}}]}), "b"),
    ] {
        let parsed = Filter::parse(&filter).expect("a filter").within(&allowed);
        let page = store.query(&parsed, &PageRequest::default()).await;
        let found: String = page
            .unwrap_or_else(|error| panic!("{filter}: {error:?}"))
            .channels
            .iter()
            .map(|channel| channel.channel_id.as_str())
            .collect();
        assert_eq!(found, expected, "{filter}");
    }
}

/// In every order, over any number of pages.
pub(crate) async fn pages_within_channels_list_each_channel_once(harness: &impl Harness) {
    let store = &**harness.store();
    // The order by name differs from the order by id.
    for (id, name) in [("a", "3"), ("b", "4"), ("c", "2"), ("d", ""), ("e", "2")] {
        let document = json!({"channel_id": id, "channel_name": name});
        create(store, &channel(document)).await;
    }
    let filter = Filter::parse(&json!({"channel_name": {"$ne": "3"}})).expect("a filter");
    let filter = filter.within(&["a", "b", "d", "e", "unknown"].map(super::id));
    for (field, direction, expected) in [
        (SortField::ChannelId, Direction::Ascending, "bde"),
        (SortField::ChannelId, Direction::Descending, "edb"),
        (SortField::ChannelName, Direction::Ascending, "deb"),
        (SortField::ChannelName, Direction::Descending, "bed"),
    ] {
        for limit in [1, 2, 3] {
            let mut seen = String::new();
            let mut request = PageRequest {
                limit,
                sort: Sort { field, direction },
                cursor: None,
            };
            loop {
                let page = store.query(&filter, &request).await.expect("a page");
                assert!(page.channels.len() <= usize::from(limit));
                seen.extend(page.channels.iter().map(|one| one.channel_id.as_str()));
                request.cursor = page.next;
                if request.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, expected, "{field:?} {direction:?} by {limit}");
        }
    }
}
