//! Making, listing and ending keys by the API.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_key_that_is_made_works_at_once_and_ends_at_once() {
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
    assert_eq!(bench.store.keys(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_limited_operator_makes_no_wider_key_and_sees_none() {
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

fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}
