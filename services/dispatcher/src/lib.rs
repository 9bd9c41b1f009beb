//! Takes outbound messages and posts them to their channel's endpoint.
//!
//! Invariant: every message that is taken ends in one decision, which the worker loop carries out:
//! delivered, tried again, dead with its reason, or parked at the cost of no try. A message is
//! dead only for a reason of its own or its channel's, never because a server of ours is away.

mod answers;
mod config;
mod handler;
mod waits;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use roundtrip_broker::{Closed, Queue, SharedBroker, Worker};
use roundtrip_egress::Egress;
use roundtrip_isolation::{
    Change, Parking,
    admission::{Admission, Behind, Rules, Scope},
};
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock};
use roundtrip_store::CachedChannels;
use roundtrip_webhook::{ConfigError, Courier, Reach, Webhook, window};
use tokio_util::sync::CancellationToken;

pub use answers::Answers;
pub use config::Config;

use crate::waits::Waits;

/// Delivers messages.
pub struct Dispatcher {
    channels: Arc<CachedChannels>,
    courier: Courier,
    admission: Admission<ChannelId>,
    /// The cap of a channel that names none.
    max_in_flight: usize,
    answers: Answers,
    journal: Journal,
    clock: Arc<dyn Clock>,
    concurrency: u16,
    window: u16,
    park: Duration,
    /// Spreads what comes back of messages whose channel cannot be used: together they come back at
    /// a bounded pace, however many they are.
    held: Mutex<Parking>,
    waits: Waits,
}

impl Dispatcher {
    /// A dispatcher that finds its channels here, connects to them as far as it may, has them answer
    /// there, and says in this journal what it did.
    ///
    /// # Errors
    /// Names the setting that is out of its bounds.
    pub fn new(
        config: &Config,
        channels: Arc<CachedChannels>,
        egress: Arc<Egress>,
        answers: Answers,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let policy = config.policy()?;
        let webhook = Webhook::new(&config.webhook, Reach::Vetted(egress))?;
        config.check()?;
        let admission = Admission::new(Rules {
            slots: usize::from(config.concurrency),
            paused_snooze: config.paused_park,
            breaker: config.breaker,
            behind: Behind::ServerEach,
            report,
        });
        Ok(Self {
            channels,
            courier: Courier::new(webhook, policy, Arc::clone(&clock)),
            admission,
            max_in_flight: usize::from(config.max_in_flight_per_channel),
            answers,
            journal,
            clock,
            concurrency: config.concurrency,
            window: window(config.concurrency)?,
            park: config.park,
            held: Mutex::default(),
            waits: Waits::new(),
        })
    }

    /// Works the outbound queue until `stop`, and then up to `drain` longer on what is under way.
    ///
    /// # Errors
    /// [`Closed`] where the broker was closed before it began.
    pub async fn run(
        self,
        broker: SharedBroker,
        drain: Duration,
        stop: CancellationToken,
    ) -> Result<(), Closed> {
        let consumer = broker.consume(Queue::Outbound, self.window).await?;
        let worker = Worker {
            concurrency: usize::from(self.concurrency),
            drain,
        };
        worker.run(consumer, Arc::new(self), stop).await;
        Ok(())
    }
}

/// Logs that a channel is left alone, or no longer.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the type of the admission's rules"
)]
fn report(scope: Scope<'_, ChannelId>, change: Change) {
    let Scope::Key(channel_id) = scope else {
        return;
    };
    match change {
        Change::Opened(wait) => tracing::warn!(
            %channel_id,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "channel.opened"
        ),
        Change::Closed => tracing::info!(%channel_id, "channel.closed"),
    }
}
