//! A try: one post, judged by the policy. What the dispatcher and the forwarder share.
//!
//! Invariant: what a try decides depends on its outcome, the tries before it, the message's age
//! and the policy, and on nothing else.

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
pub struct Courier {
    webhook: Webhook,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
}

/// What is to be posted.
#[derive(Debug)]
pub struct Post<'a> {
    /// Where to.
    pub url: &'a Url,
    /// The message's own id, the same on every try.
    pub webhook_id: &'a str,
    /// JSON.
    pub body: Bytes,
    /// Signs it, where its receiver has a secret.
    pub signer: Option<&'a Signer>,
    /// The tries made before this one.
    pub tries: u32,
    /// When Roundtrip accepted the message.
    pub accepted_at: OffsetDateTime,
}

/// What one receiver wants otherwise than the configuration has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides<'a> {
    /// The time limit on the exchange.
    pub timeout: Option<Duration>,
    /// The interval after each failed try, in order.
    pub schedule: Option<&'a [Duration]>,
}

/// A try that was made: what came of it and what follows.
#[derive(Debug)]
pub struct Try {
    /// Which try it was, from 1 on.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// What follows.
    pub decision: Decision,
}

impl Courier {
    /// Posts with this client under this policy.
    pub fn new(webhook: Webhook, policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        Self {
            webhook,
            policy,
            clock,
        }
    }

    /// Why a message that was accepted at this time is not tried any more, if it is too old.
    #[must_use]
    pub fn too_old(&self, tries: u32, accepted_at: OffsetDateTime) -> Option<DeadReason> {
        let old = self.policy.is_too_old(accepted_at, self.clock.now());
        old.then(|| {
            let most = humantime::format_duration(self.policy.max_age);
            DeadReason::new(
                DeadKind::TooOld,
                format!("older than {most} after {tries} tries"),
            )
        })
    }

    /// The longest wait that another server's `Retry-After` can ask for.
    #[must_use]
    pub const fn retry_after_cap(&self) -> Duration {
        self.policy.retry_after_cap
    }

    /// Makes one try.
    pub async fn attempt(&self, post: Post<'_>) -> Try {
        self.attempt_with(post, Overrides::default()).await
    }

    /// Makes one try, as its receiver wants it.
    pub async fn attempt_with(&self, post: Post<'_>, overrides: Overrides<'_>) -> Try {
        let Post {
            url,
            webhook_id,
            body,
            signer,
            tries,
            accepted_at,
        } = post;
        let started = Instant::now();
        let timeout = overrides.timeout.unwrap_or(self.webhook.timeout());
        let outcome = self
            .webhook
            .post_within(timeout, url, webhook_id, self.clock.now(), body, signer)
            .await;
        let attempt = tries.saturating_add(1);
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

    /// The try whose handling panicked after `tries` others. Nobody knows how long it took.
    #[must_use]
    pub fn panicked(&self, tries: u32, accepted_at: OffsetDateTime) -> Try {
        let outcome = Outcome::Failed(Failure::Panicked);
        let attempt = tries.saturating_add(1);
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
    /// How long until it is handed out again, in milliseconds.
    pub wait_ms: Option<u64>,
    /// Why it is dead.
    pub reason: Option<&'static str>,
}

impl From<&Decision> for Told {
    fn from(decision: &Decision) -> Self {
        let milliseconds = |wait: &Duration| u64::try_from(wait.as_millis()).ok();
        let (decision, wait_ms, reason) = match decision {
            Decision::Done => ("done", None, None),
            Decision::RetryAfter(wait) => ("retry", milliseconds(wait), None),
            Decision::DeadLetter(reason) => ("dead_letter", None, Some(reason.kind.as_str())),
            Decision::Park(wait) => ("park", milliseconds(wait), None),
        };
        Self {
            decision,
            wait_ms,
            reason,
        }
    }
}

impl Try {
    /// The try as the journal tells it.
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

    /// The status that was answered, if any was.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } => Some(status),
            Outcome::Failed(_) => None,
        }
    }

    /// What went wrong, in one line; nothing where it arrived.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        (self.decision != Decision::Done).then(|| self.outcome.headline())
    }

    /// How long it took, in milliseconds.
    #[must_use]
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX)
    }
}
