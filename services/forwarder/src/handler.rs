//! What becomes of one answer.

use async_trait::async_trait;
use roundtrip_broker::{Handler, Parcel};
use roundtrip_model::{Callback, DeadReason, Decision, decision::DeadKind};
use roundtrip_webhook::{Post, Told};

use crate::Forwarder;

#[async_trait]
impl Handler for Forwarder {
    async fn handle(&self, parcel: &Parcel) -> Decision {
        let read = serde_json::from_slice::<Callback>(&parcel.body).and_then(|callback| {
            let body = serde_json::to_vec(&callback.forward_body())?;
            Ok((callback, body))
        });
        let (callback, body) = match read {
            Ok(read) => read,
            Err(error) => {
                let reason = DeadReason::new(DeadKind::Undecodable, error.to_string());
                return not_tried(parcel, Decision::DeadLetter(reason));
            }
        };
        if let Some(reason) = self.courier.too_old(parcel.tries, parcel.accepted_at) {
            return not_tried(parcel, Decision::DeadLetter(reason));
        }
        self.forward(parcel, &callback, body.into()).await
    }

    fn panicked(&self, parcel: &Parcel) -> Decision {
        self.courier.panicked(parcel.tries, parcel.accepted_at)
    }
}

impl Forwarder {
    async fn forward(&self, parcel: &Parcel, callback: &Callback, body: bytes::Bytes) -> Decision {
        let webhook_id = callback.callback_id.to_string();
        let made = self
            .courier
            .attempt(Post {
                url: &self.sessions_server,
                webhook_id: &webhook_id,
                body,
                tries: parcel.tries,
                accepted_at: parcel.accepted_at,
            })
            .await;
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
        made.decision
    }
}

/// Logs a decision that was made without a try.
fn not_tried(parcel: &Parcel, decision: Decision) -> Decision {
    let told = Told::from(&decision);
    tracing::info!(
        callback_id = parcel.id,
        tries = parcel.tries,
        decision = told.decision,
        reason = told.reason,
        "forward.not_attempted"
    );
    decision
}

#[cfg(test)]
mod tests;
