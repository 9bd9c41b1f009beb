//! The delivery of one queue's messages, the same for every role that delivers.
//!
//! ```text
//! decode ─▶ too late? ─▶ destination ─▶ request ─▶ admission ─▶ attempt ─▶ log ─▶ journal ─▶ decision
//!    │          │          │      │        │           │
//!    └──────────┴──────────┴──────│────────┴───▶ dead letter, without an attempt
//!                                 └────────────────────┴──────▶ snooze, without an attempt
//! ```
//!
//! Invariant: the pipeline moves no message. It returns a decision after the broker has confirmed
//! the attempt's journal entry, and the worker loop then settles the message. So if the power fails:
//!
//! | during | the message is | after the restart |
//! |---|---|---|
//! | decode to admission | in its queue, leased | it is delivered again; nothing was sent |
//! | attempt | in its queue, leased | it is posted again under its `webhook-id`; the lost attempt does not count |
//! | log and journal | in its queue, leased | the same; the lost attempt may be in the timeline |
//! | settlement | in its queue, in the next one (a delay, the dead queue), or in both | it is in at least one of them; a message whose ack was lost is posted again |

mod log;
mod role;
mod settings;
mod waits;

#[cfg(test)]
mod tests;

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use roundtrip_broker::{Closed, Consumer, Handler, Message, SharedBroker, Worker};
use roundtrip_journal::Journal;
use roundtrip_model::{
    Check, Clock, DeadReason, Decision, Event, Waiting, WrongSettings, decision::DeadKind,
    waiting::WaitReason,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{join, time::timeout};
use tokio_util::sync::CancellationToken;

use self::waits::Waits;
pub use self::{
    role::{AnswerDue, DeliveryRole, NoAttempt, Request},
    settings::Settings,
};
use crate::{
    EgressPolicy, Webhook,
    admission::{Admission, Deferred, Permit, Place, Report, Rules, Scope, Signal},
    attempt::Attempt,
    config::window,
    delivery_client::DeliveryClient,
    metrics,
};

/// An attempt shorter than this writes one journal entry, at its end.
const QUICK: Duration = Duration::from_secs(1);

/// Delivers the messages of a role's queue.
pub struct Pipeline<R: DeliveryRole> {
    role: Arc<R>,
    client: DeliveryClient,
    admission: Admission,
    journal: Journal,
    clock: Arc<dyn Clock>,
    waits: Waits,
    concurrency: u16,
    window: u16,
    wait_in_store_after: Duration,
}

impl<R: DeliveryRole> Pipeline<R> {
    /// A pipeline for this role, which connects as `egress_policy` allows and journals its attempts.
    pub fn new(
        role: R,
        settings: &Settings<'_>,
        egress_policy: EgressPolicy,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WrongSettings> {
        let mut check = Check::default();
        settings.check(&mut check);
        check.end()?;
        let webhook = Webhook::new(settings.webhook, egress_policy)?;
        let role = Arc::new(role);
        let reporting = Arc::clone(&role);
        Ok(Self {
            role,
            client: DeliveryClient::new(webhook, settings.policy(), Arc::clone(&clock)),
            admission: Admission::new(Rules {
                slots: usize::from(settings.concurrency),
                paused_snooze: settings.paused_snooze,
                breaker: settings.breaker,
                shared_server: R::SHARED_SERVER.is_some(),
                report: Report(Arc::new(move |scope, change| {
                    log::breaker_changed::<R>(scope, change);
                    if let Scope::Key(Some(channel_id)) = scope {
                        reporting.breaker_changed(channel_id, change.open_for());
                    }
                })),
            }),
            journal,
            clock,
            waits: Waits::new(),
            concurrency: settings.concurrency,
            window: window(settings.concurrency),
            wait_in_store_after: settings.wait_in_store_after,
        })
    }

    /// The admission of the role's deliveries, which knows the open breakers.
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Works the role's queue, and the consumer of what waits in the store if there is one, until
    /// `stop`. Deliveries in progress then get up to `drain` to end.
    pub async fn run(
        self,
        broker: SharedBroker,
        waiting_room: Option<Box<dyn Consumer>>,
        drain: Duration,
        stop: CancellationToken,
    ) -> Result<(), Closed> {
        let queue = broker.consume(R::QUEUE, self.window).await?;
        // Admission bounds the attempts of both together.
        let worker = Worker {
            queue: R::QUEUE,
            concurrency: usize::from(self.concurrency),
            drain,
        };
        let handler: Arc<dyn Handler> = Arc::new(self);
        let consumers = [queue].into_iter().chain(waiting_room);
        let work = |consumer| {
            let worker = worker.clone();
            worker.run(consumer, Arc::clone(&handler), stop.clone())
        };
        join_all(consumers.map(work)).await;
        Ok(())
    }

    async fn deliver(
        &self,
        message: &Message,
        payload: &R::Payload,
    ) -> Result<Decision, NoAttempt> {
        if let Some(reason) = self.too_late(message, payload) {
            return Err(NoAttempt::Dead(reason));
        }
        let destination = self.role.destination(payload).await?;
        let request = self.role.request(message, payload, &destination)?;
        // A delivery that has not failed yet may probe a failed endpoint first.
        let fresh = message.attempts == 0;
        let key = R::channel_id(payload).cloned();
        let permit = self
            .admission
            .enter(&key, request.limits, fresh, self.place(message))
            .await?;
        let mut attempt = self.attempt(message, payload, &request, permit).await;
        let deferred = self
            .role
            .after_attempt(payload, &destination, &attempt.outcome)
            .await;
        if let Some(deferred) = &deferred {
            attempt.decision = Decision::Wait(Waiting::new(message.accepted_at, deferred.reason));
        }
        log::attempted::<R>(message, payload, &request, &attempt);
        metrics::attempted(R::NAME, &attempt.outcome, attempt.duration, || {
            self.clock.now() - R::age_from(message, payload)
        });
        // Before the loop settles: a settled message always has its entry.
        let answer_by = request.answer.map(|due| due.after(self.clock.now()));
        let event = attempt.event(answer_by);
        self.journal(message, payload, event).await;
        match deferred {
            Some(deferred) => Ok(self
                .snooze(message, payload, attempt.number, deferred)
                .await),
            None => Ok(attempt.decision),
        }
    }

    /// Where the message waits if it is not admitted.
    fn place(&self, message: &Message) -> Place {
        match message.waiting {
            Some(_) => Place::Store,
            None if self.role.waits_in_store() => Place::BrokerOrStore,
            None => Place::Broker,
        }
    }

    /// The reason for a dead letter if the message has expired or is too old.
    fn too_late(&self, message: &Message, payload: &R::Payload) -> Option<DeadReason> {
        let expired = R::expires_at(message, payload).filter(|at| *at <= self.clock.now());
        if let Some(expired) = expired {
            let attempts = message.attempts;
            let at = expired.format(&Rfc3339).unwrap_or_default();
            let detail = format!("expired at {at} after {attempts} attempts");
            return Some(DeadReason::new(DeadKind::Expired, detail));
        }
        self.client.too_old(message, R::age_from(message, payload))
    }

    /// Makes an attempt. The start of a slow one is journaled.
    async fn attempt(
        &self,
        message: &Message,
        payload: &R::Payload,
        request: &Request<'_>,
        permit: Permit,
    ) -> Attempt {
        self.waits.forget(&message.id);
        let mut attempt = pin!(async {
            let age_from = R::age_from(message, payload);
            let attempt = self.client.attempt(message, age_from, request).await;
            // Free the permit at once: the journal's time must not count against the endpoint.
            let cap = self.client.retry_after_cap();
            permit.end(Signal::of(&attempt.outcome, cap));
            attempt
        });
        if let Ok(attempt) = timeout(QUICK, &mut attempt).await {
            return attempt;
        }
        let started = Event::Delivering {
            attempt: message.attempts.saturating_add(1),
        };
        let ((), attempt) = join!(self.journal(message, payload, started), attempt);
        attempt
    }

    /// Snoozes a message that has had this many attempts. The log and the timeline give a reason
    /// when it changes, because a waiting message is looked at many times.
    async fn snooze(
        &self,
        message: &Message,
        payload: &R::Payload,
        attempts: u32,
        Deferred { wait, reason }: Deferred,
    ) -> Decision {
        let is_news = self.waits.is_news(&message.id, reason, wait);
        let is_long = reason.is_of_channel() || wait >= self.wait_in_store_after;
        let moves = is_long && message.waiting.is_none() && self.role.waits_in_store();
        log::snoozed::<R>(message, payload, attempts, wait, reason, is_news);
        if is_news || moves {
            let until = (!reason.lasts()).then(|| self.clock.now() + wait);
            self.journal_wait(message, payload, attempts, reason, until)
                .await;
        }
        if moves {
            Decision::Wait(Waiting::new(message.accepted_at, reason))
        } else {
            Decision::Snooze(wait)
        }
    }

    /// Decides where a message waits for its next attempt. A long wait is in the timeline.
    async fn retry(&self, message: &Message, payload: &R::Payload, wait: Duration) -> Decision {
        if wait < self.wait_in_store_after || !self.role.waits_in_store() {
            return Decision::RetryAfter(wait);
        }
        let waiting = Waiting::new(self.clock.now() + wait, WaitReason::Retry);
        let attempts = waiting.attempts(message.attempts);
        let until = Some(waiting.due_at);
        self.journal_wait(message, payload, attempts, waiting.reason, until)
            .await;
        Decision::Wait(waiting)
    }

    async fn journal_wait(
        &self,
        message: &Message,
        payload: &R::Payload,
        attempts: u32,
        reason: WaitReason,
        until: Option<OffsetDateTime>,
    ) {
        let waiting = Event::Waiting {
            callback_id: None,
            attempts,
            reason,
            until,
        };
        self.journal(message, payload, waiting).await;
    }

    async fn journal(&self, message: &Message, payload: &R::Payload, event: Event) {
        if let Some(entry) = R::entry(message, payload, self.clock.now(), event) {
            self.journal.append(entry).await;
        }
    }
}

#[async_trait]
impl<R: DeliveryRole> Handler for Pipeline<R> {
    async fn handle(&self, message: &Message) -> Decision {
        let payload = serde_json::from_slice::<R::Payload>(&message.body);
        let (payload, reason) = match payload {
            Ok(payload) => match self.deliver(message, &payload).await {
                Ok(Decision::RetryAfter(wait)) => {
                    return self.retry(message, &payload, wait).await;
                }
                Ok(decision) => return decision,
                Err(NoAttempt::Deferred(deferred)) => {
                    return self
                        .snooze(message, &payload, message.attempts, deferred)
                        .await;
                }
                Err(NoAttempt::Dead(reason)) => (Some(payload), reason),
            },
            Err(error) => (None, role::undecodable(&error)),
        };
        let decision = Decision::Reject(reason);
        log::not_attempted::<R>(message, payload.as_ref(), &decision);
        decision
    }

    async fn panicked(&self, message: &Message) -> Decision {
        let payload = serde_json::from_slice::<R::Payload>(&message.body).ok();
        let age_from = payload.as_ref();
        let age_from = age_from.map_or(message.accepted_at, |of| R::age_from(message, of));
        let attempt = self.client.panicked(message, age_from);
        log::panicked::<R>(message, attempt.number);
        metrics::attempted(R::NAME, &attempt.outcome, attempt.duration, || {
            time::Duration::ZERO
        });
        if let Some(payload) = payload {
            self.journal(message, &payload, attempt.event(None)).await;
        }
        attempt.decision
    }
}
