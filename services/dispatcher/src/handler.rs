//! Decides what happens to one outbound message.

use std::{
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use roundtrip_broker::{Handler, Message};
use roundtrip_delivery::admission::{Deferred, Limits, MAX_RETURNS_PER_SECOND, Permit, Signal};
use roundtrip_delivery::{Overrides, Post, Told, Try};
use roundtrip_model::{
    ChannelId, ChannelUid, DeadReason, Decision, DeliverySettings, Entry, Event, OutboundMessage,
    Outcome, decision::DeadKind, journal::WaitReason,
};
use roundtrip_store::{KnownChannel, Signing, StoreError};
use tokio::{
    join,
    time::{Instant, timeout},
};
use url::Url;

use crate::Dispatcher;

/// The endpoint is gone: its channel is paused until the owner resumes it.
const GONE: u16 = 410;

/// An attempt shorter than this writes one journal entry, at its end.
const QUICK: Duration = Duration::from_secs(1);

/// The reason in logs and dead letters for a message whose channel was deleted.
const DELETED: &str = "the channel was deleted after the message was accepted, and another channel \
                       has its id now; a replay sends the message to that one";

/// Why a message cannot be delivered now.
enum Hindrance {
    /// It can never be delivered.
    Dead(DeadReason),
    /// Its channel cannot be used for now.
    Held(WaitReason),
}

struct Destination {
    /// Its settings and its signer.
    known: Arc<KnownChannel>,
    url: Url,
}

#[async_trait]
impl Handler for Dispatcher {
    async fn handle(&self, queued: &Message) -> Decision {
        let message = match serde_json::from_slice::<OutboundMessage>(&queued.body) {
            Ok(message) => message,
            Err(error) => return not_tried(queued, None, dead(DeadKind::Undecodable, &error)),
        };
        let channel_id = Some(&message.channel_id);
        if let Some(reason) = self
            .delivery_client
            .too_old(queued.attempts, queued.accepted_at)
        {
            return not_tried(queued, channel_id, reason);
        }
        let destination = match self.destination(&message).await {
            Ok(destination) => destination,
            Err(Hindrance::Dead(reason)) => return not_tried(queued, channel_id, reason),
            Err(Hindrance::Held(reason)) => {
                return self.snooze(queued, &message, self.hold(), reason).await;
            }
        };
        let response_url = self
            .answers
            .url(&message, queued.replay_count, queued.accepted_at);
        let body = match serde_json::to_vec(&message.delivery_body(&response_url)) {
            Ok(body) => body.into(),
            Err(error) => {
                return not_tried(queued, channel_id, dead(DeadKind::Undecodable, &error));
            }
        };
        let limits = self.limits(&destination.known.target.settings);
        let fresh = queued.attempts == 0;
        match self
            .admission
            .enter(&message.channel_id, limits, fresh)
            .await
        {
            Ok(permit) => {
                self.deliver(queued, &message, &destination, body, permit)
                    .await
            }
            Err(Deferred { wait, obstacle }) => {
                self.snooze(queued, &message, wait, obstacle.reason()).await
            }
        }
    }

    async fn panicked(&self, queued: &Message) -> Decision {
        let made = self
            .delivery_client
            .panicked(queued.attempts, queued.accepted_at);
        // The panic itself is logged elsewhere; this line names the message.
        tracing::error!(
            message_id = queued.id,
            attempt = made.attempt,
            "delivery.panicked"
        );
        if let Ok(message) = serde_json::from_slice::<OutboundMessage>(&queued.body) {
            self.tell(queued, &message, Event::Attempted(made.journaled()))
                .await;
        }
        made.decision
    }
}

impl Dispatcher {
    fn limits(&self, settings: &DeliverySettings) -> Limits {
        Limits {
            max_in_flight: settings
                .max_in_flight
                .map_or(self.max_in_flight, usize::from),
            rate_per_second: settings.rate_per_second,
            paused: settings.paused,
        }
    }

    /// The channel's endpoint, or why the message cannot be delivered.
    async fn destination(&self, message: &OutboundMessage) -> Result<Destination, Hindrance> {
        let dead = |kind, detail: &dyn ToString| Hindrance::Dead(dead(kind, detail));
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
                Err(Hindrance::Held(WaitReason::SecretUnreadable))
            }
            Ok(known) => match &known.target.endpoint {
                Ok(url) => Ok(Destination {
                    url: url.clone(),
                    known,
                }),
                Err(error) => Err(dead(DeadKind::BadEndpoint, error)),
            },
            Err(error @ StoreError::NotFound(_)) => Err(dead(DeadKind::UnknownChannel, &error)),
            Err(error @ StoreError::Unreadable { .. }) => Err(dead(DeadKind::BadEndpoint, &error)),
            // The other errors say nothing about the channel: the store is unavailable, or is asked
            // again.
            Err(_) => Err(Hindrance::Held(WaitReason::StoreUnavailable)),
        }
    }

    /// How long to snooze a message whose channel cannot be used.
    fn hold(&self) -> Duration {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.park(
            Instant::now(),
            self.park,
            MAX_RETURNS_PER_SECOND,
            rand::random(),
        )
    }

    /// Snoozes a message, which does not count as an attempt. The log and the timeline give each
    /// reason once, as a waiting message is looked at many times.
    async fn snooze(
        &self,
        queued: &Message,
        message: &OutboundMessage,
        wait: Duration,
        reason: WaitReason,
    ) -> Decision {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if self.waits.is_news(message.message_id, reason, wait) {
            tracing::info!(
                message_id = queued.id,
                channel_id = %message.channel_id,
                attempts = queued.attempts,
                wait_ms,
                reason = reason.as_str(),
                "delivery.snoozed"
            );
            let attempts = queued.attempts;
            let waiting = Event::Waiting { attempts, reason };
            self.tell(queued, message, waiting).await;
        } else {
            tracing::debug!(
                message_id = queued.id,
                channel_id = %message.channel_id,
                wait_ms,
                reason = reason.as_str(),
                "delivery.snoozed_again"
            );
        }
        Decision::Snooze(wait)
    }

    async fn deliver(
        &self,
        queued: &Message,
        message: &OutboundMessage,
        Destination { known, url }: &Destination,
        body: bytes::Bytes,
        permit: Permit<ChannelId>,
    ) -> Decision {
        self.waits.forget(message.message_id);
        let webhook_id = message.message_id.to_string();
        let post = Post {
            url,
            webhook_id: &webhook_id,
            body,
            signer: known.signing.signer(),
            attempts: queued.attempts,
            accepted_at: queued.accepted_at,
        };
        let settings = &known.target.settings;
        let overrides = Overrides {
            timeout: settings.timeout,
            schedule: settings.retry_schedule.as_deref(),
        };
        let attempt = async {
            let made = self.delivery_client.attempt_with(post, overrides).await;
            // Free the permit at once: the journal's time must not count against the channel.
            permit.end(Signal::of(
                &made.outcome,
                self.delivery_client.retry_after_cap(),
            ));
            made
        };
        let mut made = self.told_if_long(queued, message, attempt).await;
        if matches!(made.outcome, Outcome::Answered { status: GONE, .. }) {
            self.pause(&message.channel_id, &known.target.uid).await;
            // Even after the last attempt: the message waits until the channel is resumed.
            made.decision = Decision::Snooze(self.park);
        }
        let Told {
            decision,
            wait_ms,
            reason,
        } = Told::from(&made.decision);
        tracing::info!(
            message_id = webhook_id,
            channel_id = %message.channel_id,
            session_id = %message.session_id,
            // The host alone: a path or a query may hold a secret.
            host = url.host_str(),
            attempt = made.attempt,
            status = made.status(),
            error = made.error(),
            duration_ms = made.duration_ms(),
            decision,
            wait_ms,
            reason,
            "delivery.attempted"
        );
        // Write the entry before the loop settles: a settled message always has its entry.
        self.tell(queued, message, Event::Attempted(made.journaled()))
            .await;
        made.decision
    }

    /// Makes an attempt. A slow attempt is journaled as started, too.
    async fn told_if_long(
        &self,
        queued: &Message,
        message: &OutboundMessage,
        attempt: impl Future<Output = Try>,
    ) -> Try {
        let mut attempt = pin!(attempt);
        if let Ok(made) = timeout(QUICK, &mut attempt).await {
            return made;
        }
        let delivering = Event::Delivering {
            attempt: queued.attempts.saturating_add(1),
        };
        let ((), made) = join!(self.tell(queued, message, delivering), attempt);
        made
    }

    /// Pauses a channel whose endpoint answered 410, so that its messages wait for the owner.
    async fn pause(&self, id: &ChannelId, uid: &ChannelUid) {
        let paused = self.channels.store().set_paused(id, Some(uid), true).await;
        self.channels.forget(id).await;
        match paused {
            Ok(_) => tracing::warn!(channel_id = %id, "channel.gone"),
            // The next message gets the same 410 and pauses the channel then.
            Err(error) => tracing::warn!(channel_id = %id, ?error, "a gone channel is not paused"),
        }
    }

    async fn tell(&self, queued: &Message, message: &OutboundMessage, event: Event) {
        let entry = Entry::of(message, queued.replay_count, self.clock.now(), event);
        self.journal.append(entry).await;
    }
}

fn dead(kind: DeadKind, detail: &dyn ToString) -> DeadReason {
    DeadReason::new(kind, detail.to_string())
}

/// A dead letter without an attempt.
fn not_tried(queued: &Message, channel_id: Option<&ChannelId>, reason: DeadReason) -> Decision {
    let decision = Decision::DeadLetter(reason);
    let told = Told::from(&decision);
    tracing::info!(
        message_id = queued.id,
        channel_id = channel_id.map(ChannelId::as_str),
        attempts = queued.attempts,
        decision = told.decision,
        reason = told.reason,
        "delivery.not_attempted"
    );
    decision
}

#[cfg(test)]
mod tests;
