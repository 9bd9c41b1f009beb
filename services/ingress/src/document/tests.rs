use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use roundtrip_model::{
    KeyRole, State,
    channel::{MAX_DESCRIPTION_CHARS, MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS, MAX_URL_BYTES},
    decision::DeadKind,
    ids::{MAX_CHANNEL_ID, MAX_SESSION_ID_CHARS},
    journal::MessageKind,
    key,
    waiting::WaitReason,
};
use roundtrip_store::{MAX_NAMED_SKIPS, StateFilter};
use serde_json::json;

use super::*;
use crate::{Access, problem::Kind, tests::Bench};

/// The paths of the document with their methods.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let methods = |item: &Value| {
        let keys = item.as_object().unwrap().keys();
        keys.filter(|key| *key != "parameters")
            .map(|key| key.to_uppercase())
            .collect()
    };
    paths
        .iter()
        .map(|(path, item)| (path.clone(), methods(item)))
        .collect()
}

#[test]
fn the_document_has_the_routers_calls_and_no_others() {
    let mut routed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path, _) in crate::calls() {
        let methods = routed.entry(path.to_owned()).or_default();
        methods.insert(method.to_string());
    }
    assert_eq!(documented(), routed);
}

#[test]
fn the_document_states_which_calls_need_a_key() {
    for (method, path, access) in crate::calls() {
        let operation = &DOCUMENT["paths"][path][method.as_str().to_lowercase()];
        let open = operation["security"] == json!([{}]);
        assert_eq!(open, access == Access::Open, "{method} {path}");
        let documented =
            ["401", "403", "429"].map(|status| operation["responses"].get(status).is_some());
        // 403: the key's role forbids the call, or a web page calls where no key is required. The
        // documents are open to all.
        let is_document = matches!(path, "/docs" | "/docs/{file}" | "/openapi.json");
        assert_eq!(documented[1], !is_document, "{method} {path}: 403");
        // Its token is what a key is for the other calls.
        let needs_token = path == "/webhook-response";
        // Its channel has a rate, as a key does.
        let expected = (!open || needs_token, !open || needs_token);
        assert_eq!((documented[0], documented[2]), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn the_document_is_served_without_a_key() {
    let bench = Bench::in_production().await;
    let json = bench.request(Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(
        (json.status, &json.json()["openapi"]),
        (200, &json!("3.1.0"))
    );
}

#[tokio::test]
async fn the_page_loads_only_files_of_this_gateway() {
    let bench = Bench::in_production().await;
    let page = bench.request(Method::GET, "/docs", &[], "").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for directive in policy.split("; ").filter(|one| !one.starts_with("img-src")) {
        let (_, sources) = directive.split_once(' ').unwrap();
        assert!(["'none'", "'self'"].contains(&sources), "{directive}");
    }
    let attributes = page.text.split(['"', ' ']);
    let loaded: BTreeSet<_> = attributes
        .filter_map(|text| text.strip_prefix("docs/"))
        .collect();
    assert_eq!(loaded, FILES.map(|(name, ..)| name).into());
    for (name, media_type, content) in FILES {
        let path = format!("/docs/{name}");
        let file = bench.request(Method::GET, &path, &[], "").await;
        assert_eq!(file.status, 200, "{name}");
        assert_eq!(file.headers["content-type"], media_type);
        assert_eq!(file.text, content);
    }
    for ours in [PAGE, FILES[0].2] {
        assert!(!ours.contains("://"), "a URL with a host: {ours}");
    }
    let other = bench
        .request(Method::GET, "/docs/index.html", &[], "")
        .await;
    assert_eq!(other.status, 404);
}

#[test]
fn the_webhooks_describe_what_the_gateway_sends() {
    let webhooks = DOCUMENT["webhooks"].as_object().unwrap();
    assert_eq!(
        webhooks.keys().collect::<Vec<_>>(),
        ["deliverMessage", "forwardAnswer", "postNotice"]
    );
    for (name, webhook) in webhooks {
        let post = &webhook["post"];
        assert_eq!(post["operationId"], **name);
        let headers = array(&post["parameters"]).map(|one| {
            let reference = one["$ref"].as_str().unwrap();
            DOCUMENT.pointer(&reference[1..]).unwrap()["name"].clone()
        });
        let mut expected = vec!["webhook-id", "webhook-timestamp", "webhook-signature"];
        if name == "forwardAnswer" {
            expected.extend([
                "roundtrip-kind",
                "roundtrip-message-id",
                "roundtrip-channel-id",
            ]);
        }
        assert_eq!(headers.collect::<Vec<_>>(), expected);
        let media = &post["requestBody"]["content"]["application/json"];
        assert!(media["schema"].is_object() && media["example"].is_object());
        for status in ["2XX", "400", "413", "415", "422", "default"] {
            let description = &post["responses"][status]["description"];
            assert!(description.is_string(), "{name}: {status}");
        }
        assert_eq!(
            post["responses"].get("410").is_some(),
            name == "deliverMessage"
        );
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[test]
fn no_part_overwrites_another_and_every_reference_leads_somewhere() {
    let leaves = |value: &Value| value.to_string().matches(':').count();
    // A member that another one overwrites would be missing.
    let parts = PARTS.map(|part| serde_json::from_str::<Value>(part).unwrap());
    let shared = [
        "paths",
        "components",
        "parameters",
        "headers",
        "responses",
        "schemas",
    ];
    let twice = parts.iter().enumerate().any(|(at, one)| {
        parts[at + 1..]
            .iter()
            .any(|other| overlap(one, other, &shared))
    });
    assert!(!twice);
    assert!(leaves(&DOCUMENT) > 0);
    check_references(&DOCUMENT);
}

/// Whether both have a member of the same name outside the shared containers.
fn overlap(one: &Value, other: &Value, shared: &[&str]) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return false;
    };
    one.iter().any(|(key, value)| match other.get(key) {
        None => false,
        Some(same) => !shared.contains(&key.as_str()) || overlap(value, same, shared),
    })
}

fn check_references(value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let found = DOCUMENT.pointer(reference.strip_prefix('#').unwrap());
                assert!(found.is_some(), "{reference}");
            }
            members.values().for_each(check_references);
        }
        Value::Array(elements) => elements.iter().for_each(check_references),
        _ => {}
    }
}

#[test]
fn its_bounds_are_the_codes() {
    let schemas = &DOCUMENT["components"]["schemas"];
    let is = |pointer: &str, bound: Value| {
        assert_eq!(schemas.pointer(pointer), Some(&bound), "{pointer}");
    };
    is("/SessionId/maxLength", json!(MAX_SESSION_ID_CHARS));
    is("/HttpUrl/maxLength", json!(MAX_URL_BYTES));
    is("/ChannelName/maxLength", json!(MAX_NAME_CHARS));
    is(
        "/ChannelDescription/maxLength",
        json!(MAX_DESCRIPTION_CHARS),
    );
    is("/ChannelTags/maxItems", json!(MAX_TAGS));
    is("/ChannelTags/items/maxLength", json!(MAX_TAG_CHARS));
    is(
        "/Batch/maxItems",
        json!(crate::messages::batch::MAX_MESSAGES),
    );
    let id = format!("^[A-Za-z0-9._~-]{{1,{MAX_CHANNEL_ID}}}$");
    is("/ChannelId/pattern", json!(id));
    is("/MessageKind/enum", json!(MessageKind::ALL));
    is("/State/enum", json!(State::ALL));
    let states = State::ALL.map(StateFilter::Is);
    let states = states.iter().chain([&StateFilter::Taken]);
    is("/StateFilter/enum", json!(states.collect::<Vec<_>>()));
    is("/WaitReason/enum", json!(WaitReason::ALL));
    is("/DeadKind/enum", json!(kinds()));
    let problems: Vec<_> = Kind::ALL.iter().map(|kind| kind.urn()).collect();
    let distinct: BTreeSet<_> = problems.iter().collect();
    assert_eq!(distinct.len(), problems.len(), "two problems share a type");
    is("/ProblemType/enum", json!(problems));
    is(
        "/NewApiKey/properties/name/maxLength",
        json!(key::MAX_NAME_CHARS),
    );
    let channels = "/NewApiKey/properties/channels/anyOf/0/maxItems";
    is(channels, json!(key::MAX_CHANNELS));
    let rate = "/NewApiKey/properties/rate_per_second/maximum";
    is(rate, json!(key::MAX_RATE));
    is("/KeyRole/enum", json!(KeyRole::ALL));
    let skips = "/Replay/properties/progress/properties/skips/maxItems";
    is(skips, json!(MAX_NAMED_SKIPS));
    let settings = schemas["DeliverySettings"]["properties"]
        .as_object()
        .unwrap();
    // The keys that the code reads; it refuses any other.
    let known = serde_json::to_value(settings.keys().collect::<Vec<_>>()).unwrap();
    assert_eq!(
        known,
        json!([
            "timeout",
            "max_in_flight",
            "rate_per_second",
            "retry_schedule",
            "answer_within",
            "content_retention",
            "paused"
        ])
    );
}

/// Every kind of reason. A new kind fails to compile until it is listed here.
fn kinds() -> Vec<DeadKind> {
    use DeadKind::{
        AttemptsExhausted, BadEndpoint, DeliveryLimit, EndpointRefused, Expired, Refused, TooOld,
        Undecodable, UnknownChannel,
    };
    let after = |kind| match kind {
        AttemptsExhausted => Some(TooOld),
        TooOld => Some(Expired),
        Expired => Some(Refused),
        Refused => Some(UnknownChannel),
        UnknownChannel => Some(BadEndpoint),
        BadEndpoint => Some(EndpointRefused),
        EndpointRefused => Some(Undecodable),
        Undecodable => Some(DeliveryLimit),
        DeliveryLimit => None,
    };
    std::iter::successors(Some(AttemptsExhausted), |kind| after(*kind)).collect()
}
