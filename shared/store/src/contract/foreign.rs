//! Documents that another client wrote.
#![expect(clippy::missing_panics_doc, reason = "a case fails by a panic")]

use serde_json::{Value, json};

use super::{Harness, assert_changed, channel, create, get, id, patch};
use crate::{Filter, PageRequest, StoreError};

/// The document of the seed's step 2, field by field in its order.
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

/// The seed's own document is got and found.
pub async fn a_foreign_document_is_a_channel(harness: &impl Harness) {
    harness.insert_foreign(seed()).await;
    assert_eq!(get(&**harness.store(), "slack-sim").await, channel(seed()));
    let found = query(harness, json!({"channel_tags": {"$in": ["slack"]}})).await;
    assert_eq!(found, ["slack-sim"]);
}

/// What another client keeps beside the five fields stays through an update, in its place.
pub async fn a_foreign_documents_own_fields_stay(harness: &impl Harness) {
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
    // As text: the order of the fields counts too.
    assert_eq!(stored.to_string(), document.to_string());
}

/// Missing fields, and null ones, are empty; an update fills them.
pub async fn a_foreign_document_may_lack_all_but_its_id(harness: &impl Harness) {
    let store = harness.store();
    harness.insert_foreign(json!({"channel_id": "bare"})).await;
    harness
        .insert_foreign(json!({"channel_id": "null", "channel_name": null, "channel_tags": null}))
        .await;
    for named in ["bare", "null"] {
        let got = store.get(&id(named)).await.expect("got");
        assert_eq!(got.channel, channel(json!({ "channel_id": named })));
        let change = patch(json!({"channel_name": "new"}));
        let updated = store
            .update(&id(named), &change, Some(&got.version))
            .await
            .expect("updated");
        assert_eq!(
            updated.channel,
            channel(json!({"channel_id": named, "channel_name": "new"}))
        );
        store
            .delete(&id(named), Some(&updated.version))
            .await
            .expect("deleted");
    }
}

/// A document that cannot be read as a channel is named when it is asked for, and does not spoil
/// the others in a query.
pub async fn a_foreign_document_that_is_no_channel_is_named_and_passed_over(
    harness: &impl Harness,
) {
    let store = harness.store();
    harness
        .insert_foreign(json!({"channel_id": "a", "channel_tags": "slack"}))
        .await;
    harness
        .insert_foreign(json!({"channel_id": "not an id", "channel_name": "b"}))
        .await;
    create(&**store, &channel(json!({"channel_id": "z"}))).await;
    let got = store.get(&id("a")).await;
    assert!(
        matches!(&got, Err(StoreError::Unreadable { id, problem })
            if id == "a" && problem.contains("string")),
        "{got:?}"
    );
    assert_eq!(query(harness, json!({})).await, ["z"]);
    // And what was wrong can be put right.
    let change = patch(json!({"channel_tags": ["slack"]}));
    store
        .update(&id("a"), &change, None)
        .await
        .expect("updated");
    assert_eq!(query(harness, json!({})).await, ["a", "z"]);
}

/// A change by another client is a new version.
pub async fn a_foreign_change_counts_as_another_version(harness: &impl Harness) {
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
