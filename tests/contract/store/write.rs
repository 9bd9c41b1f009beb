//! Creating, reading, updating and deleting.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Harness, assert_changed, assert_not_found, channel, create, get, id, patch, patched, strict,
};
use roundtrip_store::{ChannelError, Filter, Version};

/// How many try the same concurrently.
const MANY: usize = 8;

fn full() -> Value {
    json!({
        "channel_id": "slack-sim",
        "channel_name": "Slack Simulated Channel",
        "channel_description": "Sends messages to Slack (simulated)",
        "channel_metadata": {"endpoint_url": "http://localhost:5001/incoming", "n": 1},
        "channel_tags": ["slack", "test"],
    })
}

/// A created channel reads back unchanged.
pub(crate) async fn a_created_channel_reads_back_unchanged(harness: &impl Harness) {
    let created = channel(full());
    let version = harness.store().create(&created).await.expect("created");
    let got = harness.store().get(&id("slack-sim")).await.expect("got");
    assert_eq!(got.channel, created.into());
    assert_eq!(got.version, version);
    assert_eq!(harness.stored("slack-sim").await, full());
}

/// A second create of an id is refused and changes nothing.
pub(crate) async fn a_taken_id_is_not_created_again(harness: &impl Harness) {
    let created = channel(full());
    create(&**harness.store(), &created).await;
    let again = harness
        .store()
        .create(&channel(
            json!({"channel_id": "slack-sim", "channel_name": "other"}),
        ))
        .await;
    assert!(matches!(again, Err(ChannelError::Exists(_))), "{again:?}");
    assert_eq!(get(&**harness.store(), "slack-sim").await, created);
}

/// One of several concurrent creates from two processes succeeds.
pub(crate) async fn of_many_creates_of_one_id_one_wins(harness: &impl Harness) {
    let second = harness.second_store().await;
    let channels: Vec<_> = (0..MANY)
        .map(|at| channel(json!({"channel_id": "c", "channel_name": at.to_string()})))
        .collect();
    let answers = join_all(channels.iter().enumerate().map(|(at, channel)| {
        let store = if at % 2 == 0 {
            harness.store()
        } else {
            &second
        };
        store.create(channel)
    }))
    .await;
    let winners: Vec<_> = (0..MANY).filter(|at| answers[*at].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(get(&**harness.store(), "c").await, channels[winners[0]]);
    let losers = answers
        .iter()
        .filter(|answer| matches!(answer, Err(ChannelError::Exists(_))));
    assert_eq!(losers.count(), MANY - 1, "{answers:?}");
}

/// Every call with an unknown id returns that it is not found.
pub(crate) async fn an_unknown_id_is_not_found_anywhere(harness: &impl Harness) {
    let store = harness.store();
    create(&**store, &channel(full())).await;
    let unknown = id("unknown");
    let version = Version::of(&channel(full()).into());
    let named = patch(json!({"channel_name": "x"}));
    assert_not_found(&store.get(&unknown).await);
    assert_not_found(&store.update(&unknown, &named, None).await);
    assert_not_found(&store.update(&unknown, &patch(json!({})), None).await);
    assert_not_found(&store.update(&unknown, &named, Some(&version)).await);
    assert_not_found(&store.delete(&unknown, None).await);
    assert_not_found(&store.delete(&unknown, Some(&version)).await);
}

/// The named fields are replaced; the others stay.
pub(crate) async fn an_update_replaces_only_its_fields(harness: &impl Harness) {
    let store = harness.store();
    let before = channel(full());
    create(&**store, &before).await;
    for change in [
        json!({"channel_description": "Updated"}),
        json!({"channel_tags": [], "channel_name": ""}),
        json!({"channel_id": "slack-sim", "channel_metadata": {"endpoint_url": "http://h/"}}),
    ] {
        let expected = patched(get(&**store, "slack-sim").await, patch(change.clone()));
        let updated = store
            .update(&id("slack-sim"), &patch(change), None)
            .await
            .expect("updated");
        assert_eq!(strict(&updated.channel), expected);
        assert_eq!(get(&**store, "slack-sim").await, expected);
    }
}

/// An update that names no field only reads.
pub(crate) async fn an_update_of_nothing_answers_with_the_channel(harness: &impl Harness) {
    let store = harness.store();
    let version = store.create(&channel(full())).await.expect("created");
    let nothing = patch(json!({}));
    for expected in [None, Some(&version)] {
        let answer = store
            .update(&id("slack-sim"), &nothing, expected)
            .await
            .expect("an answer");
        assert_eq!(strict(&answer.channel), channel(full()));
    }
    let other = Version::named("other");
    assert_changed(&store.update(&id("slack-sim"), &nothing, Some(&other)).await);
}

/// New metadata replaces all the old metadata.
pub(crate) async fn metadata_is_replaced_whole(harness: &impl Harness) {
    let store = harness.store();
    create(&**store, &channel(full())).await;
    let change = patch(json!({"channel_metadata": {"endpoint_url": "http://h/"}}));
    store
        .update(&id("slack-sim"), &change, None)
        .await
        .expect("updated");
    assert_eq!(
        Value::Object(get(&**store, "slack-sim").await.channel_metadata),
        json!({"endpoint_url": "http://h/"})
    );
}

/// The keys of metadata keep their order.
pub(crate) async fn keys_keep_their_order(harness: &impl Harness) {
    let store = harness.store();
    let text = r#"{"z":1,"a":{"y":1,"b":2},"10":[{"d":1,"c":2}],"9":null,"":0,"$ref":{"a.b":1}}"#;
    let metadata: Value = serde_json::from_str(text).expect("JSON");
    create(
        &**store,
        &channel(json!({"channel_id": "c", "channel_metadata": metadata})),
    )
    .await;
    let got = get(&**store, "c").await;
    assert_eq!(
        serde_json::to_string(&got.channel_metadata).expect("JSON"),
        text
    );
}

/// Integers stay integers, and doubles stay doubles.
pub(crate) async fn numbers_keep_their_kind(harness: &impl Harness) {
    let store = harness.store();
    let numbers =
        "[0,1,1.0,-1,2147483648,-9223372036854775808,9223372036854775807,0.1,1e+300,-0.0]";
    let text = format!(r#"{{"kept":{numbers}}}"#);
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let version = store
        .create(&channel(
            json!({"channel_id": "c", "channel_metadata": metadata}),
        ))
        .await
        .expect("created");
    let got = store.get(&id("c")).await.expect("got");
    assert_eq!(
        serde_json::to_string(&got.channel.channel_metadata).expect("JSON"),
        text
    );
    assert_eq!(got.version, version);
}

/// BSON has no such integer, and a double would round it. Tested in metadata and in a filter.
pub(crate) async fn an_integer_that_would_be_rounded_is_refused(harness: &impl Harness) {
    let store = harness.store();
    let metadata = json!({"owner": {"accounts": [1, 12_345_678_901_234_567_890_u64]}});
    let document = json!({"channel_id": "c", "channel_metadata": metadata});
    let created = store.create(&channel(document)).await;
    create(&**store, &channel(full())).await;
    let change = patch(json!({ "channel_metadata": metadata }));
    let updated = store.update(&id("slack-sim"), &change, None).await;
    for refused in [created.map(drop), updated.map(drop)] {
        assert!(
            matches!(&refused, Err(ChannelError::Unstorable(error))
                if error.field == "channel_metadata.owner.accounts[1]"),
            "{refused:?}"
        );
    }
    assert_eq!(get(&**store, "slack-sim").await, channel(full()));
    let filter = json!({"channel_metadata.n": {"$in": [12_345_678_901_234_567_890_u64]}});
    let refused = Filter::parse(&filter).expect_err("no filter");
    assert_eq!(refused.path, "channel_metadata.n.$in.0");
}

/// A double reads back exactly, however often it is read and written.
pub(crate) async fn doubles_are_kept_to_the_last_digit(harness: &impl Harness) {
    let store = harness.store();
    let numbers =
        "[31.245270191439438,0.30000000000000004,2.2250738585072014e-308,121.48791951161945]";
    let text = format!(r#"{{"n":{numbers}}}"#);
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let document = json!({"channel_id": "c", "channel_metadata": metadata});
    let mut version = store.create(&channel(document)).await.expect("created");
    for name in ["a", "b"] {
        let change = patch(json!({ "channel_name": name }));
        let updated = store.update(&id("c"), &change, Some(&version)).await;
        version = updated.expect("updated").version;
    }
    let got = get(&**store, "c").await.channel_metadata;
    assert_eq!(serde_json::to_string(&got).expect("JSON"), text);
}

/// A version depends only on the content.
pub(crate) async fn the_version_changes_with_the_content_and_only_then(harness: &impl Harness) {
    let store = harness.store();
    let created = store.create(&channel(full())).await.expect("created");
    let update = async |change: Value| {
        store
            .update(&id("slack-sim"), &patch(change), None)
            .await
            .expect("updated")
            .version
    };
    assert_eq!(
        update(json!({"channel_tags": ["slack", "test"]})).await,
        created
    );
    let mut versions = vec![created.clone()];
    for change in [
        json!({"channel_name": "other"}),
        json!({"channel_description": "other"}),
        json!({"channel_tags": ["test", "slack"]}),
        json!({"channel_metadata": {"a": 1, "b": 2}}),
        json!({"channel_metadata": {"b": 2, "a": 1}}),
    ] {
        let version = update(change).await;
        assert!(!versions.contains(&version), "{version}");
        versions.push(version);
    }
    let mut back = full();
    back.as_object_mut()
        .expect("an object")
        .remove("channel_id");
    assert_eq!(update(back).await, created);
    let got = store.get(&id("slack-sim")).await.expect("got");
    assert_eq!(got.version, created);
}

/// A write that expects an older version is refused.
pub(crate) async fn a_write_that_expects_another_version_changes_nothing(harness: &impl Harness) {
    let store = harness.store();
    let old = store.create(&channel(full())).await.expect("created");
    let name = |name: &str| patch(json!({"channel_name": name}));
    let slack = id("slack-sim");
    store
        .update(&slack, &name("new"), None)
        .await
        .expect("updated");
    for expected in [old, Version::named("no version")] {
        assert_changed(&store.update(&slack, &name("lost"), Some(&expected)).await);
        assert_changed(&store.delete(&slack, Some(&expected)).await);
    }
    assert_eq!(get(&**store, "slack-sim").await.channel_name, "new");
}

/// A write that expects the current version succeeds.
pub(crate) async fn a_write_that_expects_this_version_is_done(harness: &impl Harness) {
    let store = harness.store();
    let first = store.create(&channel(full())).await.expect("created");
    let slack = id("slack-sim");
    let change = patch(json!({"channel_name": "new"}));
    let second = store
        .update(&slack, &change, Some(&first))
        .await
        .expect("updated")
        .version;
    store.delete(&slack, Some(&second)).await.expect("deleted");
}

/// One of several concurrent updates from two processes that expect the same version succeeds.
pub(crate) async fn of_many_updates_of_one_version_one_wins(harness: &impl Harness) {
    let store = harness.store();
    let second = harness.second_store().await;
    let slack = id("slack-sim");
    let version = store.create(&channel(full())).await.expect("created");
    let changes: Vec<_> = (0..MANY)
        .map(|at| patch(json!({"channel_name": at.to_string()})))
        .collect();
    let answers = join_all(changes.iter().enumerate().map(|(at, change)| {
        let store = if at % 2 == 0 { store } else { &second };
        store.update(&slack, change, Some(&version))
    }))
    .await;
    let winners: Vec<_> = answers.iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(
        get(&**store, "slack-sim").await,
        strict(&winners[0].channel)
    );
    for answer in answers.iter().filter(|answer| answer.is_err()) {
        assert_changed(answer);
    }
}

/// Concurrent updates of different fields do not undo each other.
pub(crate) async fn updates_of_different_fields_are_all_kept(harness: &impl Harness) {
    let store = harness.store();
    let second = harness.second_store().await;
    create(&**store, &channel(full())).await;
    let changes = [
        patch(json!({"channel_name": "new"})),
        patch(json!({"channel_description": "new"})),
        patch(json!({"channel_tags": ["new"]})),
    ];
    let slack = id("slack-sim");
    let answers = join_all(changes.iter().enumerate().map(|(at, change)| {
        let store = if at % 2 == 0 { store } else { &second };
        store.update(&slack, change, None)
    }))
    .await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let expected = changes.into_iter().fold(channel(full()), patched);
    assert_eq!(get(&**store, "slack-sim").await, expected);
}

/// A deleted channel is gone, and its id can be created again.
pub(crate) async fn a_deleted_channel_is_gone_and_its_id_is_free(harness: &impl Harness) {
    let store = harness.store();
    create(&**store, &channel(json!({"channel_id": "unknown"}))).await;
    create(&**store, &channel(full())).await;
    store.delete(&id("unknown"), None).await.expect("deleted");
    assert_not_found(&store.get(&id("unknown")).await);
    assert_eq!(get(&**store, "slack-sim").await, channel(full()));
    create(&**store, &channel(json!({"channel_id": "unknown"}))).await;
}

/// Text in any script, with any character, reads back unchanged.
pub(crate) async fn any_text_is_kept(harness: &impl Harness) {
    let text = "Ünïcödé 雪 🚀 \u{0} \u{7f} \u{2028} '\"\\ $where e\u{301}";
    let odd = channel(json!({
        "channel_id": "A.z_0~-",
        "channel_name": text,
        "channel_description": text,
        "channel_metadata": {"ключ 🔑": text},
        "channel_tags": [text, ""],
    }));
    create(&**harness.store(), &odd).await;
    assert_eq!(get(&**harness.store(), "A.z_0~-").await, odd);
}

/// A megabyte of metadata, and deep nesting, read back unchanged.
pub(crate) async fn a_big_channel_is_kept(harness: &impl Harness) {
    let mut deep = json!("deep");
    for _ in 0..30 {
        deep = json!({ "in": [deep] });
    }
    deep = json!({"deep": deep, "zeros": vec![0; 1000], "text": "x".repeat(800_000)});
    let big = channel(json!({"channel_id": "big", "channel_metadata": {"big": deep}}));
    create(&**harness.store(), &big).await;
    assert_eq!(get(&**harness.store(), "big").await, big);
}

/// A value that one engine could not return is refused by all.
pub(crate) async fn a_value_that_cannot_be_stored_is_refused(harness: &impl Harness) {
    let store = harness.store();
    create(&**store, &channel(full())).await;
    let metadata = json!({"a\0": 1});
    let created = store
        .create(&channel(
            json!({"channel_id": "c", "channel_metadata": metadata}),
        ))
        .await;
    assert!(
        matches!(created, Err(ChannelError::Unstorable(_))),
        "{created:?}"
    );
    let change = patch(json!({ "channel_metadata": metadata }));
    let updated = store.update(&id("slack-sim"), &change, None).await;
    assert!(
        matches!(updated, Err(ChannelError::Unstorable(_))),
        "{updated:?}"
    );
    assert_eq!(get(&**store, "slack-sim").await, channel(full()));
}

/// One process reads what another writes.
pub(crate) async fn two_stores_see_each_others_writes(harness: &impl Harness) {
    let second = harness.second_store().await;
    create(&**harness.store(), &channel(full())).await;
    let change = patch(json!({"channel_name": "new"}));
    second
        .update(&id("slack-sim"), &change, None)
        .await
        .expect("updated");
    assert_eq!(
        get(&**harness.store(), "slack-sim").await.channel_name,
        "new"
    );
}

/// An available store answers a ping.
pub(crate) async fn a_store_that_answers_is_pinged(harness: &impl Harness) {
    harness.store().ping().await.expect("an answer");
}
