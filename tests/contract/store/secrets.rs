//! The signing secrets of channels.

use futures::future::join_all;
use serde_json::json;

use super::{Harness, channel, create, get, id, patch};
use roundtrip_store::{Filter, PageRequest, SealedSecret, Secrets, SecretsError};

/// How many try the same concurrently.
const MANY: usize = 8;

fn sealed(name: &str, until_ms: impl Into<Option<i64>>) -> SealedSecret {
    SealedSecret {
        sealed: format!("v1.key.{name}"),
        until_ms: until_ms.into(),
    }
}

async fn secrets(store: &(impl Secrets + ?Sized), named: &str) -> Vec<SealedSecret> {
    store.secrets(&id(named)).await.expect("an answer")
}

async fn put(
    store: &(impl Secrets + ?Sized),
    seen: &[SealedSecret],
    new: &[SealedSecret],
) -> Result<(), SecretsError> {
    store.replace_secrets(&id("c"), seen, new).await
}

fn assert_changed(put: &Result<(), SecretsError>) {
    assert!(matches!(put, Err(SecretsError::Changed(_))), "{put:?}");
}

/// They read back unchanged, also in another process. A channel without secrets has an empty list.
pub(crate) async fn secrets_are_kept_as_they_were(harness: &impl Harness) {
    let store = &**harness.store();
    create(store, &channel(json!({"channel_id": "c"}))).await;
    harness
        .insert_foreign(json!({"channel_id": "foreign"}))
        .await;
    assert_eq!(secrets(store, "c").await, []);
    let first = [sealed("first", None)];
    put(store, &[], &first).await.expect("to put the first");
    assert_eq!(secrets(store, "c").await, first);
    let both = [sealed("second", None), sealed("first", 1_764_000_000_123)];
    put(store, &first, &both).await.expect("to put the second");
    assert_eq!(secrets(&*harness.second_store().await, "c").await, both);
    for other in ["foreign", "unknown"] {
        assert_eq!(secrets(store, other).await, [], "{other}");
    }
}

/// A write that read older secrets replaces nothing.
pub(crate) async fn secrets_replace_those_that_were_seen(harness: &impl Harness) {
    let store = &**harness.store();
    create(store, &channel(json!({"channel_id": "c"}))).await;
    let (first, second) = ([sealed("first", None)], [sealed("second", None)]);
    assert_changed(&put(store, &first, &second).await);
    put(store, &[], &first).await.expect("to put the first");
    assert_changed(&put(store, &[], &second).await);
    assert_changed(&put(store, &second, &second).await);
    assert_eq!(secrets(store, "c").await, first);
}

/// One of many concurrent rotations from two processes succeeds.
pub(crate) async fn of_many_who_replace_secrets_one_wins(harness: &impl Harness) {
    let second = harness.second_store().await;
    let store = harness.store();
    create(&**store, &channel(json!({"channel_id": "c"}))).await;
    let mut seen = Vec::new();
    for round in 0..2 {
        let new: Vec<_> = (0..MANY)
            .map(|at| [sealed(&format!("{round}-{at}"), None)])
            .collect();
        let answers = join_all(new.iter().enumerate().map(|(at, new)| {
            let store = if at % 2 == 0 { store } else { &second };
            put(&**store, &seen, new)
        }))
        .await;
        let winners: Vec<_> = (0..MANY).filter(|at| answers[*at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        seen = new[winners[0]].to_vec();
        assert_eq!(secrets(&**store, "c").await, seen);
        for answer in answers.iter().filter(|answer| answer.is_err()) {
            assert_changed(answer);
        }
    }
}

/// A deleted channel's secrets are gone, so that a new channel with its id does not get them.
pub(crate) async fn a_deleted_channels_secrets_are_gone(harness: &impl Harness) {
    let store = harness.store();
    let c = channel(json!({"channel_id": "c"}));
    let first = [sealed("first", None)];
    for expected in [false, true] {
        let version = store.create(&c).await.expect("created");
        put(&**store, &[], &first).await.expect("to put the first");
        let expected = expected.then_some(&version);
        store.delete(&id("c"), expected).await.expect("deleted");
        assert_eq!(secrets(&**store, "c").await, []);
    }
}

/// A refused delete removes no secrets.
pub(crate) async fn a_channel_that_stays_keeps_its_secrets(harness: &impl Harness) {
    let store = harness.store();
    let version = store.create(&channel(json!({"channel_id": "c"}))).await;
    let first = [sealed("first", None)];
    put(&**store, &[], &first).await.expect("to put the first");
    let change = patch(json!({"channel_name": "new", "channel_metadata": {}}));
    store
        .update(&id("c"), &change, None)
        .await
        .expect("updated");
    let old = version.expect("created");
    let refused = store.delete(&id("c"), Some(&old)).await;
    super::assert_changed(&refused);
    assert_eq!(secrets(&**store, "c").await, first);
}

/// A channel's document does not contain them, and no filter reaches them.
pub(crate) async fn secrets_are_no_part_of_the_channel(harness: &impl Harness) {
    let store = harness.store();
    let c = channel(json!({"channel_id": "c"}));
    create(&**store, &c).await;
    let before = harness.stored("c").await;
    put(&**store, &[], &[sealed("first", None)])
        .await
        .expect("to put the first");
    assert_eq!(harness.stored("c").await, before);
    assert_eq!(get(&**store, "c").await, c);
    for field in ["secrets", "sealed", "newest", "signing_secret"] {
        let filter = Filter::parse(&json!({ field: {"$exists": true} }));
        assert!(filter.is_err(), "{field}");
    }
    let all = Filter::parse(&json!({})).expect("a filter");
    let page = store.query(&all, &PageRequest::default()).await;
    assert_eq!(page.expect("a page").channels, [c.into()]);
}
