//! An attempt: one post, judged by the policy. The dispatcher and the forwarder share it.
//!
//! Invariant: the decision depends only on the attempt's outcome, the attempts before it, the
//! message's age and the policy.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use roundtrip_model::{
    Clock, DeadReason, Decision, Outcome, RetryPolicy, Signer, decision::DeadKind,
    journal::Attempt, outcome::Failure,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use crate::Webhook;

/// Posts under a policy.
#[derive(Debug)]
pub struct DeliveryClient {
    webhook: Webhook,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
}

/// What to post.
#[derive(Debug)]
pub struct Post<'a> {
    /// The receiver's URL.
    pub url: &'a Url,
    /// The message's id, the same on every attempt.
    pub webhook_id: &'a str,
    /// JSON.
    pub body: Bytes,
    /// Signs the post, if its receiver has a secret.
    pub signer: Option<&'a Signer>,
    /// Attempts made before this one.
    pub attempts: u32,
    /// When Roundtrip accepted the message.
    pub accepted_at: OffsetDateTime,
}

/// A receiver's settings that override the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides<'a> {
    /// The time limit on the exchange.
    pub timeout: Option<Duration>,
    /// The interval after each failed attempt, in order.
    pub schedule: Option<&'a [Duration]>,
}

/// An attempt that was made, with its outcome and decision.
#[derive(Debug)]
pub struct Try {
    /// The attempt's number, from 1 on.
    pub attempt: u32,
    /// The outcome.
    pub outcome: Outcome,
    /// How long the attempt took.
    pub duration: Duration,
    /// The decision.
    pub decision: Decision,
}

impl DeliveryClient {
    /// Posts with this client under this policy.
    pub fn new(webhook: Webhook, policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        Self {
            webhook,
            policy,
            clock,
        }
    }

    /// The reason for a dead letter if a message that was accepted at this time is too old.
    #[must_use]
    pub fn too_old(&self, attempts: u32, accepted_at: OffsetDateTime) -> Option<DeadReason> {
        let old = self.policy.is_too_old(accepted_at, self.clock.now());
        old.then(|| {
            let most = humantime::format_duration(self.policy.max_age);
            DeadReason::new(
                DeadKind::TooOld,
                format!("older than {most} after {attempts} attempts"),
            )
        })
    }

    /// The longest wait that a server's `Retry-After` can request.
    #[must_use]
    pub const fn retry_after_cap(&self) -> Duration {
        self.policy.retry_after_cap
    }

    /// Makes one attempt.
    pub async fn attempt(&self, post: Post<'_>) -> Try {
        self.attempt_with(post, Overrides::default()).await
    }

    /// Makes one attempt, with its receiver's settings.
    pub async fn attempt_with(&self, post: Post<'_>, overrides: Overrides<'_>) -> Try {
        let Post {
            url,
            webhook_id,
            body,
            signer,
            attempts,
            accepted_at,
        } = post;
        let started = Instant::now();
        let timeout = overrides.timeout.unwrap_or(self.webhook.timeout());
        let outcome = self
            .webhook
            .post_within(timeout, url, webhook_id, self.clock.now(), body, signer)
            .await;
        let attempt = attempts.saturating_add(1);
        let decision = match overrides.schedule {
            None => self.decide(&self.policy, &outcome, attempt, accepted_at),
            Some(schedule) => {
                let policy = RetryPolicy {
                    schedule: schedule.to_vec(),
                    ..self.policy.clone()
                };
                self.decide(&policy, &outcome, attempt, accepted_at)
            }
        };
        Try {
            attempt,
            duration: started.elapsed(),
            decision,
            outcome,
        }
    }

    /// The attempt whose handler panicked after `attempts` others. Its duration is unknown.
    #[must_use]
    pub fn panicked(&self, attempts: u32, accepted_at: OffsetDateTime) -> Try {
        let outcome = Outcome::Failed(Failure::Panicked);
        let attempt = attempts.saturating_add(1);
        Try {
            attempt,
            duration: Duration::ZERO,
            decision: self.decide(&self.policy, &outcome, attempt, accepted_at),
            outcome,
        }
    }

    fn decide(
        &self,
        policy: &RetryPolicy,
        outcome: &Outcome,
        attempt: u32,
        accepted_at: OffsetDateTime,
    ) -> Decision {
        let now = self.clock.now();
        policy.decide(outcome, attempt, accepted_at, now, &mut rand::rng())
    }
}

/// An outcome and a decision as the fields of a log line.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// `done`, `retry`, `dead_letter` or `park`.
    pub decision: &'static str,
    /// Time until the message is delivered again, in milliseconds.
    pub wait_ms: Option<u64>,
    /// Why the message is dead.
    pub reason: Option<&'static str>,
}

impl From<&Decision> for Told {
    fn from(decision: &Decision) -> Self {
        let milliseconds = |wait: &Duration| u64::try_from(wait.as_millis()).ok();
        let (decision, wait_ms, reason) = match decision {
            Decision::Done => ("done", None, None),
            Decision::RetryAfter(wait) => ("retry", milliseconds(wait), None),
            Decision::DeadLetter(reason) => ("dead_letter", None, Some(reason.kind.as_str())),
            Decision::Snooze(wait) => ("park", milliseconds(wait), None),
        };
        Self {
            decision,
            wait_ms,
            reason,
        }
    }
}

impl Try {
    /// The attempt as a journal entry.
    #[must_use]
    pub fn journaled(&self) -> Box<Attempt> {
        let Self {
            attempt,
            outcome,
            decision,
            ..
        } = self;
        let attempt = Attempt::new(*attempt, outcome, self.duration_ms(), decision);
        Box::new(attempt)
    }

    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            Outcome::Failed(_) => None,
        }
    }

    /// The failure in one line; `None` if the delivery succeeded.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        (self.decision != Decision::Done).then(|| self.outcome.headline())
    }

    /// How long the attempt took, in milliseconds.
    #[must_use]
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX)
    }
}
