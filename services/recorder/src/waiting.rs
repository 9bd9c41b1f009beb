//! Moves waiting messages from their queue to the store, from where the dispatcher delivers them.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use roundtrip_broker::{Handler, Message};
use roundtrip_model::{
    DeadReason, Decision, OutboundMessage, Waiting, decision::DeadKind, waiting::WaitReason,
};
use roundtrip_store::{BulkWriter, SharedStore, WaitingMessage};

use crate::written::{AFTER_A_PANIC, decision};

pub(crate) struct WaitingWriter {
    messages: BulkWriter<WaitingMessage>,
}

impl WaitingWriter {
    /// Starts the task that writes; at most `waiting` messages queue for it.
    pub(crate) fn start(store: SharedStore, waiting: u16) -> Self {
        let messages = BulkWriter::start("waiting messages", waiting, move |messages| {
            let store = Arc::clone(&store);
            async move { store.put_waiting(messages).await }.boxed()
        });
        Self { messages }
    }
}

#[async_trait]
impl Handler for WaitingWriter {
    async fn handle(&self, message: &Message) -> Decision {
        let payload: OutboundMessage = match serde_json::from_slice(&message.body) {
            Ok(payload) => payload,
            Err(error) => {
                let reason = DeadReason::new(DeadKind::Undecodable, error.to_string());
                return Decision::Reject(reason);
            }
        };
        // Another program's message has no time: it is due.
        let waiting = message.waiting.unwrap_or(Waiting {
            due_at: message.accepted_at,
            reason: WaitReason::Scheduled,
        });
        let row = WaitingMessage {
            id: message.id.clone(),
            expires_at: payload.expires_at(message.replay_count),
            channel_id: payload.channel_id,
            session_id: payload.session_id,
            replay_count: message.replay_count,
            attempts: message.attempts,
            accepted_at: message.accepted_at,
            due_at: waiting.due_at,
            reason: waiting.reason,
            body: message.body.clone(),
        };
        decision(self.messages.write(vec![row]).await)
    }

    async fn panicked(&self, _message: &Message) -> Decision {
        Decision::Snooze(AFTER_A_PANIC)
    }
}
