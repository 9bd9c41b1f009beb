//! The fault run: messages are posted while processes and the broker are killed, connections cut,
//! the store is unavailable and endpoints fail; then every accepted message is accounted for, every
//! inbound message, and the notice of every refused message.
//!
//! Invariant: every fault happens during live traffic. A gate holds the loader until the fault is
//! over, so the load neither ends before it nor pauses for it. A killed process is restarted only
//! after messages were accepted (or refused) without it.

mod beside;
mod draw;
mod inflict;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use roundtrip_model::State;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    account::{self, End},
    counting::CountingServer,
    loader::{self, Progress},
    servers::Server,
    stack::{Engines, IN_FLIGHT, Plan, Stack},
    tally::Tally,
    test_namespace::TestNamespace,
};

use self::{
    beside::{Beside, Sent},
    inflict::{Proxies, Victims},
};

pub use self::draw::Fault;

/// How many channels the messages are for.
const CHANNELS: usize = 8;

/// The messages that each fault needs, as a multiple of the messages in flight.
const MESSAGES_A_FAULT: usize = 3 * IN_FLIGHT;

/// How many ids of lost messages a report names.
const NAMED: usize = 10;

/// The longest delay of the channel server's answers, so that many follow a fault.
const LATEST_ANSWER: Duration = Duration::from_secs(3);

/// Short waits, so that the run ends in time, of which the longer ones are in the store; and no
/// configured token secret, so that tokens from before a kill are valid only if the gateway keeps its
/// generated secret.
const PATIENCE: [(&str, &str); 6] = [
    ("CALLBACK_SECRET", ""),
    ("ROUNDTRIP__DISPATCHER__WAIT_IN_STORE_AFTER", "3s"),
    (
        "ROUNDTRIP__DISPATCHER__RETRY__SCHEDULE",
        "1s,1s,1s,5s,5s,5s,5s,5s,5s,5s,5s,5s",
    ),
    ("ROUNDTRIP__DISPATCHER__BREAKER__MAX_WAIT", "4s"),
    ("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "1s,5s"),
    ("ROUNDTRIP__FORWARDER__BREAKER__MAX_WAIT", "4s"),
];

/// The settings of a fault run.
#[derive(Debug)]
pub struct FaultPlan {
    pub stack: Plan,
    pub messages: usize,
    pub faults: usize,
    /// Whether all of them are SIGKILLs of the gateway's processes.
    pub kills_only: bool,
    pub seed: u64,
    /// The time limit on the run.
    pub limit: Duration,
    /// RabbitMQ's node, to be killed too; none on the embedded engines.
    pub broker: Option<Server>,
}

/// The result of a fault run.
#[derive(Debug, Clone)]
pub struct FaultReport {
    pub seed: u64,
    /// The faults in order, each with the number of messages accepted before it.
    pub faults: Vec<(Fault, u64)>,
    /// Messages that were answered 202.
    pub accepted: u64,
    /// Messages that a channel received.
    pub delivered: u64,
    /// Messages whose timeline ends with a forwarded answer, which the sessions server has.
    pub forwarded: u64,
    /// Answers that the gateway rejected.
    pub refused_answers: u64,
    /// Messages whose timeline ends as dead.
    pub dead: u64,
    /// The ids of the other accepted messages, inbound ones included.
    pub lost: Vec<String>,
    /// Inbound messages that were answered 202.
    pub inbound: u64,
    /// Messages that their channels refused, of which a notice must come.
    pub refused: u64,
    /// The ids of those of which none came.
    pub unnoticed: Vec<String>,
    /// Deliveries beyond each message's first.
    pub duplicate_deliveries: u64,
    /// Answers beyond each message's first.
    pub duplicate_forwards: u64,
    /// Posts that were not answered 202 and were made again.
    pub repeated_posts: u64,
    /// From the first post until each message was accounted for.
    pub took: Duration,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, accepted) in &self.faults {
            writeln!(f, "{fault:<34}after {accepted:>6} accepted messages")?;
        }
        let mut kinds: BTreeMap<Fault, u64> = BTreeMap::new();
        for (fault, _) in &self.faults {
            *kinds.entry(*fault).or_default() += 1;
        }
        writeln!(f)?;
        for (fault, times) in kinds {
            writeln!(f, "{fault:<34}{times:>6}")?;
        }
        let counts = [
            ("faults", self.faults.len() as u64),
            ("accepted", self.accepted),
            ("delivered", self.delivered),
            ("answered and forwarded", self.forwarded),
            ("answers that were refused", self.refused_answers),
            ("dead", self.dead),
            ("inbound messages", self.inbound),
            ("refused messages", self.refused),
            ("lost", self.lost.len() as u64),
            (
                "refused messages without a notice",
                self.unnoticed.len() as u64,
            ),
            ("duplicate deliveries", self.duplicate_deliveries),
            ("duplicate forwards", self.duplicate_forwards),
            ("posts that were made again", self.repeated_posts),
        ];
        for (name, count) in counts {
            writeln!(f, "{name:<34}{count:>6}")?;
        }
        for id in self.lost.iter().take(NAMED) {
            writeln!(f, "lost: {id}")?;
        }
        for id in self.unnoticed.iter().take(NAMED) {
            writeln!(f, "without a notice: {id}")?;
        }
        writeln!(
            f,
            "{:<34}{:>6.1}",
            "seconds in all",
            self.took.as_secs_f64()
        )?;
        write!(f, "{:<34}{:>6}", "seed", self.seed)
    }
}

/// Executes the run.
pub async fn run(mut plan: FaultPlan) -> anyhow::Result<FaultReport> {
    ensure!(
        plan.messages >= (plan.faults + 1) * MESSAGES_A_FAULT,
        "{} faults need {} messages at the least",
        plan.faults,
        (plan.faults + 1) * MESSAGES_A_FAULT
    );
    let messages = plan.messages as u64;
    let run = plan.stack.name.clone();
    let delivered = Arc::new(Tally::new(&run, plan.messages));
    let forwarded = Arc::new(Tally::new(&run, plan.messages));
    let channels = CountingServer::start(Arc::clone(&delivered)).await?;
    channels.answer_within(LATEST_ANSWER);
    let sessions = CountingServer::start(Arc::clone(&forwarded)).await?;
    let mut beside = Beside::start(&run, messages).await?;
    sessions.also_count_into(Arc::clone(&beside.heard));

    let (engines, proxies) = by_proxies(plan.stack.engines.clone()).await?;
    let mut stack = Stack::new(Plan {
        engines,
        sessions_server: sessions.url(),
        ..beside.noticing(plan.stack.defaults(&PATIENCE))
    })?;
    stack.start_all().await?;
    let ids = stack.register(CHANNELS, &[channels.url()]).await?;
    beside.register(&stack, &ids[0]).await?;
    let url = stack.url("");
    let load = stack.load(&delivered, &ids, plan.limit);

    let progress = Arc::new(Progress::keeping_ids());
    let (gate, gated) = watch::channel(0);
    let since = Instant::now();
    let deadline = since + plan.limit;
    let roles = stack.roles();
    let kinds = if plan.kills_only {
        draw::kills(roles)
    } else {
        draw::every_kind(roles, proxies.is_some())
    };
    let drawn = draw::draw(plan.seed, plan.faults, messages, &kinds);
    let victims = Victims {
        stack: &mut stack,
        broker: plan.broker.as_mut(),
        proxies: proxies.as_ref(),
        channels: &channels,
        channel_ids: &ids,
        sessions: &sessions,
        progress: &progress,
        gate,
        messages,
        meanwhile: (messages / (2 * plan.faults.max(1) as u64)).max(2 * IN_FLIGHT as u64),
    };
    let mut faults = Vec::new();
    let mut sent = Sent::default();
    let run = timeout_at(deadline, async {
        tokio::try_join!(
            loader::post_gated(&load, &progress, &gated),
            victims.inflict(&drawn, &mut faults),
            beside.send(&url, &ids[0], &progress, &mut sent),
        )
    });
    let (loaded, (), ()) = run.await.with_context(|| {
        let accepted = progress.accepted.load(Ordering::Acquire);
        format!("the limit passed with {accepted} messages accepted and the faults {faults:?}")
    })??;

    let accepted = progress.accepted_ids();
    let ended = account::settle(&load.address, accepted, End::Forwarded, deadline).await;
    let took = since.elapsed();
    let unnoticed = beside.unnoticed(&sent.refused, deadline).await;
    let arrived = |message| forwarded.arrived_at(message).is_some();
    let mut lost = beside.lost(&load.address, &sent, deadline).await;
    let (mut at_sessions, mut dead) = (0, 0);
    for account::Ended { message, state } in ended {
        match state {
            Some(State::Forwarded) if arrived(message.message) => at_sessions += 1,
            Some(State::Dead) => dead += 1,
            _ => lost.push(message.id),
        }
    }
    stack.audit().take_in(channels.audit());
    stack.stop_all().await?;
    Ok(FaultReport {
        seed: plan.seed,
        faults,
        accepted: progress.accepted.load(Ordering::Acquire),
        delivered: delivered.distinct(),
        forwarded: at_sessions,
        refused_answers: channels.refused(),
        dead,
        lost,
        inbound: sent.inbound.len() as u64,
        refused: sent.refused.len() as u64,
        unnoticed,
        duplicate_deliveries: delivered.duplicates(),
        duplicate_forwards: forwarded.duplicates(),
        repeated_posts: loaded.repeated,
        took,
    })
}

/// The same engines behind proxies, if they are servers.
async fn by_proxies(engines: Engines) -> anyhow::Result<(Engines, Option<Proxies>)> {
    let Engines::Servers { broker, store } = engines else {
        return Ok((engines, None));
    };
    let test_namespace = TestNamespace::nameless(&broker, &store)?;
    let (broker, broker_proxy) = test_namespace.broker_by_proxy().await?;
    let (store, store_proxy) = test_namespace.store_by_proxy().await?;
    let proxies = Proxies {
        broker: broker_proxy,
        store: store_proxy,
    };
    Ok((Engines::Servers { broker, store }, Some(proxies)))
}
