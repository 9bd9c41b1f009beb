//! Bad input: a problem document names the field, and nothing is enqueued.

use harness::gateway::{Accounted, Plan, Setup};
use reqwest::Method;
use serde_json::Value;

on_both_setups! {
    bad_input_is_named_and_nothing_is_enqueued,
    good_input_is_enqueued,
}

/// A request, and the expected status and field of its answer.
struct Bad {
    method: Method,
    path: &'static str,
    body: String,
    status: u16,
    field: Option<&'static str>,
}

fn post(
    path: &'static str,
    body: impl Into<String>,
    status: u16,
    field: impl Into<Option<&'static str>>,
) -> Bad {
    Bad {
        method: Method::POST,
        path,
        body: body.into(),
        status,
        field: field.into(),
    }
}

fn request(method: Method, path: &'static str, status: u16) -> Bad {
    Bad {
        method,
        path,
        body: String::new(),
        status,
        field: None,
    }
}

/// One byte more than the default limit of a body.
fn too_long() -> String {
    let start = r#"{"channel_id":"known","session_id":"s","message":""#;
    let end = r#""}"#;
    let filling = (1 << 20) + 1 - start.len() - end.len();
    format!("{start}{}{end}", "x".repeat(filling))
}

fn bad_messages() -> Vec<Bad> {
    let bad = |body: &str, status, field| post("/channel/message", body, status, field);
    vec![
        bad("", 400, None),
        bad("{", 400, None),
        bad(
            r#"{"channel_id":"known","session_id":"s","message":"m",}"#,
            400,
            None,
        ),
        bad("[]", 422, Some("body")),
        bad(
            r#"{"session_id":"s","message":"m"}"#,
            422,
            Some("channel_id"),
        ),
        bad(
            r#"{"channel_id":"known","message":"m"}"#,
            422,
            Some("session_id"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"s"}"#,
            422,
            Some("message"),
        ),
        bad(
            r#"{"channel_id":7,"session_id":"s","message":"m"}"#,
            422,
            Some("channel_id"),
        ),
        bad(
            r#"{"channel_id":"a/b","session_id":"s","message":"m"}"#,
            422,
            Some("channel_id"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":["s"],"message":"m"}"#,
            422,
            Some("session_id"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"","message":"m"}"#,
            422,
            Some("session_id"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"s","message":null}"#,
            422,
            Some("message"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"s","message":""}"#,
            422,
            Some("message"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"s","message":"m","response_url":"/here"}"#,
            422,
            Some("response_url"),
        ),
        bad(
            r#"{"channel_id":"known","session_id":"s","message":"m","reponse_url":"http://h/"}"#,
            422,
            Some("reponse_url"),
        ),
        bad(
            r#"{"channel_id":"unknown","session_id":"s","message":"m"}"#,
            404,
            None,
        ),
        post("/channel/message", too_long(), 413, None),
    ]
}

fn bad_operations() -> Vec<Bad> {
    let get = |path, field: &'static str| Bad {
        field: Some(field),
        ..request(Method::GET, path, 422)
    };
    let purge = |path, field: &'static str| Bad {
        field: Some(field),
        ..request(Method::DELETE, path, 422)
    };
    let dead = |body: &str, field: &'static str| post("/dead-letters/replay", body, 422, field);
    let again = |body: &str, field: &'static str| post("/messages/replay", body, 422, field);
    vec![
        get("/messages?limit=0", "limit"),
        get("/messages?limit=1001", "limit"),
        get("/messages?state=nonsense", "state"),
        get("/messages?since=yesterday", "since"),
        get("/messages?cursor=nonsense", "cursor"),
        get("/messages?chanel_id=c", "chanel_id"),
        get("/dead-letters?queue=nonsense", "queue"),
        get("/dead-letters?reason=nonsense", "reason"),
        get("/dead-letters?all=true", "all"),
        purge("/dead-letters", "all"),
        purge("/dead-letters?channel_id=a/b", "channel_id"),
        purge("/dead-letters?all=true&limit=5", "limit"),
        request(Method::GET, "/channel/message/nonsense", 404),
        request(
            Method::GET,
            "/channel/message/msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f",
            404,
        ),
        request(Method::GET, "/replays/nonsense", 404),
        request(
            Method::DELETE,
            "/replays/rpl_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f",
            404,
        ),
        dead(r#"{"queue":"journal"}"#, "queue"),
        dead(r#"{"chanel_id":"c"}"#, "chanel_id"),
        dead(r#"{"ids":[]}"#, "ids"),
        dead(r#"{"rate_per_second":0}"#, "rate_per_second"),
        post("/dead-letters/replay", "{", 400, None),
        again("{}", "body"),
        again(r#"{"ids":["nonsense"]}"#, "ids[0]"),
        again(r#"{"channel_id":"c","dry_run":"yes"}"#, "dry_run"),
        post("/channel/messages", "[", 400, None),
        post("/channel/messages", "[]", 422, "body"),
        post("/channel/messages", "{}", 422, "body"),
        request(Method::GET, "/channel/messages", 405),
    ]
}

fn bad_others() -> Vec<Bad> {
    vec![
        post("/webhook-response", "{", 400, None),
        post(
            "/webhook-response",
            r#"{"response_data":1}"#,
            422,
            "session_id",
        ),
        post(
            "/webhook-response",
            r#"{"session_id":"s"}"#,
            422,
            "response_data",
        ),
        post(
            "/webhook-response",
            r#"{"session_id":7,"response_data":1}"#,
            422,
            "session_id",
        ),
        post("/channel", "nonsense", 400, None),
        post(
            "/channel",
            r#"{"channel_id":"c"}"#,
            422,
            "channel_metadata.endpoint_url",
        ),
        post(
            "/channel",
            r#"{"channel_id":"message","channel_metadata":{"endpoint_url":"http://h/"}}"#,
            422,
            "channel_id",
        ),
        post(
            "/channel",
            r#"{"channel_id":"c","channel_metadata":{"endpoint_url":"ftp://h/"}}"#,
            422,
            "channel_metadata.endpoint_url",
        ),
        post("/channels", "{", 400, None),
        post("/channels", r#"{"$where":"sleep(1000)"}"#, 422, "$where"),
        post(
            "/channels",
            r#"{"channel_name":{"$function":{}}}"#,
            422,
            "channel_name.$function",
        ),
        request(Method::GET, "/no/such/path", 404),
        request(Method::GET, "/channel/unknown", 404),
        request(Method::DELETE, "/channel/message", 405),
        request(Method::GET, "/webhook-response", 405),
        request(Method::PATCH, "/channels", 405),
    ]
}

async fn bad_input_is_named_and_nothing_is_enqueued(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.ingress_only().start().await?;
    gateway.register("known", "http://127.0.0.1:9/").await?;
    let bad = bad_messages().into_iter().chain(bad_others());
    for bad in bad.chain(bad_operations()) {
        let mut shown = format!("{} {} {}", bad.method, bad.path, bad.body);
        shown.truncate(120);
        let json = [("content-type", "application/json")];
        let answer = gateway
            .request(bad.method, bad.path, &json, bad.body)
            .await?;
        assert_eq!(answer.status, bad.status, "{shown}: {}", answer.text);
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{shown}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], bad.status, "{shown}: {problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{shown}: {problem}");
        }
        let fields: Vec<_> = problem["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|error| &error["field"])
            .collect();
        assert_eq!(
            fields,
            bad.field.map(Value::from).iter().collect::<Vec<_>>(),
            "{shown}: {problem}"
        );
    }
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

/// Proves that the count in the case above can rise.
async fn good_input_is_enqueued(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.ingress_only().start().await?;
    gateway.register("known", "http://127.0.0.1:9/").await?;
    gateway.send("known", "s").await?;
    let answer = r#"{"session_id":"s","response_data":1}"#;
    gateway
        .post("/webhook-response", answer)
        .await?
        .expect(202)?;
    assert_eq!(gateway.enqueued().await?, 2);
    gateway
        .finish_unaccounted("nothing but the ingress ran")
        .await
}
