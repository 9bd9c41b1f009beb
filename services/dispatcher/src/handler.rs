//! What becomes of one outbound message.

use async_trait::async_trait;
use roundtrip_broker::{Handler, Parcel};
use roundtrip_model::{ChannelId, DeadReason, Decision, OutboundMessage, decision::DeadKind};
use roundtrip_store::StoreError;
use roundtrip_webhook::{Post, Told};
use url::Url;

use crate::Dispatcher;

#[async_trait]
impl Handler for Dispatcher {
    async fn handle(&self, parcel: &Parcel) -> Decision {
        let message = match serde_json::from_slice::<OutboundMessage>(&parcel.body) {
            Ok(message) => message,
            Err(error) => return not_tried(parcel, None, dead(DeadKind::Undecodable, &error)),
        };
        let channel_id = Some(&message.channel_id);
        if let Some(reason) = self.courier.too_old(parcel.tries, parcel.accepted_at) {
            return not_tried(parcel, channel_id, Decision::DeadLetter(reason));
        }
        let url = match self.endpoint(&message.channel_id).await {
            Ok(url) => url,
            Err(decision) => return not_tried(parcel, channel_id, decision),
        };
        let body = match serde_json::to_vec(&message.delivery_body(&message.response_url)) {
            Ok(body) => body.into(),
            Err(error) => {
                return not_tried(parcel, channel_id, dead(DeadKind::Undecodable, &error));
            }
        };
        self.deliver(parcel, &message, &url, body).await
    }

    fn panicked(&self, parcel: &Parcel) -> Decision {
        self.courier.panicked(parcel.tries, parcel.accepted_at)
    }
}

impl Dispatcher {
    /// Where the channel's messages go, or what becomes of one that has nowhere to go.
    async fn endpoint(&self, id: &ChannelId) -> Result<Url, Decision> {
        match self.channels.get(id).await {
            Ok(channel) => channel
                .endpoint()
                .map_err(|error| dead(DeadKind::BadEndpoint, &error)),
            Err(error @ StoreError::NotFound(_)) => Err(dead(DeadKind::UnknownChannel, &error)),
            Err(error @ StoreError::Unreadable { .. }) => Err(dead(DeadKind::BadEndpoint, &error)),
            // The others say nothing of the channel: the store is away, or will be asked again.
            Err(_) => Err(Decision::Park(self.park)),
        }
    }

    async fn deliver(
        &self,
        parcel: &Parcel,
        message: &OutboundMessage,
        url: &Url,
        body: bytes::Bytes,
    ) -> Decision {
        let webhook_id = message.message_id.to_string();
        let made = self
            .courier
            .attempt(Post {
                url,
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
        made.decision
    }
}

fn dead(kind: DeadKind, detail: &dyn ToString) -> Decision {
    Decision::DeadLetter(DeadReason::new(kind, detail.to_string()))
}

/// Logs a decision that was made without a try.
fn not_tried(parcel: &Parcel, channel_id: Option<&ChannelId>, decision: Decision) -> Decision {
    let told = Told::from(&decision);
    tracing::info!(
        message_id = parcel.id,
        channel_id = channel_id.map(ChannelId::as_str),
        tries = parcel.tries,
        decision = told.decision,
        wait_ms = told.wait_ms,
        reason = told.reason,
        "delivery.not_attempted"
    );
    decision
}

#[cfg(test)]
mod tests;
