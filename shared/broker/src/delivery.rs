//! A parcel that was handed out, and that is settled once: the methods that settle it consume it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use roundtrip_model::{DeadReason, Decision};

use crate::{Parcel, SettleError};

/// A parcel that was handed out. Settle it with [`Delivery::settle`]; one that is dropped
/// unsettled goes back to its queue, with a warning in the log.
#[must_use = "a delivery that is not settled goes back to its queue"]
pub struct Delivery {
    parcel: Parcel,
    lease: Option<Box<dyn Settle>>,
}

/// What an engine does with a delivery in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Forget it.
    Ack,
    /// Hand it out again after `delay`, with this many tries counted.
    Defer {
        /// The least time until it is handed out again.
        delay: Duration,
        /// The tries made by then.
        tries: u32,
    },
    /// Move it to its queue's dead queue.
    Dead {
        /// Why.
        reason: DeadReason,
        /// The tries made.
        tries: u32,
    },
}

/// An engine's side of one delivery. Dropping it (a settlement that was aborted half-way) does
/// what [`Settle::release`] does.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Carries the settlement out and resolves when it is safe: the parcel is in its new place
    /// before it leaves the old one.
    async fn settle(
        self: Box<Self>,
        parcel: Parcel,
        settlement: Settlement,
    ) -> Result<(), SettleError>;

    /// Puts the parcel back in its queue, as it was, without waiting.
    fn release(self: Box<Self>);
}

impl Delivery {
    /// A delivery of this parcel, settled through this lease.
    pub fn new(parcel: Parcel, lease: Box<dyn Settle>) -> Self {
        Self {
            parcel,
            lease: Some(lease),
        }
    }

    /// What was handed out.
    #[must_use]
    pub const fn parcel(&self) -> &Parcel {
        &self.parcel
    }

    /// Carries out what a handler decided.
    ///
    /// # Errors
    /// See [`SettleError`]: in every case the broker will hand the parcel out again.
    pub async fn settle(mut self, decision: Decision) -> Result<(), SettleError> {
        let tries = self.parcel.tries;
        let settlement = match decision {
            Decision::Done => Settlement::Ack,
            Decision::RetryAfter(delay) => Settlement::Defer {
                delay,
                tries: tries + 1,
            },
            Decision::Park(delay) => Settlement::Defer { delay, tries },
            Decision::DeadLetter(reason) => Settlement::Dead {
                reason,
                tries: tries + 1,
            },
        };
        let parcel = Parcel {
            body: self.parcel.body.clone(),
            id: std::mem::take(&mut self.parcel.id),
            // A parcel of a dead queue keeps its reason when it is parked there.
            dead: self.parcel.dead.take(),
            ..self.parcel
        };
        match self.lease.take() {
            Some(lease) => lease.settle(parcel, settlement).await,
            None => Ok(()),
        }
    }

    /// Puts it back in its queue as it was: no try was made, or none that counts.
    pub fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            tracing::warn!(id = self.parcel.id, "a delivery was dropped unsettled");
            lease.release();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("parcel", &self.parcel)
            .finish_non_exhaustive()
    }
}
