//! RabbitMQ only: several hosts, and hosts that hang.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use harness::{
    apart::{self, NAMESERVER},
    dns::NameServer,
    proxy::Proxy,
    test_namespace::{remove_namespace, server_url},
};
use roundtrip_broker::{Config, Queue};
use roundtrip_model::{Decision, SystemClock};
use tokio::{net::TcpListener, time::Instant};
use url::Url;
use uuid::Uuid;

use crate::{
    contract::broker::patient,
    rabbitmq::{Place, address, next, receive_all, until_published},
};

/// Two routes to one server, as to two nodes of a cluster. Heartbeats would notice a hung route
/// only after two minutes.
async fn two_ways() -> anyhow::Result<(Place, Proxy)> {
    let mut place = Place::make().await?;
    let other = Proxy::start(address(&place.direct)?).await?;
    let (one, two) = (place.proxy.address(), other.address());
    place.config.url = place
        .config
        .url
        .replace(&one.to_string(), &format!("{one},{two}"));
    Ok((place, other))
}

/// How long a hung node may delay a client. The promise is 5 s; a busy machine gets more.
const HANG_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_is_left_for_another() -> anyhow::Result<()> {
    let (place, other) = two_ways().await?;
    // Both connections use the first route.
    other.refuse();
    let broker = place.open().await?;
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    until_published(&broker).await?;
    next(&mut consumer).await?.settle(Decision::Done).await?;

    other.resume();
    place.proxy.stall();
    let since = Instant::now();
    let published = until_published(&broker).await?;
    let refused = since.elapsed();
    ensure!(refused < HANG_LIMIT, "{refused:?}");
    // RabbitMQ may have delivered it to the silent connection: then it comes after the heartbeat.
    receive_all(&mut consumer, HashSet::from([published])).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_does_not_hold_up_the_start() -> anyhow::Result<()> {
    let (place, _other) = two_ways().await?;
    place.proxy.stall();
    let broker = place.open().await?;
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    let since = Instant::now();
    let published = until_published(&broker).await?;
    receive_all(&mut consumer, HashSet::from([published])).await?;
    ensure!(since.elapsed() < HANG_LIMIT, "{:?}", since.elapsed());
    place.leave(broker).await
}

/// The addresses of a name are tried in ascending order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_whose_first_address_hangs_is_left_for_the_second() -> anyhow::Result<()> {
    const NAME: &str = "rabbitmq.roundtrip.example";
    const HANGS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const WORKS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let Some(passed) = apart::passed_values::<(String, String)>()? else {
        let url = server_url("TEST_AMQP_URL")?;
        let namespace = format!("t-{}", Uuid::now_v7().simple());
        let case = "a_name_whose_first_address_hangs_is_left_for_the_second";
        let value = (url.to_string(), namespace.clone());
        apart::run_again_with(module_path!(), case, address(&url)?, value).await?;
        remove_namespace(url.as_str(), &namespace, 1).await?;
        return Ok(());
    };
    let way_out = passed.way_out().await?;
    let (url, namespace) = passed.value;
    let mut url: Url = url.parse()?;
    let works = Proxy::start_at((WORKS, 0).into(), way_out.address()).await?;
    let port = works.address().port();
    // It accepts connections, and sends nothing.
    let _hangs = TcpListener::bind((HANGS, port)).await?;
    let _dns = NameServer::start_at(NAMESERVER, |name, _| match name {
        NAME => vec![HANGS, WORKS],
        _ => Vec::new(),
    })
    .await?;
    url.set_host(Some(NAME))?;
    // A URL with a host takes a port.
    let _ = url.set_port(Some(port));
    let config = Config {
        url: url.into(),
        namespace,
        ..patient()
    };
    let since = Instant::now();
    let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    let published = until_published(&broker).await?;
    receive_all(&mut consumer, HashSet::from([published])).await?;
    ensure!(since.elapsed() < HANG_LIMIT, "{:?}", since.elapsed());
    broker.close().await;
    Ok(())
}
