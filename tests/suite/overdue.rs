//! Messages whose channel has to answer within a time.

use std::collections::BTreeSet;

use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway, attempts, events},
    scripted::{Received, Reply},
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    exactly_the_messages_without_an_answer_become_overdue,
    a_late_answer_is_marked_and_forwarded,
    no_deadline_is_lost_with_a_killed_process,
    a_message_without_a_limit_is_never_overdue,
    the_limit_of_a_message_precedes_that_of_its_channel,
    a_wait_ends_when_the_message_is_overdue,
    a_replayed_message_has_its_limit_again,
}

const MESSAGES: usize = 40;

/// Sends a message whose answer is due within this time, and returns its id.
async fn send(gateway: &TestGateway, session: &str, within: &str) -> anyhow::Result<String> {
    let message = json!({
        "channel_id": "c", "session_id": session, "message": "m", "answer_within": within
    });
    let accepted = gateway.post("/channel/message", message).await?;
    accepted.expect(202)?.field("message_id")
}

/// Sends many in one call, in the sessions from 0 on, and returns their ids.
async fn send_all(gateway: &TestGateway) -> anyhow::Result<Vec<String>> {
    let message = |number: usize| {
        json!({
            "channel_id": "c", "session_id": number.to_string(), "message": "m",
            "answer_within": "2s"
        })
    };
    let batch: Vec<_> = (0..MESSAGES).map(message).collect();
    let sent = gateway
        .post("/channel/messages", json!(batch))
        .await?
        .expect(200)?
        .json();
    assert_eq!(sent["accepted"], MESSAGES, "{sent}");
    let results = sent["results"].as_array().into_iter().flatten();
    let ids = results.filter_map(|result| result["message_id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Waits until this many messages have the state, and returns their ids.
async fn until_so_many(
    gateway: &TestGateway,
    state: &str,
    count: usize,
) -> anyhow::Result<BTreeSet<String>> {
    let ids = |list: &Value| -> BTreeSet<String> {
        let messages = list["messages"].as_array().into_iter().flatten();
        let ids = messages.filter_map(|message| message["message_id"].as_str());
        ids.map(str::to_owned).collect()
    };
    let path = format!("/messages?limit=1000&state={state}");
    let list = gateway
        .until(&path, |list| ids(list).len() == count)
        .await?;
    Ok(ids(&list))
}

/// Answers the messages of even sessions.
fn half(request: &Received) -> Reply {
    match request.field("session_id").parse::<usize>() {
        Ok(number) if number % 2 == 0 => Reply::answering("1"),
        _ => Reply::ok(),
    }
}

async fn exactly_the_messages_without_an_answer_become_overdue(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(half).await?;
    let ids = send_all(&gateway).await?;
    let overdue = until_so_many(&gateway, "overdue", MESSAGES / 2).await?;
    until_so_many(&gateway, "forwarded", MESSAGES / 2).await?;
    for (number, id) in ids.iter().enumerate() {
        let is_overdue = number % 2 == 1;
        assert_eq!(overdue.contains(id), is_overdue, "{number}");
        let had = |message: &Value| events(message).contains(&"overdue");
        // On MongoDB the state may be ahead of the timeline.
        let message = gateway
            .until_message(id, |message| had(message) == is_overdue)
            .await?;
        assert!(message.get("answer_by").is_none(), "{message}");
    }
    gateway.finish(&[&channel, &sessions]).await
}

/// The answers in a timeline, each with whether it is late.
fn late(message: &Value) -> Vec<bool> {
    let entries = message["timeline"].as_array().into_iter().flatten();
    let answers = entries.filter(|entry| entry["type"] == "answered");
    answers.map(|entry| entry["late"] == true).collect()
}

async fn a_late_answer_is_marked_and_forwarded(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::ok())
        .await?;
    let id = send(&gateway, "s", "1s").await?;
    let message = gateway
        .until_message(&id, |message| events(message).contains(&"overdue"))
        .await?;
    assert_eq!(message["state"], "overdue");
    let timeline = message["timeline"].as_array().into_iter().flatten();
    let overdue: Vec<_> = timeline
        .filter(|entry| entry["type"] == "overdue")
        .collect();
    let due = &attempts(&message)[0]["answer_by"];
    assert_eq!(&overdue[0]["at"], due, "{message}");

    let path = channel.taken_at_least(1).await?[0].response_path()?;
    for (answers, data) in (1..).zip(["1", "2"]) {
        let answer = format!(r#"{{"session_id":"s","response_data":{data}}}"#);
        gateway.post(&path, answer).await?.expect(202)?;
        let message = gateway
            .until_message(&id, |message| {
                message["state"] == "forwarded" && late(message).len() == answers
            })
            .await?;
        assert_eq!(late(&message), vec![true; answers], "{message}");
    }
    sessions.taken_at_least(2).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn no_deadline_is_lost_with_a_killed_process(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        .schedule(&["200ms"; 20].join(","))
        .start_with_channel(|_| Reply::ok())
        .await?;
    let ids = send_all(&gateway).await?;
    channel.received_at_least(MESSAGES / 4).await?;
    for role in [Role::Dispatcher, Role::Recorder] {
        gateway.process(role)?.kill().await?;
        gateway.process(role)?.restart().await?;
    }
    let overdue = until_so_many(&gateway, "overdue", MESSAGES).await?;
    assert_eq!(overdue, ids.into_iter().collect());
    gateway.finish(&[&channel]).await
}

async fn a_message_without_a_limit_is_never_overdue(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let without = gateway.send("c", "s").await?;
    gateway.until_delivered(&without).await?;
    let limited = send(&gateway, "s", "1s").await?;
    gateway.until_state(&limited, "overdue").await?;
    let message = gateway.until_state(&without, "delivered").await?;
    assert!(message.get("answer_by").is_none(), "{message}");
    gateway.finish(&[&channel]).await
}

async fn the_limit_of_a_message_precedes_that_of_its_channel(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let limited = json!({"channel_metadata": {
        "endpoint_url": channel.url(), "delivery": {"answer_within": "1s"}
    }});
    gateway.put("/channel/c", limited).await?.expect(200)?;
    let longer = send(&gateway, "s", "1h").await?;
    let message = gateway
        .until_message(&longer, |message| message["state"] == "delivered")
        .await?;
    assert!(message["answer_by"].is_string(), "{message}");
    let of_channel = gateway.send("c", "s").await?;
    gateway.until_state(&of_channel, "overdue").await?;
    gateway.until_state(&longer, "delivered").await?;
    gateway.finish(&[&channel]).await
}

async fn a_wait_ends_when_the_message_is_overdue(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .env("ROUNDTRIP__INGRESS__MAX_WAIT", "10m")
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id = send(&gateway, "s", "1s").await?;
    let path = format!("/channel/message/{id}?wait=600");
    let polled = gateway.get(&path).await?.expect(200)?;
    assert_eq!(polled.json()["state"], "overdue");
    let message = json!({
        "channel_id": "c", "session_id": "s", "message": "m", "answer_within": "1s"
    });
    let headers = [("prefer", "wait=600")];
    let queued = gateway
        .request(Method::POST, "/channel/message", &headers, message)
        .await?
        .expect(202)?;
    assert_eq!(queued.json()["status"], "queued");
    gateway.finish(&[&channel]).await
}

async fn a_replayed_message_has_its_limit_again(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id = send(&gateway, "s", "1s").await?;
    gateway.until_state(&id, "overdue").await?;
    let filter = json!({"state": "overdue", "channel_id": "c"});
    gateway
        .post("/messages/replay", filter)
        .await?
        .expect(202)?;
    gateway
        .until_message(&id, |message| {
            message["replay_count"] == 1 && message["state"] == "overdue"
        })
        .await?;
    gateway.finish(&[&channel]).await
}
