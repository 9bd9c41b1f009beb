//! API keys.

use roundtrip_model::{ApiKey, ApiKeyId, KeyBounds, KeyRole, NewKey};
use time::OffsetDateTime;

use super::{Harness, samples::at};
use roundtrip_store::{ApiKeys, KeyError, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE};

fn key(name: &str) -> ApiKey {
    let new = NewKey {
        name: name.to_owned(),
        role: KeyRole::Producer,
        channels: None,
        rate_per_second: None,
        expires_at: None,
    };
    let (key, _) = new.make([7; 32], at(0)).expect("a key");
    key
}

async fn create(store: &(impl ApiKeys + ?Sized), key: &ApiKey) {
    store.create_key(key).await.expect("to create the key");
}

async fn found(store: &(impl ApiKeys + ?Sized), id: &ApiKeyId) -> Option<ApiKey> {
    store.key(id).await.expect("to look for the key")
}

/// The names of the active keys.
async fn active(store: &(impl ApiKeys + ?Sized), now: OffsetDateTime) -> Vec<String> {
    let keys = store.active_keys(now).await.expect("the keys");
    keys.into_iter().map(|key| key.name).collect()
}

/// With any set of fields, including the hash that verifies it.
pub(crate) async fn an_api_key_reads_back_unchanged(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    let limited = ApiKey {
        role: KeyRole::Viewer,
        channels: Some(["b", "a"].map(super::id).into()),
        rate_per_second: Some(5),
        expires_at: Some(at(9000)),
        made_under: Some(ApiKeyId::generate()),
        ..key("limited 🚀")
    };
    for key in [key("plain"), limited] {
        create(store, &key).await;
        let kept = found(&*second, &key.key_id).await;
        assert_eq!(kept, Some(key));
    }
    assert_eq!(found(store, &ApiKeyId::generate()).await, None);
}

/// At once, in every process and permanently. The first revocation counts.
pub(crate) async fn a_revoked_key_is_active_no_more(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    let (revoked, other) = (key("revoked"), key("other"));
    create(store, &revoked).await;
    create(store, &other).await;
    for (store, millis) in [(store, 1000), (&*second, 2000)] {
        let ended = store.revoke_key(&revoked.key_id, at(millis)).await;
        let ended = ended.expect("to revoke").expect("a key");
        assert_eq!(ended.revoked_at, Some(at(1000)));
        assert_eq!(active(store, at(3000)).await, ["other"]);
    }
    assert_eq!(found(store, &other.key_id).await, Some(other));
    let unknown = store.revoke_key(&ApiKeyId::generate(), at(0)).await;
    assert_eq!(unknown.expect("to revoke none"), None);
}

/// Also if it is revoked before or after that.
pub(crate) async fn a_key_that_expires_is_active_until_then(harness: &impl Harness) {
    let store = &**harness.store();
    let expiring = |name| ApiKey {
        expires_at: Some(at(1000)),
        ..key(name)
    };
    let [lasting, expires] = [key("lasting"), expiring("expires")];
    let [early, late] = ["early", "late"].map(expiring);
    for key in [&lasting, &expires, &early, &late] {
        create(store, key).await;
    }
    for (key, millis) in [(&early, 500), (&late, 2000)] {
        let revoked = store.revoke_key(&key.key_id, at(millis)).await;
        revoked.expect("to revoke");
    }
    assert_eq!(active(store, at(999)).await, ["lasting", "expires", "late"]);
    assert_eq!(active(store, at(1000)).await, ["lasting"]);
}

/// The earliest first, including ended keys.
pub(crate) async fn pages_hold_every_key_once(harness: &impl Harness) {
    let store = &**harness.store();
    let keys: Vec<ApiKey> = (0..12).map(|number| key(&number.to_string())).collect();
    for key in &keys {
        create(store, key).await;
    }
    let ended = store.revoke_key(&keys[3].key_id, at(1)).await;
    ended.expect("to revoke");
    let mut seen = Vec::new();
    let mut after: Option<ApiKeyId> = None;
    loop {
        let page = store
            .keys(&KeyBounds::default(), after.as_ref(), 5)
            .await
            .expect("a page");
        assert!(page.len() <= 5);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.key_id);
        seen.extend(page.into_iter().map(|key| key.name));
    }
    let names: Vec<String> = keys.into_iter().map(|key| key.name).collect();
    assert_eq!(seen, names);
    assert_eq!(
        store
            .keys(&KeyBounds::default(), None, 0)
            .await
            .expect("no page"),
        []
    );
}

/// Every engine finds the same keys as the rule, and cuts its pages after applying the bounds.
pub(crate) async fn a_page_of_keys_lists_only_keys_within_bounds(harness: &impl Harness) {
    let store = &**harness.store();
    let some = |channels: &[&str]| Some(channels.iter().map(|id| super::id(id)).collect());
    let mut keys = Vec::new();
    for channels in [
        None,
        some(&["a"]),
        some(&["b"]),
        some(&["a", "b"]),
        some(&["c"]),
    ] {
        for rate_per_second in [None, Some(5), Some(6)] {
            for expires_at in [None, Some(at(1000)), Some(at(1001))] {
                let key = ApiKey {
                    channels: channels.clone(),
                    rate_per_second,
                    expires_at,
                    ..key("n")
                };
                create(store, &key).await;
                keys.push(key);
            }
        }
    }
    for channels in [None, some(&["a"]), some(&["b", "a", "d"]), some(&["d"])] {
        for rate_per_second in [None, Some(5)] {
            for expires_at in [None, Some(at(1000))] {
                let within = KeyBounds {
                    channels: channels.clone(),
                    rate_per_second,
                    expires_at,
                };
                let is_within = |key: &&ApiKey| within.exceeded_by(key).is_none();
                let expected: Vec<ApiKey> = keys.iter().filter(is_within).cloned().collect();
                let all = store.keys(&within, None, 100).await.expect("the keys");
                assert_eq!(all, expected, "{within:?}");
                if let [_, first, second, ..] = &expected[..] {
                    let after = Some(&expected[0].key_id);
                    let page = store.keys(&within, after, 2).await.expect("a page");
                    assert_eq!(page, [first.clone(), second.clone()], "{within:?}");
                }
            }
        }
    }
}

/// Also for keys that the key's own keys made, so that a limited operator gains nothing by making
/// more operators. Ended keys and other keys' keys do not count.
pub(crate) async fn no_more_keys_are_active_under_one_than_can_be(harness: &impl Harness) {
    let store = &**harness.store();
    let [one, other] = [(); 2].map(|()| ApiKeyId::generate());
    let under = |one| ApiKey {
        made_under: Some(one),
        ..key("n")
    };
    let expired = ApiKey {
        expires_at: Some(at(0)),
        ..under(one)
    };
    create(store, &expired).await;
    let first = under(one);
    create(store, &first).await;
    for _ in 1..MAX_KEYS_UNDER_ONE {
        create(store, &under(one)).await;
    }
    let refused = store.create_key(&under(one)).await;
    assert!(
        matches!(refused, Err(KeyError::TooManyUnderOne)),
        "{refused:?}"
    );
    create(store, &under(other)).await;
    create(store, &key("n")).await;
    let revoked = store.revoke_key(&first.key_id, at(0)).await;
    revoked.expect("to revoke");
    create(store, &under(one)).await;
}

/// Ended keys do not count. All active keys are returned to an ingress.
pub(crate) async fn no_more_keys_are_active_than_can_be(harness: &impl Harness) {
    const ENDED: u16 = 100;
    let store = &**harness.store();
    let first = key("first");
    create(store, &first).await;
    let copies = MAX_ACTIVE_KEYS - 2;
    harness.copy_key(&first.key_id, copies, ENDED).await;
    create(store, &key("last")).await;
    let refused = store.create_key(&key("beyond")).await;
    assert!(matches!(refused, Err(KeyError::TooMany)), "{refused:?}");
    let all = active(store, at(0)).await;
    assert_eq!(all.len(), usize::from(MAX_ACTIVE_KEYS));
    assert!(!all.iter().any(|name| name == "beyond"));

    let revoked = store.revoke_key(&first.key_id, at(0)).await;
    revoked.expect("to revoke");
    create(store, &key("in its place")).await;
}
