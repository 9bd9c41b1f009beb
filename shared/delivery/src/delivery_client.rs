//! Makes attempts: one post, judged by the retry policy.
//!
//! Invariant: the decision depends only on the attempt's outcome, the attempts before it, the
//! message's age and the policy. `age_from` is the time from which the age counts.

use std::{sync::Arc, time::Duration};

use roundtrip_broker::Message;
use roundtrip_model::{
    Clock, DeadReason, Outcome, RetryPolicy, decision::DeadKind, outcome::Failure,
};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{Request, Webhook, attempt::Attempt, client::Post};

#[derive(Debug)]
pub(crate) struct DeliveryClient {
    webhook: Webhook,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
}

impl DeliveryClient {
    pub(crate) fn new(webhook: Webhook, policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        Self {
            webhook,
            policy,
            clock,
        }
    }

    pub(crate) fn too_old(
        &self,
        message: &Message,
        age_from: OffsetDateTime,
    ) -> Option<DeadReason> {
        let old = self.policy.is_too_old(age_from, self.clock.now());
        old.then(|| {
            let most = humantime::format_duration(self.policy.max_age);
            let detail = format!("older than {most} after {} attempts", message.attempts);
            DeadReason::new(DeadKind::TooOld, detail)
        })
    }

    pub(crate) const fn retry_after_cap(&self) -> Duration {
        self.policy.retry_after_cap
    }

    pub(crate) async fn attempt(
        &self,
        message: &Message,
        age_from: OffsetDateTime,
        request: &Request<'_>,
    ) -> Attempt {
        let started = Instant::now();
        let timeout = request.timeout.unwrap_or(self.webhook.timeout());
        let post = Post {
            url: request.url,
            webhook_id: &request.webhook_id,
            now: self.clock.now(),
            headers: &request.headers,
            body: request.body.clone(),
            signer: request.signer,
        };
        let outcome = self.webhook.post_within(timeout, post).await;
        let duration = started.elapsed();
        match request.schedule {
            None => self.judged(message, age_from, outcome, duration, &self.policy),
            Some(schedule) => {
                let policy = RetryPolicy {
                    schedule: schedule.to_vec(),
                    ..self.policy.clone()
                };
                self.judged(message, age_from, outcome, duration, &policy)
            }
        }
    }

    /// The attempt of a message whose handler panicked. Its duration is unknown.
    pub(crate) fn panicked(&self, message: &Message, age_from: OffsetDateTime) -> Attempt {
        let outcome = Outcome::Failed(Failure::Panicked);
        self.judged(message, age_from, outcome, Duration::ZERO, &self.policy)
    }

    fn judged(
        &self,
        message: &Message,
        age_from: OffsetDateTime,
        outcome: Outcome,
        duration: Duration,
        policy: &RetryPolicy,
    ) -> Attempt {
        let number = message.attempts.saturating_add(1);
        let now = self.clock.now();
        let decision = policy.decide(&outcome, number, age_from, now, &mut rand::rng());
        Attempt {
            number,
            outcome,
            duration,
            decision,
        }
    }
}
