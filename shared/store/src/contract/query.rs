//! The results of a query.
#![expect(clippy::missing_panics_doc, reason = "a case fails by a panic")]

use serde_json::{Value, json};

use super::{Harness, channel, create};
use crate::{Direction, Filter, PageRequest, Sort, SortField};

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
pub async fn a_query_answers_by_its_filter(harness: &impl Harness) {
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
            json!({"channel_name": {"$regex": "^SLACK$", "$options": "i"}}),
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
    ] {
        assert_eq!(found(harness, &filter).await, expected, "{filter}");
    }
}

/// A field that another client omitted does not exist for `$exists`, and equals null. Roundtrip's
/// own channels have all five.
pub async fn a_query_tells_missing_fields_from_empty_ones(harness: &impl Harness) {
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
pub async fn a_query_within_channels_finds_no_others(harness: &impl Harness) {
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
pub async fn pages_within_channels_list_each_channel_once(harness: &impl Harness) {
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
