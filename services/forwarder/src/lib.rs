//! Takes answers and posts them to the SESSIONS_SERVER.
//!
//! Invariant: while the SESSIONS_SERVER is unavailable, answers wait until their maximum age.
//! Answers are admitted by channel, so a failure or a `Retry-After` over one channel's answers does
//! not delay those of the others.

mod config;
mod handler;

use std::{sync::Arc, time::Duration};

use roundtrip_broker::{Closed, Queue, SharedBroker, Worker};
use roundtrip_delivery::admission::{Admission, Behind, Change, Rules, Scope};
use roundtrip_delivery::{ConfigError, DeliveryClient, EgressPolicy, Webhook, window};
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock, Signer};
use roundtrip_tls::Roots;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use config::Config;

/// The key that answers are admitted by: their channel. Answers without a token share one key.
pub type AnsweredBy = Option<ChannelId>;

/// The default intervals between attempts; the last repeats. They are shorter than a channel's, as
/// all answers wait for one SESSIONS_SERVER.
pub const DEFAULT_SCHEDULE: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];

/// Forwards answers.
pub struct Forwarder {
    sessions_server: Url,
    signer: Option<Signer>,
    delivery_client: DeliveryClient,
    admission: Admission<AnsweredBy>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    concurrency: u16,
    window: u16,
}

impl Forwarder {
    /// A forwarder that posts to this URL, signed if there is a signer. It trusts these certificate
    /// authorities beside the public ones, and journals its attempts. The URL is the operator's
    /// own, so the egress rules do not apply.
    ///
    /// # Errors
    /// Names the setting that is out of bounds.
    pub fn new(
        config: &Config,
        sessions_server: Url,
        signer: Option<Signer>,
        roots: Roots,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let policy = config.policy()?;
        let webhook = Webhook::new(&config.webhook, EgressPolicy::Unrestricted(roots))?;
        Ok(Self {
            sessions_server,
            signer,
            delivery_client: DeliveryClient::new(webhook, policy, Arc::clone(&clock)),
            admission: Admission::new(Rules {
                slots: usize::from(config.concurrency),
                // Answers cannot be paused.
                paused_snooze: Duration::ZERO,
                breaker: config.breaker,
                behind: Behind::OneServer,
                report,
            }),
            journal,
            clock,
            concurrency: config.concurrency,
            window: window(config.concurrency)?,
        })
    }

    /// The admission of answers, which says what is held back.
    #[must_use]
    pub const fn admission(&self) -> &Admission<AnsweredBy> {
        &self.admission
    }

    /// Works the callbacks queue until `stop`. Forwards in progress then get up to `drain` to end.
    ///
    /// # Errors
    /// [`Closed`] if the broker was closed before the start.
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

/// Logs that a breaker opened or closed: a channel's, or the one for all answers.
fn report(scope: Scope<'_, AnsweredBy>, change: Change) {
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    match (scope, change) {
        (Scope::Key(by), Change::Opened(wait)) => tracing::warn!(
            channel_id = by.as_ref().map(ChannelId::as_str),
            wait_ms = millis(wait),
            "answers.opened"
        ),
        (Scope::Key(by), Change::Closed) => tracing::info!(
            channel_id = by.as_ref().map(ChannelId::as_str),
            "answers.closed"
        ),
        (Scope::Server, Change::Opened(wait)) => {
            tracing::warn!(wait_ms = millis(wait), "sessions_server.opened");
        }
        (Scope::Server, Change::Closed) => tracing::info!("sessions_server.closed"),
    }
}
