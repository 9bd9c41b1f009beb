//! Takes outbound messages and posts them to their channel's endpoint.
//!
//! Invariant: every message ends in one decision, which the worker loop carries out: done, retry,
//! dead letter, or snooze (which is no attempt). A message becomes a dead letter only for a reason
//! of its own or of its channel. An unavailable store or broker is never such a reason.

mod answers;
mod config;
mod handler;
mod waits;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use roundtrip_broker::{Closed, Queue, SharedBroker, Worker};
use roundtrip_delivery::admission::{Admission, Behind, Change, Parking, Rules, Scope};
use roundtrip_delivery::{ConfigError, DeliveryClient, EgressPolicy, Webhook, window};
use roundtrip_egress::Egress;
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock};
use roundtrip_store::CachedChannels;
use tokio_util::sync::CancellationToken;

pub use answers::Answers;
pub use config::Config;

use crate::waits::Waits;

/// Delivers messages.
pub struct Dispatcher {
    channels: Arc<CachedChannels>,
    delivery_client: DeliveryClient,
    admission: Admission<ChannelId>,
    /// The cap of a channel that sets none.
    max_in_flight: usize,
    answers: Answers,
    journal: Journal,
    clock: Arc<dyn Clock>,
    concurrency: u16,
    window: u16,
    park: Duration,
    /// Spreads the snoozes of messages whose channel cannot be used, so that they come back at a
    /// bounded rate.
    held: Mutex<Parking>,
    waits: Waits,
}

impl Dispatcher {
    /// A dispatcher over these parts: where channels are read, which addresses are allowed, where
    /// channels answer to, and where attempts are journaled.
    ///
    /// # Errors
    /// Names the setting that is out of bounds.
    pub fn new(
        config: &Config,
        channels: Arc<CachedChannels>,
        egress: Arc<Egress>,
        answers: Answers,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let policy = config.policy()?;
        let webhook = Webhook::new(&config.webhook, EgressPolicy::Guarded(egress))?;
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
            delivery_client: DeliveryClient::new(webhook, policy, Arc::clone(&clock)),
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

    /// Works the outbound queue until `stop`. Deliveries in progress then get up to `drain` to end.
    ///
    /// # Errors
    /// [`Closed`] if the broker was closed before the start.
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

/// Logs that a channel's breaker opened or closed.
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
