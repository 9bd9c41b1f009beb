//! Documents that another client wrote.

use std::time::Duration;

use roundtrip_model::DeliverySettings;
use serde_json::{Value, json};

use super::{Harness, assert_changed, assert_not_found, channel, create, get, id, patch};
use roundtrip_store::{ChannelError, Direction, Filter, PageRequest, Sort, SortField};

/// A document as the original client writes it, field by field in its order.
fn seed() -> Value {
    json!({
        "channel_id": "slack-sim",
        "channel_name": "Slack Simulated Channel",
        "channel_description": "Sends messages to Slack (simulated)",
        "channel_tags": ["slack", "test"],
        "channel_metadata": {"endpoint_url": "http://localhost:5001/incoming"},
    })
}

async fn query(harness: &impl Harness, filter: Value) -> Vec<String> {
    let filter = Filter::parse(&filter).expect("a filter");
    let page = harness
        .store()
        .query(&filter, &PageRequest::default())
        .await
        .expect("a page");
    page.channels
        .into_iter()
        .map(|channel| channel.channel_id.to_string())
        .collect()
}

/// The original client's document can be read and found.
pub(crate) async fn a_foreign_document_is_a_channel(harness: &impl Harness) {
    harness.insert_foreign(seed()).await;
    assert_eq!(get(&**harness.store(), "slack-sim").await, channel(seed()));
    let found = query(harness, json!({"channel_tags": {"$in": ["slack"]}})).await;
    assert_eq!(found, ["slack-sim"]);
}

/// An update keeps another client's extra fields, and their order.
pub(crate) async fn a_foreign_documents_own_fields_stay(harness: &impl Harness) {
    let store = harness.store();
    let mut document = json!({"owner": {"team": "chat"}});
    let fields = document.as_object_mut().expect("an object");
    fields.extend(seed().as_object().expect("an object").clone());
    fields.insert("cost_centre".to_owned(), json!(7));
    harness.insert_foreign(document.clone()).await;

    let change = patch(json!({"channel_description": "Updated"}));
    let updated = store
        .update(&id("slack-sim"), &change, None)
        .await
        .expect("updated");
    let change = patch(json!({"channel_tags": ["new"]}));
    let version = updated.version;
    store
        .update(&id("slack-sim"), &change, Some(&version))
        .await
        .expect("updated");

    document["channel_description"] = json!("Updated");
    document["channel_tags"] = json!(["new"]);
    let stored = harness.stored("slack-sim").await;
    // Compared as text, because the order of fields counts too.
    assert_eq!(stored.to_string(), document.to_string());
}

/// Missing and null fields are empty; an update fills them.
pub(crate) async fn a_foreign_document_may_lack_all_but_its_id(harness: &impl Harness) {
    let store = harness.store();
    harness.insert_foreign(json!({"channel_id": "bare"})).await;
    harness
        .insert_foreign(json!({"channel_id": "null", "channel_name": null, "channel_tags": null}))
        .await;
    for named in ["bare", "null"] {
        let got = store.get(&id(named)).await.expect("got");
        assert_eq!(got.channel, channel(json!({ "channel_id": named })).into());
        let change = patch(json!({"channel_name": "new"}));
        let updated = store
            .update(&id(named), &change, Some(&got.version))
            .await
            .expect("updated");
        assert_eq!(
            updated.channel,
            channel(json!({"channel_id": named, "channel_name": "new"})).into()
        );
        store
            .delete(&id(named), Some(&updated.version))
            .await
            .expect("deleted");
    }
}

/// Another client's value is shown as it is, and can be corrected.
pub(crate) async fn a_field_of_an_unexpected_type_is_returned_unchanged(harness: &impl Harness) {
    let store = harness.store();
    let document = json!({
        "channel_id": "a", "channel_name": 5, "channel_description": ["x"],
        "channel_metadata": {"endpoint_url": "http://h/"}, "channel_tags": "slack",
    });
    harness.insert_foreign(document.clone()).await;
    let got = store.get(&id("a")).await.expect("got");
    assert_eq!(serde_json::to_value(&got.channel).expect("JSON"), document);
    assert_eq!(
        query(harness, json!({"channel_tags": "slack"})).await,
        ["a"]
    );

    let change = patch(json!({"channel_tags": ["slack"]}));
    let updated = store.update(&id("a"), &change, Some(&got.version)).await;
    let updated = updated.expect("updated").channel;
    assert_eq!(
        (updated.channel_tags, updated.channel_name),
        (json!(["slack"]), json!(5))
    );
}

/// Deliveries need only `endpoint_url` and the settings.
pub(crate) async fn a_field_of_another_type_does_not_stop_deliveries(harness: &impl Harness) {
    let settings = json!({"timeout": "9s", "max_in_flight": "many", "paused": true});
    let metadata = json!({"endpoint_url": "http://h/", "delivery": settings, "since": [1]});
    harness
        .insert_foreign(json!({
            "channel_id": "a", "channel_name": {}, "channel_description": 1,
            "channel_metadata": metadata, "channel_tags": {"x": null},
        }))
        .await;
    let target = harness.store().target(&id("a")).await.expect("a target");
    assert_eq!(target.endpoint.expect("an endpoint").as_str(), "http://h/");
    let expected = DeliverySettings {
        timeout: Some(Duration::from_secs(9)),
        paused: true,
        ..DeliverySettings::default()
    };
    assert_eq!(target.settings, expected);
    assert_not_found(&harness.store().target(&id("unknown")).await);
}

/// By name they come before all others, in the order of their ids, and none is missing.
pub(crate) async fn names_that_are_no_texts_sort_as_empty_ones(harness: &impl Harness) {
    let names = [
        json!("b"),
        json!(5),
        json!(null),
        json!({"a": "x"}),
        json!(["a", "c"]),
        json!(""),
        json!(true),
        json!("a"),
        json!([]),
    ];
    for (at, name) in names.into_iter().enumerate() {
        let document = json!({"channel_id": at.to_string(), "channel_name": name});
        harness.insert_foreign(document).await;
    }
    let all = Filter::parse(&json!({})).expect("a filter");
    for (direction, expected) in [
        (
            Direction::Ascending,
            ["1", "2", "3", "4", "5", "6", "8", "7", "0"],
        ),
        (
            Direction::Descending,
            ["0", "7", "8", "6", "5", "4", "3", "2", "1"],
        ),
    ] {
        let field = SortField::ChannelName;
        let mut request = PageRequest {
            limit: 2,
            sort: Sort { field, direction },
            cursor: None,
        };
        let mut found = Vec::new();
        loop {
            let page = harness.store().query(&all, &request).await.expect("a page");
            found.extend(
                page.channels
                    .into_iter()
                    .map(|found| found.channel_id.to_string()),
            );
            request.cursor = page.next;
            if request.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{direction:?}");
    }
}

/// The channel cannot be paused, because that would replace another client's value.
pub(crate) async fn metadata_that_is_no_object_gives_no_endpoint_and_is_kept(
    harness: &impl Harness,
) {
    let store = harness.store();
    for (named, metadata) in [
        ("text", json!("x")),
        ("list", json!([{"endpoint_url": "http://h/"}])),
    ] {
        let document = json!({"channel_id": named, "channel_metadata": metadata});
        harness.insert_foreign(document.clone()).await;
        let target = store.target(&id(named)).await.expect("a target");
        assert!(target.endpoint.is_err(), "{target:?}");
        let refused = store.set_paused(&id(named), None, true).await;
        assert!(
            matches!(refused, Err(ChannelError::Unstorable(_))),
            "{refused:?}"
        );
        store
            .set_paused(&id(named), None, false)
            .await
            .expect("as it was");
        assert_eq!(harness.stored(named).await, document);
    }
}

/// A document with an invalid id does not affect the others in a query.
pub(crate) async fn a_document_without_an_id_is_passed_over(harness: &impl Harness) {
    harness
        .insert_foreign(json!({"channel_id": "not an id", "channel_name": "b"}))
        .await;
    create(&**harness.store(), &channel(json!({"channel_id": "z"}))).await;
    assert_eq!(query(harness, json!({})).await, ["z"]);
}

/// A change by another client is a new version.
pub(crate) async fn a_foreign_change_counts_as_another_version(harness: &impl Harness) {
    let store = harness.store();
    let version = store.create(&channel(seed())).await.expect("created");
    store.delete(&id("slack-sim"), None).await.expect("deleted");
    let mut other = seed();
    other["channel_name"] = json!("other");
    harness.insert_foreign(other).await;
    let change = patch(json!({"channel_tags": []}));
    assert_changed(
        &store
            .update(&id("slack-sim"), &change, Some(&version))
            .await,
    );
}
