//! Making, listing and revoking keys through the API.

use roundtrip_model::{ChannelId, KeyBounds, SystemClock};
use roundtrip_store::MAX_KEYS_UNDER_ONE;
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_key_works_once_it_is_created_and_stops_once_it_is_revoked() {
    let bench = Bench::in_production().await;
    let body = r#"{"name":"shop","role":"producer","channels":["c"],"rate_per_second":50}"#;
    let made = post(&bench, "/api-keys", &operator(), body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["cache-control"], "no-store");
    let made = made.json();
    let key = format!("Bearer {}", made["key"].as_str().unwrap());
    let message = ABOUT.replace("CHANNEL", "c");
    let sent = post(&bench, "/channel/message", &key, &message).await;
    assert_eq!(sent.status, 202, "{}", sent.text);

    let listed = get(&bench, "/api-keys", &operator()).await.json();
    let mut as_listed = made.clone();
    as_listed.as_object_mut().unwrap().remove("key");
    assert_eq!(listed["api_keys"], json!([as_listed]));

    let path = format!("/api-keys/{}", made["key_id"].as_str().unwrap());
    let revoked = ask(&bench, Method::DELETE, &path, &operator(), "").await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    assert!(revoked.json()["revoked_at"].is_string());
    let sent = post(&bench, "/channel/message", &key, &message).await;
    assert_eq!(sent.status, 401);
}

#[rstest]
#[case::no_name(r#"{"role":"viewer"}"#, "name")]
#[case::empty_name(r#"{"role":"viewer","name":""}"#, "name")]
#[case::no_role(r#"{"name":"n"}"#, "role")]
#[case::other_role(r#"{"name":"n","role":"admin"}"#, "role")]
#[case::no_channel(r#"{"name":"n","role":"viewer","channels":[]}"#, "channels")]
#[case::bad_channel(r#"{"name":"n","role":"viewer","channels":["a b"]}"#, "channels[0]")]
#[case::no_rate(
    r#"{"name":"n","role":"viewer","rate_per_second":0}"#,
    "rate_per_second"
)]
#[case::past(
    r#"{"name":"n","role":"viewer","expires_at":"2020-01-01T00:00:00Z"}"#,
    "expires_at"
)]
#[case::unknown(r#"{"name":"n","role":"viewer","chanels":["c"]}"#, "chanels")]
#[tokio::test]
async fn a_key_that_cannot_be_is_422_and_names_the_field(#[case] body: &str, #[case] field: &str) {
    let bench = Bench::in_production().await;
    let refused = post(&bench, "/api-keys", &operator(), body).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(refused.json()["errors"][0]["field"], field);
    assert_eq!(
        bench
            .store
            .keys(&KeyBounds::default(), None, 10)
            .await
            .unwrap(),
        []
    );
}

#[tokio::test]
async fn a_limited_operator_can_neither_create_nor_see_a_wider_key() {
    let bench = Bench::in_production().await;
    let tomorrow = bench.clock.now() + time::Duration::DAY;
    let new = NewKey {
        channels: Some(["c", "d"].map(|id| id.parse().unwrap()).into()),
        expires_at: Some(tomorrow),
        ..new_key(KeyRole::Operator)
    };
    let (own, key) = keep(&bench, new).await;
    let (wide, _) = keep(&bench, new_key(KeyRole::Viewer)).await;
    let hour = rfc3339(bench.clock.now() + time::Duration::HOUR);
    let week = rfc3339(bench.clock.now() + time::Duration::WEEK);
    for (channels, expires_at, field) in [
        (json!(null), json!(hour), Some("channels")),
        (json!(["c", "e"]), json!(hour), Some("channels")),
        (json!(["c"]), json!(null), Some("expires_at")),
        (json!(["c"]), json!(week), Some("expires_at")),
        (json!(["c"]), json!(hour), None),
    ] {
        let body = json!({
            "name": "n", "role": "operator", "channels": channels, "expires_at": expires_at,
        });
        let answer = post(&bench, "/api-keys", &key, &body.to_string()).await;
        let Some(field) = field else {
            assert_eq!(answer.status, 201, "{}", answer.text);
            continue;
        };
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field);
    }
    let listed = get(&bench, "/api-keys", &key).await.json();
    let ids: Vec<_> = listed["api_keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["key_id"].clone())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], own.key_id.to_string());
    let path = format!("/api-keys/{}", wide.key_id);
    let revoked = ask(&bench, Method::DELETE, &path, &key, "").await;
    assert_eq!(revoked.status, 404, "{}", revoked.text);
}

/// A key can neither list nor revoke keys that it could not make, even those of its own channels.
#[rstest]
#[case::ending(NewKey { expires_at: Some(in_an_hour()), ..new_key(KeyRole::Operator) })]
#[case::slow(NewKey { rate_per_second: Some(1000), ..new_key(KeyRole::Operator) })]
#[case::of_a_channel(NewKey { channels: Some(c()), ..new_key(KeyRole::Operator) })]
#[tokio::test]
async fn a_limited_operator_reaches_no_key_that_goes_further(#[case] own: NewKey) {
    let bench = Bench::in_production().await;
    let narrower = NewKey {
        name: "narrower".to_owned(),
        channels: Some(c()),
        rate_per_second: Some(5),
        expires_at: Some(in_an_hour() - time::Duration::MINUTE),
        ..new_key(KeyRole::Viewer)
    };
    let further = NewKey {
        name: "further".to_owned(),
        ..new_key(KeyRole::Viewer)
    };
    let further = [
        further.clone(),
        NewKey {
            channels: own.channels.as_ref().map(|_| {
                let other = "d".parse().unwrap();
                c().into_iter().chain([other]).collect()
            }),
            rate_per_second: own.rate_per_second.map(|rate| rate + 1),
            expires_at: own.expires_at.map(|end| end + time::Duration::SECOND),
            ..further
        },
    ];
    let (_, key) = keep(&bench, own).await;
    // One sorts before and one after, so that a cursor could reveal either.
    let [one, two] = further;
    let (one, _) = keep(&bench, one).await;
    let (narrower, _) = keep(&bench, narrower).await;
    let (two, _) = keep(&bench, two).await;

    let mut seen = Vec::new();
    let mut path = "/api-keys?limit=1".to_owned();
    loop {
        let page = get(&bench, &path, &key).await.json();
        // Pages are full, and cursors name only visible keys.
        let one = &page["api_keys"][0];
        seen.push(one["name"].clone());
        if page["next_cursor"].is_null() {
            break;
        }
        assert_eq!(page["next_cursor"], one["key_id"]);
        path = format!(
            "/api-keys?limit=1&cursor={}",
            one["key_id"].as_str().unwrap()
        );
    }
    assert_eq!(seen, ["n", "narrower"]);
    for (other, status) in [(one, 404), (two, 404), (narrower, 200)] {
        let path = format!("/api-keys/{}", other.key_id);
        let revoked = ask(&bench, Method::DELETE, &path, &key, "").await;
        assert_eq!(revoked.status, status, "{}: {}", other.name, revoked.text);
        let kept = bench.store.key(&other.key_id).await.unwrap().unwrap();
        assert_eq!(kept.revoked_at.is_some(), status == 200, "{}", other.name);
    }
}

#[tokio::test]
async fn an_operator_with_a_rate_makes_no_faster_key() {
    let bench = Bench::in_production().await;
    let slow = NewKey {
        rate_per_second: Some(1000),
        ..new_key(KeyRole::Operator)
    };
    let (_, key) = keep(&bench, slow).await;
    for (rate, status) in [
        (json!(null), 403),
        (json!(1001), 403),
        (json!(1000), 201),
        (json!(1), 201),
    ] {
        let body = json!({"name": "n", "role": "operator", "rate_per_second": rate}).to_string();
        let answer = post(&bench, "/api-keys", &key, &body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == 403 {
            let problem = answer.json();
            assert_eq!(problem["type"], "urn:roundtrip:problem:wider-key");
            assert_eq!(problem["errors"][0]["field"], "rate_per_second");
        }
    }
}

/// Operators that it makes count too, so that one principal cannot fill the table of keys.
#[tokio::test]
async fn the_keys_under_a_limited_operator_are_bounded() {
    let bench = Bench::in_production().await;
    let own = NewKey {
        channels: Some(c()),
        ..new_key(KeyRole::Operator)
    };
    let (_, key) = keep(&bench, own).await;
    let body = r#"{"name":"n","role":"operator","channels":["c"]}"#;
    let second = post(&bench, "/api-keys", &key, body).await;
    assert_eq!(second.status, 201, "{}", second.text);
    let second = format!("Bearer {}", second.json()["key"].as_str().unwrap());
    let mut made = 1;
    let refused = loop {
        let maker = if made % 2 == 0 { &key } else { &second };
        let answer = post(&bench, "/api-keys", maker, body).await;
        if answer.status != 201 {
            break answer;
        }
        made += 1;
    };
    assert_eq!(made, MAX_KEYS_UNDER_ONE);
    assert_eq!(refused.status, 409, "{}", refused.text);
    let kind = &refused.json()["type"];
    assert_eq!(kind, "urn:roundtrip:problem:too-many-keys-made");
    let others = post(&bench, "/api-keys", &operator(), body).await;
    assert_eq!(others.status, 201, "{}", others.text);
}

fn c() -> BTreeSet<ChannelId> {
    ["c".parse().unwrap()].into()
}

/// To the millisecond, as the store keeps it.
fn in_an_hour() -> time::OffsetDateTime {
    (SystemClock.now() + time::Duration::HOUR).truncate_to_millisecond()
}

fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}
