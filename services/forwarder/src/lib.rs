//! Takes callbacks and relays them to the SESSIONS_SERVER.
//!
//! Invariant: while the SESSIONS_SERVER is away answers wait; none dies of it before its maximum
//! age. An answer is admitted by the channel that gave it, so that a server which fails over one
//! channel's answers, or asks for quiet over them, gets those of the others all the same.

mod config;
mod handler;

use std::{sync::Arc, time::Duration};

use roundtrip_broker::{Closed, Queue, SharedBroker, Worker};
use roundtrip_isolation::{
    Change,
    admission::{Admission, Behind, Rules, Scope},
};
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock, Signer};
use roundtrip_tls::Roots;
use roundtrip_webhook::{ConfigError, Courier, Reach, Webhook, window};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use config::Config;

/// By what answers are kept apart: the channel that gave them. Those without a token share one key.
pub type AnsweredBy = Option<ChannelId>;

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
    signer: Option<Signer>,
    courier: Courier,
    admission: Admission<AnsweredBy>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    concurrency: u16,
    window: u16,
}

impl Forwarder {
    /// A forwarder that posts to this URL, signed where there is a signer; trusts these certificate
    /// authorities there beside the public ones; and says in this journal what it did. The URL is
    /// the operator's own and is not vetted.
    ///
    /// # Errors
    /// Names the setting that is out of its bounds.
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
        let webhook = Webhook::new(&config.webhook, Reach::Own(roots))?;
        Ok(Self {
            sessions_server,
            signer,
            courier: Courier::new(webhook, policy, Arc::clone(&clock)),
            admission: Admission::new(Rules {
                slots: usize::from(config.concurrency),
                // No answer is paused.
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

    /// Says what is held back.
    #[must_use]
    pub const fn admission(&self) -> &Admission<AnsweredBy> {
        &self.admission
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

/// Logs that a channel's answers, or all answers, are held back, or no longer.
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
