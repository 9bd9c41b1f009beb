//! What the sessions server and the producer learn about an answer.

use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Received, Reply, ScriptedServer, failing_once, forward_body},
};
use serde_json::{Value, json};

on_both_setups! {
    answers_of_one_session_in_reverse_order_name_their_messages,
    a_bare_forward_has_the_two_fields_of_the_specification,
    a_message_shows_its_answers_and_what_became_of_them,
    a_long_answer_is_forwarded_whole_and_kept_in_part,
    a_session_shows_its_messages_and_their_answers,
}

const RESPONSE: &str = r#"{"text":"caf\u00e9","n":1.50e300}"#;

/// The headers that tell a forward's kind, message and channel.
fn correlation(forward: &Received) -> [&str; 3] {
    ["kind", "message-id", "channel-id"].map(|name| forward.header(&format!("roundtrip-{name}")))
}

async fn answers_of_one_session_in_reverse_order_name_their_messages(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::ok())
        .await?;
    let mut expected = Vec::new();
    for number in 0..2 {
        let id = gateway.send("c", "abc123").await?;
        channel.taken_at_least(number + 1).await?;
        expected.push(id);
    }
    // As a channel server answers that uses nothing but the `response_url`.
    let deliveries = channel.taken();
    for (number, delivery) in deliveries.iter().enumerate().rev() {
        let answer = format!(r#"{{"session_id":"abc123","response_data":{number}}}"#);
        let path = delivery.response_path()?;
        gateway.post(&path, answer).await?.expect(202)?;
        sessions.taken_at_least(deliveries.len() - number).await?;
    }
    let forwards = sessions.taken();
    for (forward, (number, id)) in forwards.iter().zip(expected.iter().enumerate().rev()) {
        assert_eq!(
            forward.body,
            forward_body("abc123", id, &number.to_string())
        );
        assert_eq!(correlation(forward), ["answer", id, "c"]);
    }
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_bare_forward_has_the_two_fields_of_the_specification(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .env("ROUNDTRIP__FORWARDER__BODY", "bare")
        .start_with_servers(|_| Reply::answering(RESPONSE))
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let forward = &sessions.taken_at_least(1).await?[0];
    let expected = format!(r#"{{"session_id":"abc123","response_data":{RESPONSE}}}"#);
    assert_eq!(forward.body, expected);
    assert_eq!(correlation(forward), ["answer", &id, "c"]);
    gateway.finish(&[&channel, &sessions]).await
}

/// Whether so many answers of a message were forwarded.
fn are_forwarded(message: &Value, count: usize) -> bool {
    let answers = message["answers"].as_array().into_iter().flatten();
    let forwarded = answers.filter(|answer| answer["forward"]["state"] == "forwarded");
    forwarded.count() == count
}

async fn a_message_shows_its_answers_and_what_became_of_them(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = ScriptedServer::start(failing_once(Reply::status(503))).await?;
    let (gateway, channel) = Plan::new(setup)?
        .sessions_server(sessions.url())
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "100ms")
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let path = channel.taken_at_least(1).await?[0].response_path()?;
    let unanswered = gateway.until_message(&id, |message| message["answers"] == json!([]));
    unanswered.await?;
    for (count, data) in [RESPONSE, "null"].into_iter().enumerate() {
        let answer = format!(r#"{{"session_id":"abc123","response_data":{data}}}"#);
        gateway.post(&path, answer).await?.expect(202)?;
        sessions.taken_at_least(count + 1).await?;
    }
    let message = gateway
        .until_message(&id, |message| are_forwarded(message, 2))
        .await?;
    let answers = message["answers"].as_array().into_iter().flatten();
    for ((answer, forward), data) in answers.zip(sessions.taken()).zip([RESPONSE, "null"]) {
        assert_eq!(answer["callback_id"], forward.webhook_id());
        assert_eq!(
            answer["response_data"],
            serde_json::from_str::<Value>(data)?
        );
        assert_eq!(answer["forward"]["attempts"], 2);
        assert_eq!(answer["forward"]["last_attempt"]["status"], 200);
    }
    let read = gateway
        .get(&format!("/channel/message/{id}"))
        .await?
        .expect(200)?;
    // Byte for byte, and once: the timeline does not repeat it.
    assert_eq!(read.text.matches(RESPONSE).count(), 1, "{}", read.text);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_long_answer_is_forwarded_whole_and_kept_in_part(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .env("ROUNDTRIP__INGRESS__MAX_KEPT_ANSWER_BYTES", "10")
        .start_with_servers(|_| Reply::answering(RESPONSE))
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let message = gateway
        .until_message(&id, |message| are_forwarded(message, 1))
        .await?;
    let answer = &message["answers"][0];
    assert_eq!(
        answer["truncated_response_data"],
        json!({"head": &RESPONSE[..10], "bytes": RESPONSE.len()})
    );
    assert_eq!(answer.get("response_data"), None);
    assert_eq!(
        sessions.taken()[0].body,
        forward_body("abc123", &id, RESPONSE)
    );
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_session_shows_its_messages_and_their_answers(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::answering(RESPONSE))
        .await?;
    // A session's id may have any characters.
    let session = "a/b c?ü🚀";
    let path = "/sessions/a%2Fb%20c%3F%C3%BC%F0%9F%9A%80";
    assert_eq!(
        gateway.get(path).await?.expect(200)?.json()["turns"],
        json!([])
    );
    let mut expected = Vec::new();
    for number in 1..3 {
        let id = gateway.send("c", session).await?;
        sessions.taken_at_least(number).await?;
        expected.extend([("message", id.clone()), ("answer", id)]);
    }
    let turns = |page: &Value| page["turns"].as_array().cloned().unwrap_or_default();
    let all = gateway.until(path, |page| turns(page).len() == 4).await?;
    let said = turns(&all);
    let said: Vec<_> = said
        .iter()
        .map(|turn| {
            let text = |field: &str| turn[field].as_str().unwrap_or_default();
            (text("type"), text("message_id").to_owned())
        })
        .collect();
    assert_eq!(said, expected);
    assert_eq!(turns(&all)[0]["message"], format!("Hello, {session}!"));
    assert_eq!(
        turns(&all)[1]["response_data"],
        serde_json::from_str::<Value>(RESPONSE)?
    );
    let first = gateway.get(&format!("{path}?limit=3")).await?.expect(200)?;
    let cursor = first.field("next_cursor")?;
    let next = format!("{path}?limit=3&cursor={cursor}");
    let rest = gateway.get(&next).await?.expect(200)?.json();
    assert_eq!(turns(&rest), turns(&all)[3..]);
    assert_eq!(rest["next_cursor"], Value::Null);
    gateway.finish(&[&channel, &sessions]).await
}
