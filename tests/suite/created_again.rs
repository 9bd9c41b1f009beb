//! A channel that is deleted and created again: a message belongs to the channel that it was
//! accepted for.

use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Reply, ScriptedServer},
    wait,
};
use roundtrip_broker::Route;
use roundtrip_model::ChannelId;
use serde_json::json;

on_both_setups! {
    waiting_messages_do_not_go_to_the_next_channel_of_the_id,
    a_message_of_an_earlier_version_is_delivered,
    the_next_channel_of_an_id_does_not_take_the_earlier_ones_answers,
}

/// From an earlier version, without the `uid` of its channel.
const EARLIER: &[u8] = br#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"c","session_id":"s","message":"m","response_url":"http://localhost/webhook-response"}"#;

async fn waiting_messages_do_not_go_to_the_next_channel_of_the_id(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let later = ScriptedServer::start(|_| Reply::ok()).await?;
    let (gateway, earlier) = Plan::new(setup)?
        .env("ROUNDTRIP__STORE__CACHE_TTL", "100ms")
        .env("ROUNDTRIP__DISPATCHER__PAUSED_PARK", "1s")
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    // The dispatcher may be another process, which reads the pause later.
    let mut sent = 0;
    let waiting = wait::until("messages that wait", async || {
        gateway.send("c", "probe").await.ok()?;
        sent += 1;
        let list = gateway.get("/messages?channel_id=c&state=waiting").await;
        let waiting = list.ok()?.json()["messages"].as_array()?.len();
        // A message that is in neither place yet would be counted later.
        (waiting >= 2 && waiting + earlier.taken().len() == sent).then_some(waiting)
    })
    .await?;

    gateway.delete("/channel/c").await?.expect(204)?;
    gateway.register("c", &later.url()).await?;
    let new = gateway.send("c", "new").await?;
    let taken = later.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), new);
    for letter in gateway.until_dead("c", waiting).await? {
        assert_eq!(letter["reason"]["kind"], "unknown_channel", "{letter}");
    }
    assert_eq!(later.taken().len(), 1);

    // A replay means the channel that has the id now.
    let all = json!({"channel_id": "c"});
    let replay = gateway.post("/dead-letters/replay", all).await?;
    replay.expect(202)?;
    later.taken_at_least(1 + waiting).await?;
    gateway.finish(&[&earlier, &later]).await
}

async fn a_message_of_an_earlier_version_is_delivered(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id: ChannelId = "c".parse()?;
    let message = "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    let route = Route::Outbound(&id);
    gateway.slip_in(route, message, EARLIER).await?;
    let taken = channel.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), message);
    gateway.finish(&[&channel]).await
}

async fn the_next_channel_of_an_id_does_not_take_the_earlier_ones_answers(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let earlier = ScriptedServer::start(|_| Reply::ok()).await?;
    let later = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.env("ROUNDTRIP__CALLBACK_AUTH", "signed");
    let gateway = plan.start().await?;
    let delivered_to = async |channel: &ScriptedServer| {
        gateway.register("c", &channel.url()).await?;
        // A dispatcher may still have the earlier channel in its cache.
        wait::until("a delivery", async || {
            gateway.send("c", "abc123").await.ok()?;
            channel.taken().first()?.response_path().ok()
        })
        .await
    };
    let answer = r#"{"session_id":"abc123","response_data":"hi"}"#;
    let of_the_earlier = delivered_to(&earlier).await?;
    gateway.delete("/channel/c").await?.expect(204)?;
    let of_the_later = delivered_to(&later).await?;
    gateway.post(&of_the_earlier, answer).await?.expect(401)?;
    gateway.post(&of_the_later, answer).await?.expect(202)?;
    let reason = "an answer to an earlier channel is refused";
    gateway.finish_unaccounted(reason).await
}
