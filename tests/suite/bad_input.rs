//! Bad input: a problem document names the field, and nothing is enqueued.

use harness::gateway::{Accounted, Plan, Setup};
use serde_json::{Value, json};

on_both_setups! {
    bad_input_is_named_and_nothing_is_enqueued,
    good_input_is_enqueued,
}

/// The status of the response, the field that it names (`-` for none), and the request.
const BAD: &str = r#"
400 - POST /channel/message
400 - POST /channel/message {
400 - POST /channel/message {"channel_id":"known","session_id":"s","message":"m",}
422 body POST /channel/message []
422 channel_id POST /channel/message {"session_id":"s","message":"m"}
422 session_id POST /channel/message {"channel_id":"known","message":"m"}
422 message POST /channel/message {"channel_id":"known","session_id":"s"}
422 channel_id POST /channel/message {"channel_id":7,"session_id":"s","message":"m"}
422 channel_id POST /channel/message {"channel_id":"a/b","session_id":"s","message":"m"}
422 session_id POST /channel/message {"channel_id":"known","session_id":["s"],"message":"m"}
422 session_id POST /channel/message {"channel_id":"known","session_id":"","message":"m"}
422 message POST /channel/message {"channel_id":"known","session_id":"s","message":null}
422 message POST /channel/message {"channel_id":"known","session_id":"s","message":""}
422 response_url POST /channel/message {"channel_id":"known","session_id":"s","message":"m","response_url":"/here"}
422 reponse_url POST /channel/message {"channel_id":"known","session_id":"s","message":"m","reponse_url":"http://h/"}
422 deliver_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","deliver_at":"tomorrow"}
422 deliver_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","deliver_at":"2100-01-01T00:00:00"}
422 deliver_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","deliver_at":"2999-01-01T00:00:00Z"}
422 expires_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","expires_at":1795000000}
422 expires_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","expires_at":"2020-01-01T00:00:00Z"}
422 expires_at POST /channel/message {"channel_id":"known","session_id":"s","message":"m","expires_at":"2999-01-01T00:00:00Z"}
422 answer_within POST /channel/message {"channel_id":"known","session_id":"s","message":"m","answer_within":2}
422 answer_within POST /channel/message {"channel_id":"known","session_id":"s","message":"m","answer_within":"2"}
422 answer_within POST /channel/message {"channel_id":"known","session_id":"s","message":"m","answer_within":"999ms"}
422 answer_within POST /channel/message {"channel_id":"known","session_id":"s","message":"m","answer_within":"8days"}
422 answer_within POST /channel/message {"channel_id":"known","session_id":"s","message":"m","answer_within":"2s","response_url":"http://elsewhere.example/"}
404 - POST /channel/message {"channel_id":"unknown","session_id":"s","message":"m"}

422 limit GET /messages?limit=0
422 limit GET /messages?limit=1001
422 state GET /messages?state=nonsense
422 since GET /messages?since=yesterday
422 cursor GET /messages?cursor=nonsense
422 chanel_id GET /messages?chanel_id=c
422 queue GET /dead-letters?queue=nonsense
422 reason GET /dead-letters?reason=nonsense
422 all GET /dead-letters?all=true
422 all DELETE /dead-letters
422 channel_id DELETE /dead-letters?channel_id=a/b
422 limit DELETE /dead-letters?all=true&limit=5
404 - GET /channel/message/nonsense
404 - GET /channel/message/msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f
404 - GET /replays/nonsense
404 - POST /replays/rpl_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f/cancel
422 queue POST /dead-letters/replay {"queue":"journal"}
422 chanel_id POST /dead-letters/replay {"chanel_id":"c"}
422 ids POST /dead-letters/replay {"ids":[]}
422 rate_per_second POST /dead-letters/replay {"rate_per_second":0}
400 - POST /dead-letters/replay {
422 body POST /messages/replay {}
422 ids[0] POST /messages/replay {"ids":["nonsense"]}
422 dry_run POST /messages/replay {"channel_id":"c","dry_run":"yes"}
422 body POST /answers/replay {}
422 ids POST /answers/replay {"ids":[]}
422 ids[0] POST /answers/replay {"ids":["msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f"]}
422 since POST /answers/replay {"since":"yesterday"}
422 rate_per_second POST /answers/replay {"session_id":"s","rate_per_second":0}
422 state POST /answers/replay {"session_id":"s","state":"forwarded"}
400 - POST /channel/messages [
422 body POST /channel/messages []
422 body POST /channel/messages {}
405 - GET /channel/messages

400 - POST /webhook-response {
422 session_id POST /webhook-response {"response_data":1}
422 response_data POST /webhook-response {"session_id":"s"}
422 session_id POST /webhook-response {"session_id":7,"response_data":1}
400 - POST /channel nonsense
422 channel_metadata.endpoint_url POST /channel {"channel_id":"c"}
422 channel_id POST /channel {"channel_id":"message","channel_metadata":{"endpoint_url":"http://h/"}}
422 channel_metadata.endpoint_url POST /channel {"channel_id":"c","channel_metadata":{"endpoint_url":"ftp://h/"}}
422 channel_metadata.delivery.answer_within POST /channel {"channel_id":"c","channel_metadata":{"endpoint_url":"http://h/","delivery":{"answer_within":"0s"}}}
400 - POST /channels {
422 $where POST /channels {"$where":"sleep(1000)"}
422 channel_name.$function POST /channels {"channel_name":{"$function":{}}}
404 - GET /no/such/path
404 - GET /channel/unknown
405 - DELETE /channel/message
405 - GET /webhook-response
405 - PATCH /channels
"#;

/// The line of a body that has one byte more than the default limit.
fn too_long() -> String {
    let start = r#"{"channel_id":"known","session_id":"s","message":""#;
    let end = r#""}"#;
    let filling = "x".repeat((1 << 20) + 1 - start.len() - end.len());
    format!("413 - POST /channel/message {start}{filling}{end}")
}

async fn bad_input_is_named_and_nothing_is_enqueued(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start_ingress().await?;
    gateway.register("known", "http://127.0.0.1:9/").await?;
    let too_long = too_long();
    let lines = BAD.lines().filter(|line| !line.is_empty());
    for line in lines.chain([&*too_long]) {
        let shown = &line[..line.len().min(120)];
        let mut parts = line.splitn(5, ' ');
        let mut next = || parts.next().unwrap_or_default();
        let (status, field, method, path, body) = (next(), next(), next(), next(), next());
        let refused = gateway.request(method.parse()?, path, &[], body).await?;
        assert_eq!(
            refused.status.to_string(),
            status,
            "{shown}: {}",
            refused.text
        );
        let kind = refused.header("content-type");
        assert_eq!(kind, "application/problem+json", "{shown}");
        let problem = refused.json();
        assert_eq!(problem["status"], refused.status, "{shown}: {problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{shown}: {problem}");
        }
        let no_errors = Vec::new();
        let errors = problem["errors"].as_array().unwrap_or(&no_errors);
        let fields: Vec<_> = errors.iter().map(|error| &error["field"]).collect();
        let expected = Value::from(field);
        let expected = (field != "-").then_some(&expected);
        assert_eq!(fields, Vec::from_iter(expected), "{shown}: {problem}");
    }
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

/// Proves that the count in the case above can rise.
async fn good_input_is_enqueued(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start_ingress().await?;
    gateway.register("known", "http://127.0.0.1:9/").await?;
    gateway.send("known", "s").await?;
    let answer = json!({"session_id": "s", "response_data": 1});
    let answer = gateway.post("/webhook-response", answer).await?;
    answer.expect(202)?;
    assert_eq!(gateway.enqueued().await?, 2);
    let reason = "nothing but the ingress ran";
    gateway.finish_unaccounted(reason).await
}
