//! The fault run: messages are posted while the gateway's processes, and the broker, are killed
//! and started again.
//!
//! Invariant: every kill falls into live traffic. The loader is held back at a gate until the kill
//! is done, so it can neither be over before a kill nor pause for one; and a process is started
//! again only after work was done (or refused) without it.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    counting::CountingServer,
    loader::{self, BodyShape, Load, Progress},
    servers::Server,
    stack::{Plan, Role, Stack},
    tally::Tally,
};

/// How many channels the messages are for.
const CHANNELS: usize = 8;

/// The size of a posted body.
const BODY_BYTES: usize = 400;

/// How many posts are under way at once.
const IN_FLIGHT: usize = 32;

/// How often the loader's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The share of the messages (one in so many) that may be accepted while a victim is dead.
const WITHOUT_VICTIM: u64 = 20;

/// What a fault run does.
#[derive(Debug)]
pub struct FaultPlan {
    /// The gateway.
    pub stack: Plan,
    /// How many messages are posted.
    pub messages: usize,
    /// How long the whole may take.
    pub limit: Duration,
    /// RabbitMQ's node, to be killed too; none on the embedded engines.
    pub broker: Option<Server>,
}

/// What a fault run came to.
#[derive(Debug, Clone)]
pub struct FaultReport {
    /// Messages that were answered 202.
    pub accepted: u64,
    /// Messages whose answer reached the sessions server.
    pub answered: u64,
    /// Deliveries beyond each message's first.
    pub duplicate_deliveries: u64,
    /// Answers beyond each message's first.
    pub duplicate_forwards: u64,
    /// Posts that were not answered 202 and were made again.
    pub repeated_posts: u64,
    /// What was killed, in order, and after how many accepted messages.
    pub kills: Vec<(String, u64)>,
    /// From the first post to the last answer.
    pub took: Duration,
}

impl FaultReport {
    /// Accepted messages whose answer never came.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.accepted.saturating_sub(self.answered)
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, accepted) in &self.kills {
            writeln!(f, "killed {name:<26} after {accepted:>6} accepted messages")?;
        }
        writeln!(f, "accepted                          {:>6}", self.accepted)?;
        writeln!(f, "answered                          {:>6}", self.answered)?;
        writeln!(f, "lost                              {:>6}", self.lost())?;
        writeln!(
            f,
            "duplicate deliveries              {:>6}",
            self.duplicate_deliveries
        )?;
        writeln!(
            f,
            "duplicate forwards                {:>6}",
            self.duplicate_forwards
        )?;
        writeln!(
            f,
            "posts that were made again        {:>6}",
            self.repeated_posts
        )?;
        write!(
            f,
            "seconds in all                    {:>6.1}",
            self.took.as_secs_f64()
        )
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Process(Role),
    Broker,
}

/// Runs it.
///
/// # Errors
/// If the limit passes before every answer came, or something does not start again.
pub async fn run(mut plan: FaultPlan) -> anyhow::Result<FaultReport> {
    let run = plan.stack.name.clone();
    let delivered = Arc::new(Tally::new(&run, plan.messages));
    let answered = Arc::new(Tally::new(&run, plan.messages));
    let channel_server = CountingServer::start(Arc::clone(&delivered)).await?;
    channel_server.answer(true);
    let sessions_server = CountingServer::start(Arc::clone(&answered)).await?;

    let mut stack = Stack::new(Plan {
        sessions_server: sessions_server.url(),
        ..plan.stack
    })?;
    stack.start_all().await?;
    let load = Load {
        address: stack.ingress(),
        path: "/channel/message",
        tally: Arc::clone(&delivered),
        body: BodyShape {
            channels: stack.register(CHANNELS, &[channel_server.url()]).await?,
            response_url: stack.response_url(),
            bytes: BODY_BYTES,
        },
        in_flight: IN_FLIGHT,
        limit: plan.limit,
    };

    let progress = Arc::new(Progress::default());
    let (gate, gated) = watch::channel(0);
    let since = Instant::now();
    let faults = Faults {
        stack: &mut stack,
        broker: plan.broker.as_mut(),
        progress: &progress,
        gate,
        messages: plan.messages as u64,
    };
    let (loaded, kills) = timeout(plan.limit, async {
        tokio::try_join!(
            loader::post_gated(&load, &progress, &gated),
            faults.inflict()
        )
    })
    .await
    .context("the fault run's limit passed")??;
    let left = plan.limit.saturating_sub(since.elapsed());
    if let Err(error) = answered.full(left).await {
        bail!(
            "answers are missing: {error}; {} were delivered",
            delivered.distinct()
        );
    }
    let took = since.elapsed();
    stack.stop_all().await?;
    Ok(FaultReport {
        accepted: progress.accepted.load(Ordering::Acquire),
        answered: answered.distinct(),
        duplicate_deliveries: delivered.duplicates(),
        duplicate_forwards: answered.duplicates(),
        repeated_posts: loaded.repeated,
        kills,
        took,
    })
}

/// Inflicts the kills, each at its place in the stream of messages.
struct Faults<'a> {
    stack: &'a mut Stack,
    broker: Option<&'a mut Server>,
    progress: &'a Progress,
    gate: watch::Sender<u64>,
    messages: u64,
}

impl Faults<'_> {
    async fn inflict(self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut this = self;
        let victims = this.victims();
        let parts = victims.len() as u64 + 1;
        let mut kills = Vec::new();
        for (number, victim) in (1..).zip(victims) {
            let place = this.messages * number / parts;
            // A little beyond, so that posts are under way when the kill comes.
            this.gate.send_replace(place + IN_FLIGHT as u64);
            this.accepted(place).await;
            let at = this.progress.accepted.load(Ordering::Acquire);
            let name = this.inflict_one(victim).await?;
            kills.push((name, at));
        }
        this.gate.send_replace(u64::MAX);
        // Held until the loader is done, for its posters wait on the gate.
        this.accepted(this.messages).await;
        Ok(kills)
    }

    fn victims(&self) -> Vec<Victim> {
        if self.stack.roles() == [Role::All] {
            return vec![Victim::Process(Role::All); 3];
        }
        let roles = [Role::Dispatcher, Role::Forwarder, Role::Ingress].map(Victim::Process);
        let broker = self.broker.is_some().then_some(Victim::Broker);
        roles.into_iter().chain(broker).collect()
    }

    async fn inflict_one(&mut self, victim: Victim) -> anyhow::Result<String> {
        match victim {
            Victim::Process(role @ (Role::Dispatcher | Role::Forwarder)) => {
                self.stack.process(role)?.kill().await?;
                // Messages pile up, to be found by the next one.
                self.accepted(self.open_gate() - 1).await;
                self.stack.process(role)?.restart().await?;
                Ok(format!("the {role}"))
            }
            Victim::Process(role) => {
                let repeated = self.progress.repeated.load(Ordering::Acquire);
                self.stack.process(role)?.kill().await?;
                self.open_gate();
                self.refused(repeated).await;
                self.stack.process(role)?.restart().await?;
                Ok(match role {
                    Role::All => "the one process".to_owned(),
                    _ => format!("the {role}"),
                })
            }
            Victim::Broker => {
                let repeated = self.progress.repeated.load(Ordering::Acquire);
                self.server()?.kill().await?;
                self.open_gate();
                self.refused(repeated).await;
                self.server()?.restart().await?;
                Ok("the RabbitMQ node".to_owned())
            }
        }
    }

    /// Lets the loader go on a little after a kill, and says how far.
    fn open_gate(&self) -> u64 {
        let accepted = self.progress.accepted.load(Ordering::Acquire);
        let gate = (accepted + self.messages / WITHOUT_VICTIM).max(accepted + IN_FLIGHT as u64 * 2);
        self.gate.send_replace(gate);
        gate
    }

    fn server(&mut self) -> anyhow::Result<&mut Server> {
        self.broker.as_deref_mut().context("no broker to kill")
    }

    /// Waits until so many messages were accepted.
    async fn accepted(&self, messages: u64) {
        while self.progress.accepted.load(Ordering::Acquire) < messages.min(self.messages) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a post was refused beyond those before.
    async fn refused(&self, before: u64) {
        while self.progress.repeated.load(Ordering::Acquire) <= before {
            sleep(LOOK_EVERY).await;
        }
    }
}
