//! A received message that is settled at most once: the methods that settle it consume it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use roundtrip_model::{DeadReason, Decision, Waiting};

use crate::{Message, SettleError};

/// A received message. Settle it with [`Delivery::settle`]; dropping it unsettled returns it to its
/// queue and logs a warning.
#[must_use = "a delivery that is not settled goes back to its queue"]
pub struct Delivery {
    message: Message,
    lease: Option<Box<dyn Settle>>,
}

/// What an engine does with a delivery when it is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Remove the message.
    Ack,
    /// Deliver the message again after `delay`, with this number of attempts made so far.
    Defer {
        /// Minimum time until it is delivered again.
        delay: Duration,
        attempts: u32,
    },
    /// Move it to the waiting queue, with this number of attempts made so far.
    Wait { waiting: Waiting, attempts: u32 },
    /// Move it to the dead queue of its queue.
    Dead {
        reason: DeadReason,
        /// Attempts made so far, plus one for this delivery even if it made none.
        attempts: u32,
    },
}

/// An engine's side of one delivery. Dropping it, as an aborted settlement does, has the same
/// effect as [`Settle::release`].
#[async_trait]
pub trait Settle: Send + Sync {
    /// Carries out the settlement and resolves when it is durable. A moved message is stored in its
    /// new place before it leaves the old one.
    async fn settle(
        self: Box<Self>,
        message: Message,
        settlement: Settlement,
    ) -> Result<(), SettleError>;

    /// Returns the message unchanged to its queue, without waiting.
    fn release(self: Box<Self>);
}

impl Delivery {
    pub fn new(message: Message, lease: Box<dyn Settle>) -> Self {
        Self {
            message,
            lease: Some(lease),
        }
    }

    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Carries out the handler's decision.
    ///
    /// # Errors
    /// See [`SettleError`]: after any error the broker delivers the message again.
    pub async fn settle(mut self, decision: Decision) -> Result<(), SettleError> {
        let attempts = self.message.attempts;
        let settlement = match decision {
            Decision::Done => Settlement::Ack,
            Decision::RetryAfter(delay) => Settlement::Defer {
                delay,
                attempts: attempts + 1,
            },
            Decision::Snooze(delay) => Settlement::Defer { delay, attempts },
            Decision::Wait(waiting) => Settlement::Wait {
                waiting,
                attempts: waiting.attempts(attempts),
            },
            Decision::DeadLetter(reason) => Settlement::Dead {
                reason,
                attempts: attempts + 1,
            },
            Decision::Reject(reason) => Settlement::Dead { reason, attempts },
        };
        let message = Message {
            body: self.message.body.clone(),
            id: std::mem::take(&mut self.message.id),
            // A dead letter that is snoozed keeps its reason.
            dead: self.message.dead.take(),
            ..self.message
        };
        match self.lease.take() {
            Some(lease) => lease.settle(message, settlement).await,
            None => Ok(()),
        }
    }

    /// Returns the message unchanged to its queue: no attempt is counted.
    pub fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            tracing::warn!(id = self.message.id, "a delivery was dropped unsettled");
            lease.release();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
