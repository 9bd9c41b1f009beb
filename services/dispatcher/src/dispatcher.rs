//! What is the dispatcher's own: a channel's endpoint, settings and signer, the body with its
//! `response_url`, and the pause of a channel whose endpoint is gone.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use roundtrip_broker::{Message, Queue};
use roundtrip_delivery::{
    AnswerDue, Deferred, DeliveryRole, EgressPolicy, Limits, MAX_RETURNS_PER_SECOND, NoAttempt,
    Pipeline, Request, RoleName, Snoozes,
};
use roundtrip_egress::Egress;
use roundtrip_journal::Journal;
use roundtrip_model::{
    ChannelId, ChannelUid, Clock, DeadReason, Entry, Event, LogThrottle, NoticeEvent,
    OutboundMessage, Outcome, SessionId, WrongSettings, config::chain, decision::DeadKind,
    notice::PausedBy, waiting::WaitReason,
};
use roundtrip_notices::Notices;
use roundtrip_store::{CachedChannels, ChannelError, KnownChannel, Signing};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use crate::{Config, ResponseUrls};

/// The endpoint is gone: its channel is paused until the owner resumes it.
const GONE: u16 = 410;

/// The reason in logs and dead letters for a message whose channel was deleted.
const DELETED: &str = "the channel was deleted after the message was accepted, and another channel \
                       has its id now; a replay sends the message to that one";

/// Limits the warnings that a channel was not paused after a 410. While the store is unavailable,
/// every such delivery would log one.
static NOT_PAUSED: LogThrottle = LogThrottle::new();

pub struct Dispatcher {
    channels: Arc<CachedChannels>,
    response_urls: ResponseUrls,
    /// The cap of a channel that sets none.
    max_in_flight: usize,
    /// How long a message is snoozed whose channel cannot be used.
    snooze: Duration,
    /// Spreads those snoozes, so that the messages come back at a bounded rate.
    snoozes: Mutex<Snoozes>,
    notices: Notices,
}

pub struct Destination {
    known: Arc<KnownChannel>,
    url: Url,
}

impl Dispatcher {
    /// A pipeline over these parts: where channels are read, which addresses are allowed, where
    /// channels answer to, and where attempts are journaled.
    pub fn pipeline(
        config: &Config,
        channels: Arc<CachedChannels>,
        egress: Arc<Egress>,
        response_urls: ResponseUrls,
        journal: Journal,
        notices: Notices,
        clock: Arc<dyn Clock>,
    ) -> Result<Pipeline<Self>, WrongSettings> {
        let role = Self {
            channels,
            response_urls,
            max_in_flight: usize::from(config.max_in_flight_per_channel),
            snooze: config.snooze,
            snoozes: Mutex::default(),
            notices,
        };
        let egress_policy = EgressPolicy::Guarded(egress);
        Pipeline::new(role, &config.settings(), egress_policy, journal, clock)
    }

    fn deferred(&self, reason: WaitReason) -> NoAttempt {
        let mut snoozes = self.snoozes.lock();
        let wait = snoozes.add(
            Instant::now(),
            self.snooze,
            MAX_RETURNS_PER_SECOND,
            rand::random(),
        );
        NoAttempt::Deferred(Deferred { wait, reason })
    }

    /// Pauses a channel whose endpoint responded 410, so that its messages wait for the owner. Returns
    /// why the message waits; `None` if the channel is another one now, or cannot be paused.
    async fn pause(&self, id: &ChannelId, uid: &ChannelUid) -> Option<WaitReason> {
        let paused = self.channels.store().set_paused(id, Some(uid), true).await;
        self.channels.forget(id).await;
        match paused {
            Ok(_) => {
                tracing::warn!(channel_id = %id, "channel.gone");
                self.notices.offer(NoticeEvent::ChannelPaused {
                    channel_id: id.clone(),
                    by: PausedBy::Gone,
                });
                Some(WaitReason::ChannelPaused)
            }
            // The next message gets the same 410 and pauses the channel then.
            Err(error) => {
                if let Some(suppressed) = NOT_PAUSED.due(Instant::now().into_std()) {
                    let error = chain(&error);
                    tracing::warn!(channel_id = %id, error, suppressed, "a gone channel is not paused");
                }
                // These two are temporary; after any other error the retry policy decides.
                let is_temporary = matches!(
                    error,
                    ChannelError::Unavailable(_) | ChannelError::Changed(_)
                );
                is_temporary.then_some(WaitReason::StoreUnavailable)
            }
        }
    }
}

#[async_trait]
impl DeliveryRole for Dispatcher {
    type Payload = OutboundMessage;
    type Destination = Destination;

    const QUEUE: Queue = Queue::Outbound;
    const SHARED_SERVER: Option<&'static str> = None;
    const NAME: RoleName = RoleName::Delivery;
    const BREAKER_LOG_NAME: &'static str = "channel";

    fn channel_id(message: &OutboundMessage) -> Option<&ChannelId> {
        Some(&message.channel_id)
    }

    fn session_id(message: &OutboundMessage) -> Option<&SessionId> {
        Some(&message.session_id)
    }

    fn age_from(queued: &Message, message: &OutboundMessage) -> OffsetDateTime {
        message.age_from(queued.accepted_at)
    }

    fn expires_at(queued: &Message, message: &OutboundMessage) -> Option<OffsetDateTime> {
        message.expires_at(queued.replay_count)
    }

    async fn destination(&self, message: &OutboundMessage) -> Result<Destination, NoAttempt> {
        let id = &message.channel_id;
        let found = match self.channels.get(id).await {
            // The cached channel may be an earlier one of the same id.
            Ok(known) if !message.is_for(&known.target.uid) => self.channels.get_now(id).await,
            found => found,
        };
        match found {
            Ok(known) if !message.is_for(&known.target.uid) => {
                Err(dead(DeadKind::UnknownChannel, &DELETED))
            }
            // The signing secret exists and cannot be opened. An operator must fix that; an
            // unsigned delivery would be refused.
            Ok(known) if matches!(known.signing, Signing::Impossible) => {
                Err(self.deferred(WaitReason::SecretUnreadable))
            }
            Ok(known) => match &known.target.endpoint {
                Ok(url) => Ok(Destination {
                    url: url.clone(),
                    known,
                }),
                Err(error) => Err(dead(DeadKind::BadEndpoint, error)),
            },
            Err(error @ ChannelError::NotFound(_)) => Err(dead(DeadKind::UnknownChannel, &error)),
            Err(error @ ChannelError::Unreadable { .. }) => {
                Err(dead(DeadKind::BadEndpoint, &error))
            }
            // The other errors say nothing about the channel. The store is asked again after the
            // snooze.
            Err(_) => Err(self.deferred(WaitReason::StoreUnavailable)),
        }
    }

    fn request<'a>(
        &'a self,
        queued: &Message,
        message: &OutboundMessage,
        destination: &'a Destination,
    ) -> Result<Request<'a>, serde_json::Error> {
        let Destination { known, url } = destination;
        let from = message.age_from(queued.accepted_at);
        let response_url = self.response_urls.url(message, queued.replay_count, from);
        let settings = &known.target.settings;
        let of_message = message.answer_within_ms.map(Duration::from_millis);
        let within = of_message.or(settings.answer_within);
        Ok(Request {
            url,
            webhook_id: message.message_id.to_string(),
            headers: Vec::new(),
            body: serde_json::to_vec(&message.delivery_body(&response_url.url))?.into(),
            signer: known.signing.signer(),
            limits: Limits {
                max_in_flight: settings
                    .max_in_flight
                    .map_or(self.max_in_flight, usize::from),
                rate_per_second: settings.rate_per_second,
                paused: settings.paused,
            },
            timeout: settings.timeout,
            schedule: settings.retry_schedule.as_deref(),
            // An answer that goes elsewhere is never seen.
            answer: within
                .zip(response_url.until)
                .map(|(within, until)| AnswerDue { within, until }),
        })
    }

    fn entry(
        queued: &Message,
        message: &OutboundMessage,
        at: OffsetDateTime,
        event: Event,
    ) -> Option<Entry> {
        Some(Entry::of(message, queued.replay_count, at, event))
    }

    fn waits_in_store(&self) -> bool {
        !self.channels.is_unavailable()
    }

    fn breaker_changed(&self, channel_id: &ChannelId, open_for: Option<Duration>) {
        let channel_id = channel_id.clone();
        self.notices.offer(match open_for {
            Some(wait) => NoticeEvent::BreakerOpened {
                channel_id,
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            },
            None => NoticeEvent::BreakerClosed { channel_id },
        });
    }

    async fn after_attempt(
        &self,
        message: &OutboundMessage,
        destination: &Destination,
        outcome: &Outcome,
    ) -> Option<Deferred> {
        if !matches!(outcome, Outcome::Responded { status: GONE, .. }) {
            return None;
        }
        let uid = &destination.known.target.uid;
        // Even after the last attempt: the message waits until the channel is resumed.
        let reason = self.pause(&message.channel_id, uid).await?;
        Some(Deferred {
            wait: self.snooze,
            reason,
        })
    }
}

fn dead(kind: DeadKind, detail: &dyn ToString) -> NoAttempt {
    NoAttempt::Dead(DeadReason::new(kind, detail.to_string()))
}

#[cfg(test)]
mod tests;
