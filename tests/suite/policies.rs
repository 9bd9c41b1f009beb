//! An operator's policies in RabbitMQ: what the gateway's own policies prevent, and what the check
//! through the management API reports without them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use harness::{
    gateway::{Plan, Role, Setup},
    management::Management,
    test_namespace::server_url,
    wait::{WAIT_LIMIT, until},
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use reqwest::Method;
use roundtrip_broker::{Config, Queue, SharedBroker, Status};
use roundtrip_model::{Decision, SystemClock};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    contract::broker::patient,
    rabbitmq::{next, publish, refused, until_ready},
};

/// The definitions file that the compose file and the kustomization load.
const SHIPPED: &str = include_str!("../../k8s/with-servers/rabbitmq-definitions.json");

/// A queue that is not the gateway's.
const OTHER_QUEUE: &str = "other";

/// A virtual host of its own, so that a policy on everything affects no other test.
struct Vhost {
    name: String,
    management: Management,
    config: Config,
}

impl Vhost {
    async fn make() -> anyhow::Result<Self> {
        let management = Management::from_environment()?;
        let name = format!("t-{}", Uuid::now_v7().simple());
        let mut url = server_url("TEST_AMQP_URL")?;
        url.set_path(&name);
        let vhost = ["vhosts", &name];
        management.call(Method::PUT, &vhost, &json!({})).await?;
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let permission = ["permissions", &name, url.username()];
        management
            .call(Method::PUT, &permission, &everything)
            .await?;
        let config = Config {
            url: url.into(),
            management_url: Some(management.url.to_string()),
            ..patient()
        };
        Ok(Self {
            name,
            management,
            config,
        })
    }

    async fn open(&self) -> anyhow::Result<SharedBroker> {
        let broker = roundtrip_broker::open(&self.config, Arc::new(SystemClock)).await?;
        until("a broker that is ready", async || {
            (broker.status() == Status::Ready).then_some(())
        })
        .await?;
        Ok(broker)
    }

    /// A policy that an operator meant for other queues.
    async fn policy_on_everything(&self, definition: &Value) -> anyhow::Result<()> {
        let policy = json!({"pattern": ".*", "apply-to": "all", "definition": definition});
        let name = "everything";
        self.management.set_policy(&self.name, name, &policy).await
    }

    /// Loads the shipped definitions.
    async fn shield(&self) -> anyhow::Result<()> {
        let mut definitions: Value = serde_json::from_str(SHIPPED)?;
        for policy in definitions["policies"].as_array_mut().context("a list")? {
            policy["vhost"] = json!(self.name);
        }
        let path = ["definitions"];
        self.management
            .call(Method::POST, &path, &definitions)
            .await
    }

    async fn other_client(&self) -> anyhow::Result<(Connection, Channel)> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.config.url, properties).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Fills a queue that is not the gateway's, to show what the policy does.
    async fn fill_the_other_queue(&self, messages: u32) -> anyhow::Result<()> {
        let (_connection, channel) = self.other_client().await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(OTHER_QUEUE.into(), durable, FieldTable::default())
            .await?;
        for _ in 0..messages {
            let (options, properties) =
                (BasicPublishOptions::default(), BasicProperties::default());
            channel
                .basic_publish("".into(), OTHER_QUEUE.into(), options, b"{}", properties)
                .await?;
        }
        Ok(())
    }

    /// Waits until the other queue has at most this many messages, or is gone.
    async fn until_the_other_queue_has(&self, at_most: u32) -> anyhow::Result<()> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        until("the policy to act on another queue", async || {
            // A missing queue closes the channel.
            let (_connection, channel) = self.other_client().await.ok()?;
            let asking = channel.queue_declare(OTHER_QUEUE.into(), passive, FieldTable::default());
            match asking.await {
                Ok(queue) => (queue.message_count() <= at_most).then_some(()),
                Err(_) => Some(()),
            }
        })
        .await
    }

    /// Waits until the other queue is gone. Declaring it would count as a use and keep it.
    async fn until_the_other_queue_is_gone(&self) -> anyhow::Result<()> {
        let (_connection, channel) = self.other_client().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        until("the policy to delete another queue", async || {
            let properties = BasicProperties::default();
            let published =
                channel.basic_publish("".into(), OTHER_QUEUE.into(), options, b"{}", properties);
            let confirmed = published.await.ok()?.await.ok()?;
            matches!(confirmed, Confirmation::Ack(Some(_))).then_some(())
        })
        .await
    }

    async fn leave(self, broker: SharedBroker) -> anyhow::Result<()> {
        broker.close().await;
        self.remove().await
    }

    async fn remove(self) -> anyhow::Result<()> {
        let vhost = ["vhosts", &self.name];
        self.management
            .call(Method::DELETE, &vhost, &Value::Null)
            .await
    }
}

/// A broker under the gateway's policies and a policy on everything.
async fn shielded(definition: Value) -> anyhow::Result<(Vhost, SharedBroker)> {
    let vhost = Vhost::make().await?;
    vhost.shield().await?;
    vhost.policy_on_everything(&definition).await?;
    let broker = vhost.open().await?;
    Ok((vhost, broker))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_gateways_policies_a_policy_that_deletes_queues_loses_no_retry()
-> anyhow::Result<()> {
    let definition = json!({"expires": 500});
    let (vhost, broker) = shielded(definition).await?;
    publish(&broker).await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    let retry = Decision::RetryAfter(Duration::from_secs(3));
    next(&mut consumer).await?.settle(retry).await?;
    vhost.fill_the_other_queue(1).await?;
    vhost.until_the_other_queue_is_gone().await?;
    let again = next(&mut consumer).await?;
    ensure!(again.message().attempts == 1, "{again:?}");
    again.settle(Decision::Done).await?;
    ensure!(broker.warnings().is_empty(), "{:?}", broker.warnings());
    vhost.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_gateways_policies_a_policy_that_expires_messages_loses_none() -> anyhow::Result<()>
{
    let definition = json!({"message-ttl": 500});
    let (vhost, broker) = shielded(definition).await?;
    for _ in 0..2 {
        publish(&broker).await?;
    }
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    next(&mut consumer).await?.settle(refused()).await?;
    drop(consumer);
    vhost.fill_the_other_queue(1).await?;
    vhost.until_the_other_queue_has(0).await?;
    until_ready(&broker, Queue::Outbound, 1).await?;
    until_ready(&broker, Queue::OutboundDead, 1).await?;
    vhost.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_gateways_policies_a_policy_that_bounds_queues_drops_no_dead_letter()
-> anyhow::Result<()> {
    const LETTERS: u16 = 10;
    let definition = json!({"max-length": 2, "overflow": "drop-head"});
    let (vhost, broker) = shielded(definition).await?;
    vhost.fill_the_other_queue(LETTERS.into()).await?;
    vhost.until_the_other_queue_has(2).await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    for _ in 0..LETTERS {
        publish(&broker).await?;
        next(&mut consumer).await?.settle(refused()).await?;
    }
    until_ready(&broker, Queue::OutboundDead, LETTERS.into()).await?;
    vhost.leave(broker).await
}

/// With the arguments of the dead queues alone: a dead letter that does not fit waits for room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_on_a_dead_queue_drops_no_dead_letter() -> anyhow::Result<()> {
    const LETTERS: u16 = 10;
    let vhost = Vhost::make().await?;
    let dead_queues = json!({
        "pattern": "\\.dead$",
        "apply-to": "queues",
        "definition": {"max-length": 2},
    });
    vhost
        .management
        .set_policy(&vhost.name, "dead", &dead_queues)
        .await?;
    let broker = vhost.open().await?;
    let mut consumer = broker.consume(Queue::Outbound, LETTERS).await?;
    let mut settling = FuturesUnordered::new();
    for _ in 0..LETTERS {
        publish(&broker).await?;
        settling.push(next(&mut consumer).await?.settle(refused()));
    }
    // Two are in their queue, perhaps a third; the others are refused and retried.
    for _ in 0..2 {
        timeout(WAIT_LIMIT, settling.next())
            .await?
            .context("a letter")??;
    }
    let receiving = async {
        let mut dead_letters = broker.consume(Queue::OutboundDead, 1).await?;
        for _ in 0..LETTERS {
            next(&mut dead_letters)
                .await?
                .settle(Decision::Done)
                .await?;
        }
        anyhow::Ok(())
    };
    let settled = async {
        while let Some(settled) = settling.next().await {
            settled?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(receiving, settled)?;
    vhost.leave(broker).await
}

#[rstest]
#[case::expires(json!({"expires": 60_000}), "sets expires on")]
#[case::max_length(json!({"max-length": 5}), "sets max-length on")]
#[case::message_ttl(json!({"message-ttl": 60_000}), "sets message-ttl on")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_breaks_a_promise_is_reported_within_a_minute(
    #[case] definition: Value,
    #[case] words: &str,
) -> anyhow::Result<()> {
    let vhost = Vhost::make().await?;
    let broker = vhost.open().await?;
    vhost.policy_on_everything(&definition).await?;
    until("a warning that names the policy", async || {
        let named = |warning: &String| {
            warning.starts_with("policy \"everything\"") && warning.contains(words)
        };
        broker.warnings().iter().any(named).then_some(())
    })
    .await?;
    // The gateway's own policies end it.
    vhost.shield().await?;
    until("no warning", async || {
        broker.warnings().is_empty().then_some(())
    })
    .await?;
    vhost.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_shows_a_policy_that_breaks_a_promise_and_stays_ready() -> anyhow::Result<()> {
    let vhost = Vhost::make().await?;
    vhost
        .policy_on_everything(&json!({"expires": 60_000}))
        .await?;
    let mut gateway = Plan::new(Setup::Embedded)?
        .env("BROKER_URL", &vhost.config.url)
        .env("ROUNDTRIP__BROKER__MANAGEMENT_URL", &vhost.management.url)
        .prepare()
        .await?;
    gateway.start(Role::Recorder).await?;
    until("a warning on /readyz", async || {
        let (status, readiness) = gateway.ready(Role::Recorder).await.ok()?;
        let warning = readiness["warnings"][0].as_str()?;
        (status == 200 && warning.contains("policy \"everything\"")).then_some(())
    })
    .await?;
    let ended = gateway.finish_unaccounted("nothing was accepted");
    ended.await.map(drop)?;
    vhost.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_management_api_is_reported_without_its_password() -> anyhow::Result<()> {
    let mut vhost = Vhost::make().await?;
    let mut url = vhost.management.url.clone();
    // A URL with a host takes a password.
    let _ = url.set_password(Some("secret"));
    vhost.config.management_url = Some(url.into());
    let broker = vhost.open().await?;
    let warning = until("a warning", async || broker.warnings().into_iter().next()).await?;
    ensure!(
        warning.contains("broker.management_url") && !warning.contains("secret"),
        "{warning}"
    );
    vhost.leave(broker).await
}
