//! What the sessions server and the producer learn about an answer.

use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Received, Reply, forward_body},
};

on_both_setups! {
    answers_of_one_session_in_reverse_order_name_their_messages,
    a_bare_forward_has_the_two_fields_of_the_specification,
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
