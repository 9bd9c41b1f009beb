//! Pausing and resuming, and which channel is meant.

use futures::future::join_all;
use roundtrip_model::DeliverySettings;
use serde_json::{Value, json};

use super::{Harness, assert_not_found, channel, create, get, id, patch};
use roundtrip_store::Channels;

/// How many change the channel concurrently.
const MANY: usize = 8;

async fn set_paused(store: &dyn Channels, named: &str, paused: bool) {
    store
        .set_paused(&id(named), None, paused)
        .await
        .expect("paused or resumed");
}

async fn is_paused(store: &dyn Channels, named: &str) -> bool {
    let target = store.target(&id(named)).await.expect("a target");
    target.settings.paused
}

/// Only the flag changes, whatever the document contains.
pub(crate) async fn pausing_and_resuming_change_nothing_else(harness: &impl Harness) {
    let store = &**harness.store();
    let delivery = json!({"timeout": "9s", "other": [1]});
    let metadata = [
        (
            "none",
            json!({"endpoint_url": "http://h/", "z": {"$a.b": 1}}),
        ),
        ("settings", json!({"delivery": delivery, "a": 1})),
        ("flag", json!({"delivery": {"paused": "yes"}})),
        ("no-object", json!({"delivery": "fast"})),
        ("null", Value::Null),
    ];
    for (named, metadata) in metadata {
        let mut document = json!({"owner": 1, "channel_id": named, "channel_tags": "slack"});
        document["channel_metadata"] = metadata;
        document["cost_centre"] = json!(7);
        harness.insert_foreign(document.clone()).await;
        set_paused(store, named, false).await;
        assert_eq!(
            harness.stored(named).await.to_string(),
            document.to_string()
        );
        for paused in [true, true, false] {
            set_paused(store, named, paused).await;
            assert_eq!(is_paused(store, named).await, paused);
            let metadata = &mut document["channel_metadata"];
            if !metadata["delivery"].is_object() {
                metadata["delivery"] = json!({});
            }
            metadata["delivery"]["paused"] = json!(paused);
            let stored = harness.stored(named).await;
            assert_eq!(stored.to_string(), document.to_string());
        }
    }
    // Also a document without metadata.
    harness.insert_foreign(json!({"channel_id": "bare"})).await;
    set_paused(store, "bare", true).await;
    assert!(is_paused(store, "bare").await);
    assert_not_found(&store.set_paused(&id("unknown"), None, true).await);
}

/// A pause is the operator's. It ends by a resume, or by metadata that names it.
pub(crate) async fn a_pause_outlasts_new_metadata_that_does_not_name_it(harness: &impl Harness) {
    let store = &**harness.store();
    let metadata = json!({"endpoint_url": "http://old/", "delivery": {"timeout": "9s"}});
    let document = json!({"channel_id": "c", "channel_metadata": metadata});
    create(store, &channel(document)).await;
    set_paused(store, "c", true).await;
    for metadata in [
        json!({"endpoint_url": "http://new/"}),
        json!({"endpoint_url": "http://new/", "delivery": {"max_in_flight": 1}}),
    ] {
        let change = patch(json!({ "channel_metadata": metadata }));
        for is_expected in [false, true] {
            let version = store.get(&id("c")).await.expect("got").version;
            let expected = is_expected.then_some(&version);
            store
                .update(&id("c"), &change, expected)
                .await
                .expect("updated");
            let got = get(store, "c").await.channel_metadata;
            let mut expected = metadata.clone();
            expected["delivery"]["paused"] = json!(true);
            assert_eq!(Value::Object(got), expected);
        }
    }
    let resumed = json!({"endpoint_url": "http://new/", "delivery": {"paused": false}});
    let change = patch(json!({ "channel_metadata": resumed }));
    store
        .update(&id("c"), &change, None)
        .await
        .expect("updated");
    assert!(!is_paused(store, "c").await);
}

/// The pause and the others' metadata are all kept.
pub(crate) async fn a_pause_and_other_changes_at_once_are_all_kept(harness: &impl Harness) {
    let second = harness.second_store().await;
    let store = harness.store();
    create(&**store, &channel(json!({"channel_id": "c"}))).await;
    let change = |at: usize| {
        let metadata =
            json!({"endpoint_url": format!("http://{at}/"), "delivery": {"timeout": "1s"}});
        patch(json!({ "channel_metadata": metadata }))
    };
    let c = id("c");
    let changes: Vec<_> = (0..MANY).map(change).collect();
    let updates = join_all(changes.iter().map(|change| second.update(&c, change, None)));
    let (updated, paused) = futures::join!(updates, store.set_paused(&c, None, true));
    assert!(updated.iter().all(Result::is_ok), "{updated:?}");
    paused.expect("paused");
    let got = get(&**store, "c").await.channel_metadata;
    assert!(DeliverySettings::of(&got).paused, "{got:?}");
    assert_eq!(got["delivery"]["timeout"], "1s");
}

/// The response of an earlier channel's endpoint does not affect a later channel with its id.
pub(crate) async fn a_pause_for_an_earlier_channel_does_not_hit_a_later_one(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    create(store, &channel(json!({"channel_id": "unknown"}))).await;
    let c = id("unknown");
    let earlier = store.target(&c).await.expect("a target").uid;
    store.delete(&c, None).await.expect("deleted");
    create(store, &channel(json!({"channel_id": "unknown"}))).await;
    assert_not_found(&store.set_paused(&c, Some(&earlier), true).await);
    assert!(!is_paused(store, "unknown").await);
    let later = store.target(&c).await.expect("a target").uid;
    store
        .set_paused(&c, Some(&later), true)
        .await
        .expect("paused");
    assert!(is_paused(store, "unknown").await);
}

/// A uid never changes and is never reused, even if the same channel is created again.
pub(crate) async fn a_recreated_channel_is_another_channel(harness: &impl Harness) {
    let store = &**harness.store();
    let c = id("c");
    let mut uids = Vec::new();
    for round in 0..4 {
        let document = json!({"channel_id": "c", "channel_name": "same"});
        // Another client may have written it.
        if round % 2 == 0 {
            create(store, &channel(document)).await;
        } else {
            harness.insert_foreign(document).await;
        }
        let uid = store.target(&c).await.expect("a target").uid;
        let change = patch(json!({"channel_metadata": {"endpoint_url": "http://h/"}}));
        store.update(&c, &change, None).await.expect("updated");
        set_paused(store, "c", true).await;
        assert_eq!(store.target(&c).await.expect("a target").uid, uid);
        assert!(!uids.contains(&uid), "{uid:?}");
        uids.push(uid);
        store.delete(&c, None).await.expect("deleted");
    }
}
