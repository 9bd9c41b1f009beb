//! `/metrics`: what an operator's Prometheus reads from the operations port.

use std::{collections::BTreeMap, fs};

use anyhow::Context;
use harness::{
    child::root,
    gateway::{Accounted, Plan, Role, Setup, TestGateway},
    openmetrics::Scrape,
    scripted::{Received, Reply},
    wait,
};
use serde_json::json;
use time::{OffsetDateTime, macros::datetime};
use tokio_util::sync::CancellationToken;

on_both_setups! {
    the_page_of_the_metrics_lists_each_of_them_and_no_other,
    the_counts_are_those_of_what_was_sent,
    the_depth_of_a_queue_that_is_not_worked_is_shown,
    no_label_holds_what_a_client_wrote,
    the_end_of_the_first_key_is_shown,
}

/// The sums over all processes.
async fn scrape(gateway: &mut TestGateway) -> anyhow::Result<Scrape> {
    let mut all = Scrape::default();
    for role in gateway.roles() {
        all.add(gateway.scrape(role).await?);
    }
    Ok(all)
}

/// A sample's name, some of its labels, and its value.
type Count<'a> = (&'a str, &'a [(&'a str, &'a str)], u32);

/// Waits until each of these samples has its value.
async fn until_counted(gateway: &mut TestGateway, expected: &[Count<'_>]) -> anyhow::Result<()> {
    let mut wrong = String::new();
    let counted = wait::until("the metrics to count", async || {
        let scrape = scrape(gateway).await.ok()?;
        let is_wrong = |(name, labels, value): &&Count<'_>| {
            scrape.value(name, labels) != Some(f64::from(*value))
        };
        let first = expected.iter().find(is_wrong);
        wrong = first.map_or_else(String::new, |(name, labels, value)| {
            let found = scrape.value(name, labels);
            format!("{name} {labels:?}: {found:?} instead of {value}")
        });
        first.is_none().then_some(())
    });
    counted.await.context(wrong)
}

/// The name of each metric of the page, with its type and its labels.
fn documented() -> anyhow::Result<BTreeMap<String, (String, Vec<String>)>> {
    let page = fs::read_to_string(root().join("docs/metrics.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _meaning] = cells[..] else {
            anyhow::bail!("not four columns: {line}");
        };
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let mut labels: Vec<String> = labels.map(plain).collect();
        labels.sort();
        Ok((plain(name), (kind.to_owned(), labels)))
    });
    rows.collect()
}

async fn the_page_of_the_metrics_lists_each_of_them_and_no_other(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::answering("1"))
        .await?;
    gateway.send("c", "s").await?;
    sessions.taken_at_least(1).await?;
    let scrape = scrape(&mut gateway).await?;
    let (documented, shown) = (documented()?, scrape.families());
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        shown.keys().collect::<Vec<_>>()
    );
    for (name, family) in shown {
        let (kind, labels) = &documented[&name];
        assert_eq!(*kind, family.kind, "{name}");
        let found: Vec<&str> = family.labels().into_iter().collect();
        // A gauge of the other setup has no sample.
        assert!(found.is_empty() || found == *labels, "{name}: {found:?}");
    }
    gateway.finish(&[&channel, &sessions]).await
}

/// Ten messages: six are delivered and answered, three are refused, one fails twice.
async fn the_counts_are_those_of_what_was_sent(setup: Setup) -> anyhow::Result<Accounted> {
    let script = |request: &Received| match &*request.field("session_id") {
        "refused" => Reply::status(422),
        "failing" => Reply::status(500),
        _ => Reply::answering("1"),
    };
    let plan = Plan::new(setup)?.schedule("100ms");
    let (mut gateway, channel, sessions) = plan.start_with_servers(script).await?;
    gateway.send_many("c", 6).await?;
    for session in ["refused", "refused", "refused", "failing"] {
        gateway.send("c", session).await?;
    }
    gateway.post("/channel/message", "{}").await?.expect(422)?;
    gateway.until_dead("c", 4).await?;
    sessions.taken_at_least(6).await?;
    let posted = [("route", "/channel/message"), ("method", "POST")];
    let accepted = [&posted[..], &[("status", "202")]].concat();
    let refused = [&posted[..], &[("status", "422")]].concat();
    let expected: &[Count<'_>] = &[
        ("roundtrip_http_requests_total", &accepted, 10),
        ("roundtrip_http_requests_total", &refused, 1),
        ("roundtrip_http_request_duration_seconds_count", &posted, 11),
        ("roundtrip_accepted_total", &[("kind", "message")], 10),
        ("roundtrip_accepted_total", &[("kind", "answer")], 6),
        (
            "roundtrip_accept_duration_seconds_count",
            &[("kind", "message")],
            10,
        ),
        (
            "roundtrip_publishes_total",
            &[("queue", "outbound"), ("result", "confirmed")],
            10,
        ),
        (
            "roundtrip_attempts_total",
            &[("role", "delivery"), ("result", "delivered")],
            6,
        ),
        (
            "roundtrip_attempts_total",
            &[("role", "delivery"), ("result", "refused")],
            3,
        ),
        (
            "roundtrip_attempts_total",
            &[("role", "delivery"), ("result", "failed")],
            2,
        ),
        ("roundtrip_attempts_total", &[("role", "forward")], 6),
        (
            "roundtrip_attempt_duration_seconds_count",
            &[("role", "delivery")],
            11,
        ),
        (
            "roundtrip_accept_to_delivery_seconds_count",
            &[("role", "delivery")],
            6,
        ),
        (
            "roundtrip_accept_to_delivery_seconds_count",
            &[("role", "forward")],
            6,
        ),
        ("roundtrip_accept_to_answer_seconds_count", &[], 6),
        (
            "roundtrip_settlements_total",
            &[("queue", "outbound"), ("decision", "done")],
            6,
        ),
        (
            "roundtrip_settlements_total",
            &[("queue", "outbound"), ("decision", "retry")],
            1,
        ),
        (
            "roundtrip_settlements_total",
            &[("queue", "outbound"), ("decision", "dead")],
            4,
        ),
        (
            "roundtrip_dead_letters_total",
            &[("queue", "outbound"), ("reason", "refused")],
            3,
        ),
        (
            "roundtrip_dead_letters_total",
            &[("queue", "outbound"), ("reason", "attempts_exhausted")],
            1,
        ),
        ("roundtrip_in_flight", &[("role", "delivery")], 0),
    ];
    until_counted(&mut gateway, expected).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn the_depth_of_a_queue_that_is_not_worked_is_shown(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const MESSAGES: u32 = 9;
    let gate = CancellationToken::new();
    let closed = gate.clone();
    let plan = Plan::new(setup)?.env("ROUNDTRIP__DISPATCHER__CONCURRENCY", 1);
    let (mut gateway, channel) = plan
        .start_with_channel(move |_| Reply::ok().after(closed.clone()))
        .await?;
    // One process has every role: one message is being delivered, and one more is received.
    let waiting = if setup == Setup::Embedded {
        MESSAGES - 2
    } else {
        gateway.stop(Role::Dispatcher).await?;
        MESSAGES
    };
    gateway.send_many("c", usize::try_from(MESSAGES)?).await?;
    let outbound = [("queue", "outbound")];
    let queued = [("state", "queued")];
    wait::until("the depth and the age of the queue", async || {
        let scrape = gateway.scrape(Role::Ingress).await.ok()?;
        let ready = scrape.value("roundtrip_queue_ready_messages", &outbound);
        let oldest = scrape.value("roundtrip_oldest_message_age_seconds", &queued);
        let head = scrape.value("roundtrip_queue_head_age_seconds", &outbound);
        let is_aged = head > Some(0.0) || setup == Setup::Servers;
        let is_shown = ready == Some(f64::from(waiting)) && oldest > Some(0.0) && is_aged;
        is_shown.then_some(())
    })
    .await?;
    gate.cancel();
    if setup == Setup::Servers {
        gateway.process(Role::Dispatcher)?.restart().await?;
    }
    until_counted(
        &mut gateway,
        &[
            ("roundtrip_queue_ready_messages", &outbound, 0),
            ("roundtrip_oldest_message_age_seconds", &queued, 0),
        ],
    )
    .await?;
    gateway.finish(&[&channel]).await
}

async fn no_label_holds_what_a_client_wrote(setup: Setup) -> anyhow::Result<Accounted> {
    const WRITTEN: &str = "written-by-a-client";
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.register(WRITTEN, &channel.url()).await?;
    gateway.send(WRITTEN, WRITTEN).await?;
    gateway.get(&format!("/{WRITTEN}")).await?.expect(404)?;
    gateway
        .get(&format!("/channel/{WRITTEN}"))
        .await?
        .expect(200)?;
    gateway.all_taken(&[&channel]).await?;
    let requests = "roundtrip_http_requests_total";
    until_counted(
        &mut gateway,
        &[
            (
                requests,
                &[("route", "other"), ("method", "other"), ("status", "404")],
                1,
            ),
            (
                requests,
                &[("route", "/channel/{channel_id}"), ("status", "200")],
                1,
            ),
        ],
    )
    .await?;
    for role in gateway.roles() {
        let text = gateway.metrics(role).await?;
        assert!(!text.contains(WRITTEN), "{role}: {text}");
    }
    gateway.finish(&[&channel]).await
}

async fn the_end_of_the_first_key_is_shown(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start().await?;
    for (name, end) in [
        ("later", "2099-01-02T00:00:00Z"),
        ("first", "2099-01-01T00:00:00Z"),
    ] {
        let key = json!({"name": name, "role": "viewer", "expires_at": end});
        gateway.post("/api-keys", key).await?.expect(201)?;
    }
    let first = datetime!(2099-01-01 0:00 UTC) - OffsetDateTime::UNIX_EPOCH;
    let ends = "roundtrip_api_key_expiry_timestamp_seconds";
    until_counted(
        &mut gateway,
        &[(ends, &[], u32::try_from(first.whole_seconds())?)],
    )
    .await?;
    gateway.finish(&[]).await
}

/// Only servers can be away.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_or_a_store_that_is_away_is_seen() -> anyhow::Result<()> {
    let (plan, broker) = Plan::new(Setup::Servers)?.broker_by_proxy().await?;
    let (plan, store) = plan.store_by_proxy().await?;
    let (mut gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let ready = ["roundtrip_broker_ready", "roundtrip_store_ready"];
    let connections = ("roundtrip_rabbitmq_connections", [("purpose", "publish")]);
    let connects = "roundtrip_rabbitmq_connects_total";
    let until = async |gateway: &mut TestGateway, what: &str, is_so: &dyn Fn(&Scrape) -> bool| {
        wait::until(what, async || {
            let scrape = gateway.scrape(Role::Ingress).await.ok()?;
            is_so(&scrape).then_some(())
        })
        .await
    };
    let not_confirmed = |scrape: &Scrape| -> f64 {
        let counted = ["unavailable", "unconfirmed"]
            .map(|result| scrape.value("roundtrip_publishes_total", &[("result", result)]));
        counted.into_iter().flatten().sum()
    };
    until(&mut gateway, "both to be there", &|scrape| {
        ready
            .iter()
            .all(|name| scrape.value(name, &[]) == Some(1.0))
            && scrape.value(connections.0, &connections.1) == Some(1.0)
    })
    .await?;
    // From now on the ingress knows the channel without the store.
    gateway.send("c", "before").await?;
    gateway.all_taken(&[&channel]).await?;
    broker.refuse();
    store.refuse();
    let answer = gateway.post(
        "/channel/message",
        json!({"channel_id": "c", "session_id": "s", "message": 1}),
    );
    answer.await?.expect(503)?;
    until(&mut gateway, "both to be away", &|scrape| {
        ready
            .iter()
            .all(|name| scrape.value(name, &[]) == Some(0.0))
            && scrape.value(connections.0, &connections.1) == Some(0.0)
            && scrape.value(connects, &[("purpose", "publish"), ("result", "failed")]) > Some(0.0)
            && not_confirmed(scrape) > 0.0
            && scrape.value(
                "roundtrip_store_operations_total",
                &[("result", "unavailable")],
            ) > Some(0.0)
            && scrape
                .value("roundtrip_queue_ready_messages", &[])
                .is_none()
    })
    .await?;
    broker.resume();
    store.resume();
    until(&mut gateway, "both to be back", &|scrape| {
        let connected = [("purpose", "publish"), ("result", "connected")];
        ready
            .iter()
            .all(|name| scrape.value(name, &[]) == Some(1.0))
            && scrape.value(connects, &connected) >= Some(2.0)
            && scrape.value("roundtrip_queue_ready_messages", &[("queue", "outbound")]) == Some(0.0)
    })
    .await?;
    gateway.send("c", "after").await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
