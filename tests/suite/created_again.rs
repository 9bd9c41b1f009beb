//! A channel that is deleted and created again: a message belongs to the channel that it was
//! accepted for.

use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use roundtrip_broker::Route;
use roundtrip_model::ChannelId;
use serde_json::{Value, json};

on_both_setups! {
    waiting_messages_do_not_go_to_the_next_channel_of_the_id,
    a_message_of_an_earlier_version_is_delivered,
    the_next_channel_of_an_id_does_not_take_the_earlier_ones_answers,
}

/// From an earlier version, without the `uid` of its channel.
const EARLIER: &[u8] = br#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"c","session_id":"s","message":"m","response_url":"http://localhost/webhook-response"}"#;

async fn dead(gateway: &TestGateway, count: usize) -> anyhow::Result<Vec<Value>> {
    wait::until(format!("{count} dead letters"), async || {
        let answer = gateway.get("/dead-letters?channel_id=c").await.ok()?;
        let letters = answer.json()["dead_letters"].as_array()?.clone();
        (letters.len() == count).then_some(letters)
    })
    .await
}

async fn waiting_messages_do_not_go_to_the_next_channel_of_the_id(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let earlier = ScriptedServer::start(|_| Reply::ok()).await?;
    let later = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?
        .env("ROUNDTRIP__STORE__CACHE_TTL", "100ms")
        .env("ROUNDTRIP__DISPATCHER__PAUSED_PARK", "1s");
    let gateway = plan.start().await?;
    gateway.register("c", &earlier.url()).await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    // Until the dispatcher knows of the pause, in whichever process.
    wait::until("a message that waits", async || {
        gateway.send("c", "probe").await.ok()?;
        let list = gateway
            .get("/messages?channel_id=c&state=queued")
            .await
            .ok()?;
        let waiting = list.json()["messages"].as_array()?.len();
        (waiting >= 2).then_some(())
    })
    .await?;
    let list = gateway.get("/messages?channel_id=c&state=queued").await?;
    let waiting = list.json()["messages"].as_array().map_or(0, Vec::len);

    gateway
        .request(Method::DELETE, "/channel/c", &[], "")
        .await?
        .expect(204)?;
    gateway.register("c", &later.url()).await?;
    let new = gateway.send("c", "new").await?;
    let taken = later.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), new);
    let letters = dead(&gateway, waiting).await?;
    for letter in &letters {
        assert_eq!(letter["reason"]["kind"], "unknown_channel", "{letter}");
    }
    assert_eq!(later.taken().len(), 1);

    // A replay means the channel that has the id now.
    let all = json!({"channel_id": "c"}).to_string();
    gateway
        .post("/dead-letters/replay", all)
        .await?
        .expect(202)?;
    later.taken_at_least(1 + waiting).await?;
    gateway.finish(&[&earlier, &later]).await
}

async fn a_message_of_an_earlier_version_is_delivered(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let id: ChannelId = "c".parse()?;
    let message = "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    gateway
        .slip_in(Route::Outbound(&id), message, EARLIER)
        .await?;
    let taken = channel.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), message);
    gateway.finish(&[&channel]).await
}

async fn the_next_channel_of_an_id_does_not_take_the_earlier_ones_answers(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let earlier = ScriptedServer::start(|_| Reply::ok()).await?;
    let later = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?
        .env("ROUNDTRIP__CALLBACK_AUTH", "signed")
        .start()
        .await?;
    let delivered_to = async |channel: &ScriptedServer| {
        gateway.register("c", &channel.url()).await?;
        // A dispatcher may still have the earlier channel in its cache.
        wait::until("a delivery", async || {
            gateway.send("c", "abc123").await.ok()?;
            channel
                .taken()
                .first()
                .map(|taken| taken.field("response_url"))
        })
        .await
    };
    let answer = async |response_url: &str| {
        let url = url::Url::parse(response_url)?;
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let answer = gateway.post(&path, r#"{"session_id":"abc123","response_data":"hi"}"#);
        anyhow::Ok(answer.await?.status)
    };
    let of_the_earlier = delivered_to(&earlier).await?;
    gateway
        .request(Method::DELETE, "/channel/c", &[], "")
        .await?
        .expect(204)?;
    let of_the_later = delivered_to(&later).await?;
    assert_eq!(answer(&of_the_earlier).await?, 401);
    assert_eq!(answer(&of_the_later).await?, 202);
    gateway
        .finish_unaccounted("an answer to an earlier channel is refused")
        .await
}
