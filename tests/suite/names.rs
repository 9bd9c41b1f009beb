//! Channels' names with default settings: the machine's own configuration resolves them. Each case
//! runs in a network namespace with its own configuration.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use harness::{
    apart::{self, NAMESERVER},
    dns::{NameServer, Record},
    gateway::{Plan, Role, Setup},
    procfs,
    scripted::{Reply, ScriptedServer},
    wait,
};

/// The channel server's address.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Names whose nameserver never answers, as any channel may have.
const SLOW: &str = ".slow.example";
const SLOW_NAMES: usize = 120;
/// Well above the threads of an idle gateway, and well below one for each of these names.
const MAX_THREADS: usize = 64;

/// Names found by the machine's configuration: in `/etc/hosts`, as `hooks` in a search domain, and
/// only at the second nameserver.
const LISTED: &str = "listed.example";
const SEARCHED: &str = "hooks.corp.example";
const MOVED: &str = "moved.example";

/// A channel server that keeps no connection, so that each attempt resolves the name again.
async fn channel() -> anyhow::Result<ScriptedServer> {
    ScriptedServer::start(|_: &_| Reply::ok().header("connection", "close")).await
}

/// The records of one known name; other names have none.
fn at(known: &str, name: &str) -> Vec<Record> {
    let found = (name == known).then_some(Record::Address(HERE));
    found.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_names_take_no_threads_and_delay_no_other() -> anyhow::Result<()> {
    if apart::passed_values::<()>()?.is_none() {
        let case = "unanswered_names_take_no_threads_and_delay_no_other";
        return apart::run_again(module_path!(), case).await;
    }
    let speaks = Arc::new(AtomicBool::new(false));
    let spoken = Arc::clone(&speaks);
    let dns = NameServer::start_at(NAMESERVER, move |name, _| {
        if name.ends_with(SLOW) && !spoken.load(Ordering::SeqCst) {
            return vec![Record::Silence];
        }
        vec![Record::Address(HERE)]
    })
    .await?;
    let channel = channel().await?;
    let mut gateway = Plan::new(Setup::Embedded)?
        .production()
        .env("ROUNDTRIP__DISPATCHER__WEBHOOK__CONNECT_TIMEOUT", "1s")
        .schedule(&["200ms"; 60].join(","))
        .start()
        .await?;
    let url = |name: &str| format!("http://{name}:{}/", channel.port());
    let slow = |number: usize| format!("c{number}{SLOW}");
    for number in 0..SLOW_NAMES {
        let name = slow(number);
        gateway.register(&name, &url(&name)).await?;
        gateway.send(&name, "s").await?;
    }
    wait::until("every name to be asked for", async || {
        let all = (0..SLOW_NAMES).all(|number| dns.asked(&slow(number)) > 0);
        all.then_some(())
    })
    .await?;
    let pid = gateway.process(Role::All)?.pid().context("it has ended")?;
    let threads = procfs::threads(pid)?;
    assert!(threads <= MAX_THREADS, "{threads} threads");

    gateway.register("good", &url("hooks.good.example")).await?;
    gateway.send("good", "s").await?;
    channel.taken_at_least(1).await?;
    speaks.store(true, Ordering::SeqCst);
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_resolved_by_the_machines_current_settings() -> anyhow::Result<()> {
    if apart::passed_values::<()>()?.is_none() {
        let case = "a_name_is_resolved_by_the_machines_current_settings";
        return apart::run_again(module_path!(), case).await;
    }
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), NAMESERVER.port()));
    let first = NameServer::start_at(NAMESERVER, |name, _| at(SEARCHED, name)).await?;
    let second = NameServer::start_at(other, |name, _| at(MOVED, name)).await?;
    let set_up = |nameserver: IpAddr| {
        let text = format!("search corp.example\nnameserver {nameserver}\n");
        fs::write("/etc/resolv.conf", text)
    };
    set_up(NAMESERVER.ip())?;
    let hosts = format!("127.0.0.1 localhost\n{HERE} {LISTED}\n");
    fs::write("/etc/hosts", hosts)?;
    let channel = channel().await?;
    let gateway = Plan::new(Setup::Embedded)?
        .production()
        .schedule(&["200ms"; 60].join(","))
        .start()
        .await?;
    for (count, host) in (1..).zip([LISTED, "hooks"]) {
        let url = format!("http://{host}:{}/", channel.port());
        gateway.register(host, &url).await?;
        gateway.send(host, "s").await?;
        channel.taken_at_least(count).await?;
    }
    assert_eq!(first.asked(LISTED), 0, "it is listed in /etc/hosts");
    assert!(first.asked(SEARCHED) > 0);

    // Only the second nameserver has this name.
    let url = format!("http://{MOVED}:{}/", channel.port());
    gateway.register("moved", &url).await?;
    gateway.send("moved", "s").await?;
    wait::until("the first nameserver to be asked", async || {
        (first.asked(MOVED) > 0).then_some(())
    })
    .await?;
    set_up(other.ip())?;
    channel.taken_at_least(3).await?;
    assert!(second.asked(MOVED) > 0);
    gateway.finish(&[&channel]).await.map(drop)
}
