//! Decides what happens to one answer.

use async_trait::async_trait;
use roundtrip_broker::{Handler, Message};
use roundtrip_delivery::admission::{Deferred, Limits, Permit, Signal};
use roundtrip_delivery::{Post, Told};
use roundtrip_model::{
    Callback, ChannelId, DeadReason, Decision, Entry, EntryId, Event, decision::DeadKind,
    journal::Attempt,
};

use crate::{AnsweredBy, Forwarder};

#[async_trait]
impl Handler for Forwarder {
    async fn handle(&self, message: &Message) -> Decision {
        let read = serde_json::from_slice::<Callback>(&message.body).and_then(|callback| {
            let body = serde_json::to_vec(&callback.forward_body())?;
            Ok((callback, body))
        });
        let (callback, body) = match read {
            Ok(read) => read,
            Err(error) => {
                let reason = DeadReason::new(DeadKind::Undecodable, error.to_string());
                return not_tried(message, Decision::DeadLetter(reason));
            }
        };
        if let Some(reason) = self
            .delivery_client
            .too_old(message.attempts, message.accepted_at)
        {
            return not_tried(message, Decision::DeadLetter(reason));
        }
        let limits = Limits {
            // The admission sets the limit of one channel.
            max_in_flight: usize::from(self.concurrency),
            rate_per_second: None,
            paused: false,
        };
        let fresh = message.attempts == 0;
        match self
            .admission
            .enter(&callback.channel_id, limits, fresh)
            .await
        {
            Ok(permit) => self.forward(message, &callback, body.into(), permit).await,
            Err(Deferred { wait, obstacle }) => {
                // Debug only: the opening of a breaker has a log line of its own.
                tracing::debug!(
                    callback_id = message.id,
                    channel_id = callback.channel_id.as_ref().map(ChannelId::as_str),
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    obstacle = obstacle.as_str(),
                    "forward.parked"
                );
                Decision::Snooze(wait)
            }
        }
    }

    async fn panicked(&self, message: &Message) -> Decision {
        let made = self
            .delivery_client
            .panicked(message.attempts, message.accepted_at);
        // The panic itself is logged elsewhere; this line names the answer.
        tracing::error!(
            callback_id = message.id,
            attempt = made.attempt,
            "forward.panicked"
        );
        if let Ok(callback) = serde_json::from_slice::<Callback>(&message.body) {
            self.tell(message.replay_count, &callback, made.journaled())
                .await;
        }
        made.decision
    }
}

impl Forwarder {
    async fn forward(
        &self,
        message: &Message,
        callback: &Callback,
        body: bytes::Bytes,
        permit: Permit<AnsweredBy>,
    ) -> Decision {
        let webhook_id = callback.callback_id.to_string();
        let made = self
            .delivery_client
            .attempt(Post {
                url: &self.sessions_server,
                webhook_id: &webhook_id,
                body,
                signer: self.signer.as_ref(),
                attempts: message.attempts,
                accepted_at: message.accepted_at,
            })
            .await;
        permit.end(Signal::of(
            &made.outcome,
            self.delivery_client.retry_after_cap(),
        ));
        let Told {
            decision,
            wait_ms,
            reason,
        } = Told::from(&made.decision);
        tracing::info!(
            callback_id = webhook_id,
            session_id = %callback.session_id,
            attempt = made.attempt,
            status = made.status(),
            error = made.error(),
            duration_ms = made.duration_ms(),
            decision,
            wait_ms,
            reason,
            "forward.attempted"
        );
        // Write the entry before the loop settles: a settled answer always has its entry.
        self.tell(message.replay_count, callback, made.journaled())
            .await;
        made.decision
    }

    /// Journals an attempt, if it is known which message was answered.
    async fn tell(&self, replay_count: u32, callback: &Callback, attempt: Box<Attempt>) {
        let Callback {
            callback_id,
            session_id,
            message_id: Some(message_id),
            channel_id: Some(channel_id),
            ..
        } = callback
        else {
            return;
        };
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: *message_id,
            channel_id: channel_id.clone(),
            session_id: session_id.clone(),
            replay_count,
            at: self.clock.now(),
            event: Event::ForwardAttempted {
                callback_id: *callback_id,
                attempt,
            },
        };
        self.journal.append(entry).await;
    }
}

/// Logs a decision that was made without an attempt.
fn not_tried(message: &Message, decision: Decision) -> Decision {
    let told = Told::from(&decision);
    tracing::info!(
        callback_id = message.id,
        attempts = message.attempts,
        decision = told.decision,
        reason = told.reason,
        "forward.not_attempted"
    );
    decision
}

#[cfg(test)]
mod tests;
