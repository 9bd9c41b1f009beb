//! Ten failures that were reproduced in a well-known peer and must not happen here. Each has a
//! test; those in other modules are named in the table.
//!
//! | what happened there | what shows that it does not here |
//! |---|---|
//! | behind a 20 s endpoint a message for a fast one waited 16.8 s | `isolation::a_hung_channels_backlog_does_not_stop_a_healthy_one` |
//! | the in-flight cap was soft: 610 of 500 | `isolation::the_cap_on_what_is_under_way_is_hard`; the brokers' contract, `a_window_is_hard` |
//! | the time limit excluded the answer's body: a stalled one was posted again for ever, and a drain never ended | `a_stalled_response_is_one_delivery_and_does_not_delay_the_drain` |
//! | with the queue down a post was stored, and its repeat was refused though nothing was sent | `producers::without_the_broker_no_key_is_remembered` |
//! | a broker restart emptied the queue | `faults::on_rabbitmq_and_mongodb_faults_lose_nothing`; the brokers' contract, `an_unsettled_message_is_delivered_again_after_reopening` |
//! | after a broker restart the consumer never came back | `outages::while_the_broker_is_unavailable_messages_are_refused_and_none_is_lost`; `rabbitmq::a_consumer_outlives_its_queue` |
//! | a nack dropped the task | the brokers' contract, `a_dropped_delivery_is_delivered_again` |
//! | a per-endpoint rate was stored and not enforced | admission, `a_rate_is_enforced` and `messages_over_the_rate_come_back_at_that_rate` |
//! | 429 was retried on the ordinary schedule | `retries::retry_after_is_honoured` |
//! | the HTTP client repeated a dropped request by itself, and one attempt was recorded | `each_dropped_request_is_an_attempt` |

use harness::{
    gateway::{Accounted, Plan, Role, Setup},
    scripted::{Received, Reply},
    wait,
};
use roundtrip_broker::{Queue, Route};
use roundtrip_model::ChannelId;

on_both_setups! {
    a_stalled_response_is_one_delivery_and_does_not_delay_the_drain,
    each_dropped_request_is_an_attempt,
    an_undecodable_message_is_dead_with_its_reason_and_comes_once,
    unreadable_journal_entries_are_kept_and_reported,
}

/// Not UTF-8, and no JSON.
const POISON: &[u8] = b"\xff{ no JSON";

async fn a_stalled_response_is_one_delivery_and_does_not_delay_the_drain(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let script = |request: &Received| match request.field("session_id").as_str() {
        "stalls" => Reply::stall(),
        _ => Reply::ok(),
    };
    let (mut gateway, channel) = Plan::new(setup)?
        .schedule("100ms,100ms")
        .env("ROUNDTRIP__DISPATCHER__WEBHOOK__TIMEOUT", "1s")
        .start_with_channel(script)
        .await?;
    let id = gateway.send("c", "stalls").await?;
    channel.received_at_least(1).await?;
    // It ends cleanly and in time.
    gateway.restart(Role::Dispatcher).await?;
    assert_eq!(gateway.until_delivered(&id).await?.len(), 1);
    // A redelivery would come before this one.
    gateway.send("c", "later").await?;
    assert_eq!(channel.taken_at_least(2).await?.len(), 2);
    assert_eq!(channel.received().len(), 2);
    gateway.finish(&[&channel]).await
}

async fn each_dropped_request_is_an_attempt(setup: Setup) -> anyhow::Result<Accounted> {
    let script = |request: &Received| match request.field("session_id").as_str() {
        "dropped" if request.attempt < 3 => Reply::drop_request(),
        _ => Reply::ok(),
    };
    let (gateway, channel) = Plan::new(setup)?
        .schedule("100ms,100ms,100ms")
        .start_with_channel(script)
        .await?;
    // It leaves a kept-alive connection, on which an HTTP client may repeat a request by itself.
    let first = gateway.send("c", "first").await?;
    gateway.until_delivered(&first).await?;
    let id = gateway.send("c", "dropped").await?;
    let attempts = gateway.until_delivered(&id).await?;
    assert_eq!(attempts.len(), 3, "{attempts:#?}");
    assert_eq!(channel.received().len(), 1 + attempts.len());
    for dropped in &attempts[..2] {
        assert!(dropped["error"].is_string(), "{dropped}");
    }
    assert_eq!(attempts[2]["status"], 200);
    gateway.finish(&[&channel]).await
}

async fn an_undecodable_message_is_dead_with_its_reason_and_comes_once(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id: ChannelId = "c".parse()?;
    for (route, poison) in [
        (Route::Outbound(&id), "msg_poison"),
        (Route::Callbacks, "cb_poison"),
        (Route::Journal, "journal_poison"),
    ] {
        gateway.slip_in(route, poison, POISON).await?;
    }
    let letters = wait::until("two dead letters", async || {
        let list = gateway.get("/dead-letters?reason=undecodable").await.ok()?;
        let letters = list.json()["dead_letters"].as_array()?.clone();
        (letters.len() >= 2).then_some(letters)
    })
    .await?;
    let mut ids: Vec<_> = letters.iter().map(|letter| &letter["webhook_id"]).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, ["cb_poison", "msg_poison"]);
    let of_the_batch = ["cannot be read", "journal_poison"];
    gateway
        .until_logged(Role::Recorder, &of_the_batch, 1)
        .await?;
    // The next message is not affected.
    gateway.send("c", "good").await?;
    gateway.all_taken(&[&channel]).await?;
    for (role, words) in [
        (Role::Dispatcher, ["delivery.not_attempted", "msg_poison"]),
        (Role::Forwarder, ["forward.not_attempted", "cb_poison"]),
        (Role::Recorder, of_the_batch),
    ] {
        assert_eq!(gateway.logged(role, &words), 1, "{words:?}");
    }
    gateway.finish(&[&channel]).await
}

/// A recorder that starts later reports it too: it stays until an operator handles it.
async fn unreadable_journal_entries_are_kept_and_reported(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start().await?;
    gateway.slip_in(Route::Journal, "poison", POISON).await?;
    let first = ["cannot be read", "poison"];
    gateway.until_logged(Role::Recorder, &first, 1).await?;
    // It is in the dead queue before the stop ends.
    gateway.restart(Role::Recorder).await?;
    let later = ["journal.unreadable", "messages=1", "journal.dead"];
    gateway.until_logged(Role::Recorder, &later, 1).await?;
    let kept = gateway.dead_letters(Queue::JournalDead).await?;
    let kept: Vec<_> = kept.iter().map(|message| &message.body[..]).collect();
    assert_eq!(kept, [POISON]);
    gateway.finish(&[]).await
}
