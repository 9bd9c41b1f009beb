//! Takes callbacks and relays them to the SESSIONS_SERVER.
//!
//! Invariant: while the SESSIONS_SERVER is away answers wait; none dies of it before its maximum
//! age.

mod config;
mod handler;

use std::{sync::Arc, time::Duration};

use roundtrip_broker::{Closed, Queue, SharedBroker, Worker};
use roundtrip_model::{Clock, retry::Then};
use roundtrip_webhook::{ConfigError, Courier, Webhook, window};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use config::Config;

/// The intervals between tries where nothing else is configured; the last is repeated. Shorter
/// than a channel's, for there is one SESSIONS_SERVER and everybody waits for it.
pub const DEFAULT_SCHEDULE: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];

/// Forwards answers.
pub struct Forwarder {
    sessions_server: Url,
    courier: Courier,
    concurrency: u16,
    window: u16,
}

impl Forwarder {
    /// A forwarder that posts to this URL.
    ///
    /// # Errors
    /// Names the setting that is out of its bounds.
    pub fn new(
        config: &Config,
        sessions_server: Url,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let policy = config
            .retry
            .policy(Then::RepeatTheLast, &DEFAULT_SCHEDULE)?;
        let webhook = Webhook::new(&config.webhook)?;
        Ok(Self {
            sessions_server,
            courier: Courier::new(webhook, policy, clock),
            concurrency: config.concurrency,
            window: window(config.concurrency)?,
        })
    }

    /// Works the callbacks queue until `stop`, and then up to `drain` longer on what is under way.
    ///
    /// # Errors
    /// [`Closed`] where the broker was closed before it began.
    pub async fn run(
        self,
        broker: SharedBroker,
        drain: Duration,
        stop: CancellationToken,
    ) -> Result<(), Closed> {
        let consumer = broker.consume(Queue::Callbacks, self.window).await?;
        let worker = Worker {
            concurrency: usize::from(self.concurrency),
            drain,
        };
        worker.run(consumer, Arc::new(self), stop).await;
        Ok(())
    }
}
