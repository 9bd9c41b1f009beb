//! What is sent beside the load of a fault run: inbound messages, and messages that a channel refuses,
//! of which the operator gets a notice each.
//!
//! Invariant: each refused message has a channel of its own. So every one must be named by a notice,
//! and none shares a notice with another.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use reqwest::Client;
use roundtrip_model::State;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    account::{self, End, Ended},
    http::{Peer, plain_client},
    loader::{Accepted, Progress},
    scripted::{Reply, ScriptedServer},
    stack::{Plan, Stack},
    tally::Tally,
};

/// So many messages of the load go with one inbound message and one refused message.
const MESSAGES_A_STEP: u64 = 25;

/// The most steps of a run: each has a channel of its own.
const MAX_STEPS: u64 = 200;

/// The wait before a refused post is repeated, and between two looks at what is awaited.
const PAUSE: Duration = Duration::from_millis(50);

const POST_LIMIT: Duration = Duration::from_secs(10);

/// The servers of what is sent beside the load.
pub(super) struct Beside {
    client: Client,
    refusing: ScriptedServer,
    notices: ScriptedServer,
    steps: u64,
    /// The inbound messages that the sessions server has.
    pub(super) heard: Arc<Tally>,
    key: String,
}

/// What the gateway accepted beside the load.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) inbound: Vec<Accepted>,
    pub(super) refused: Vec<Accepted>,
}

impl Beside {
    pub(super) async fn start(run: &str, messages: u64) -> anyhow::Result<Self> {
        let steps = (messages / MESSAGES_A_STEP).min(MAX_STEPS);
        let inbound = usize::try_from(steps)?;
        Ok(Self {
            client: plain_client()?,
            refusing: ScriptedServer::start_without_record(|_| Reply::status(400)).await?,
            notices: ScriptedServer::start(|_| Reply::ok()).await?,
            steps,
            heard: Arc::new(Tally::new(&format!("{run}-inbound"), inbound)),
            key: String::new(),
        })
    }

    /// The plan of a gateway that posts notices here.
    pub(super) fn noticing(&self, mut plan: Plan) -> Plan {
        let url = ("ROUNDTRIP__NOTICES__URL".to_owned(), self.notices.url());
        plan.env.push(url);
        plan
    }

    /// Registers the channels of the refused messages, and makes the key of the inbound ones.
    pub(super) async fn register(
        &mut self,
        stack: &Stack,
        inbound_channel: &str,
    ) -> anyhow::Result<()> {
        for step in 0..self.steps {
            let body = json!({
                "channel_id": channel(step),
                "channel_name": "A channel that refuses",
                "channel_metadata": {"endpoint_url": self.refusing.url()},
            });
            self.post_once(&stack.url("/channel"), "", &body).await?;
        }
        let body = json!({"name": "inbound", "role": "channel", "channels": [inbound_channel]});
        let key = self.post_once(&stack.url("/api-keys"), "", &body).await?;
        let key = key["key"].as_str().context("no key")?;
        self.key = format!("Bearer {key}");
        Ok(())
    }

    /// Sends one of each kind after each step of the load, until it is accepted.
    pub(super) async fn send(
        &self,
        stack_url: &str,
        inbound_channel: &str,
        progress: &Progress,
        sent: &mut Sent,
    ) -> anyhow::Result<()> {
        for step in 0..self.steps {
            while progress.accepted.load(Ordering::Acquire) < step * MESSAGES_A_STEP {
                sleep(PAUSE).await;
            }
            let inbound = json!({"session_id": self.heard.session(step), "data": "Hello"});
            let url = format!("{stack_url}/channel/{inbound_channel}/inbound");
            sent.inbound.push(self.post(&url, step, &inbound).await?);
            let refused = json!({
                "channel_id": channel(step), "session_id": "refused", "message": "Hello",
            });
            let url = format!("{stack_url}/channel/message");
            sent.refused.push(self.post(&url, step, &refused).await?);
        }
        Ok(())
    }

    /// Repeats a post until it is accepted.
    async fn post(&self, url: &str, step: u64, body: &Value) -> anyhow::Result<Accepted> {
        let id = format!("inbound-{step}");
        loop {
            if let Ok(accepted) = self.post_once(url, &id, body).await {
                let id = accepted["message_id"].as_str().context("no message_id")?;
                let id = id.to_owned();
                return Ok(Accepted { message: step, id });
            }
            sleep(PAUSE).await;
        }
    }

    async fn post_once(&self, url: &str, webhook_id: &str, body: &Value) -> anyhow::Result<Value> {
        let mut request = self.client.post(url).timeout(POST_LIMIT);
        if !webhook_id.is_empty() {
            request = request.header("webhook-id", webhook_id);
        }
        if url.ends_with("/inbound") {
            request = request.header("authorization", &self.key);
        }
        let request = request.header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{url} was met with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// The messages that have no final state by the deadline: inbound ones that the sessions server does
    /// not have, and refused ones that are not dead.
    pub(super) async fn lost(&self, ingress: &Peer, sent: &Sent, deadline: Instant) -> Vec<String> {
        let settle =
            |sent: &[Accepted]| account::settle(ingress, sent.to_vec(), End::Forwarded, deadline);
        let mut lost = Vec::new();
        for Ended { message, state } in settle(&sent.inbound).await {
            let is_heard = self.heard.arrived_at(message.message).is_some();
            if !(state == Some(State::Forwarded) && is_heard || state == Some(State::Dead)) {
                lost.push(message.id);
            }
        }
        for Ended { message, state } in settle(&sent.refused).await {
            if state != Some(State::Dead) {
                lost.push(message.id);
            }
        }
        lost
    }

    /// The refused messages of which no notice came before the deadline.
    pub(super) async fn unnoticed(&self, refused: &[Accepted], deadline: Instant) -> Vec<String> {
        loop {
            let noticed: BTreeSet<String> = self
                .notices
                .taken()
                .iter()
                .filter_map(|notice| {
                    let body: Value = serde_json::from_str(&notice.body).ok()?;
                    let is_dead = body["type"] == "message.dead";
                    is_dead.then(|| body["data"]["channel_id"].as_str().map(ToOwned::to_owned))?
                })
                .collect();
            let missing = refused
                .iter()
                .filter(|message| !noticed.contains(&channel(message.message)));
            let missing: Vec<_> = missing.map(|message| message.id.clone()).collect();
            if missing.is_empty() || Instant::now() >= deadline {
                return missing;
            }
            sleep(PAUSE).await;
        }
    }
}

/// The channel of a step's refused message.
fn channel(step: u64) -> String {
    format!("refusing-{step}")
}
