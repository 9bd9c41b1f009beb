//! Moves dead letters from their queues to the store, where operators find them.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use roundtrip_broker::{Handler, Message};
use roundtrip_journal::Journal;
use roundtrip_model::{
    Callback, CallbackId, ChannelId, Clock, DeadReason, Decision, Entry, EntryId, Event, MessageId,
    MessageKind, Notice, OutboundMessage, SessionId, decision::DeadKind,
};
use roundtrip_store::{BulkWriter, DeadLetter, DeadQueue, SharedStore};

use crate::{
    metrics::DEAD_LETTERS,
    written::{AFTER_A_PANIC, decision},
};

pub(crate) struct DeadLetterWriter {
    queue: DeadQueue,
    letters: BulkWriter<DeadLetter>,
    journal: Journal,
    clock: Arc<dyn Clock>,
}

/// What a dead letter belongs to, as far as its body can be read.
#[derive(Default)]
struct Subject {
    message_id: Option<MessageId>,
    channel_id: Option<ChannelId>,
    session_id: Option<SessionId>,
    /// `None` if it is no answer.
    callback_id: Option<CallbackId>,
    kind: MessageKind,
}

impl DeadLetterWriter {
    /// Starts the task that writes; at most `waiting` letters queue for it.
    pub(crate) fn start(
        queue: DeadQueue,
        store: SharedStore,
        waiting: u16,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let letters = BulkWriter::start("dead letters", waiting, move |letters| {
            let store = Arc::clone(&store);
            async move { store.insert(letters).await }.boxed()
        });
        Self {
            queue,
            letters,
            journal,
            clock,
        }
    }

    /// What can be read of the body; an unreadable message is stored all the same.
    fn subject(&self, message: &Message) -> Subject {
        match self.queue {
            DeadQueue::Outbound => serde_json::from_slice(&message.body)
                .map(|message: OutboundMessage| Subject {
                    message_id: Some(message.message_id),
                    channel_id: Some(message.channel_id),
                    session_id: Some(message.session_id),
                    ..Subject::default()
                })
                .unwrap_or_default(),
            DeadQueue::Callbacks => serde_json::from_slice(&message.body)
                .map(|callback: Callback| Subject {
                    kind: callback.kind(),
                    message_id: callback.message_id,
                    channel_id: callback.channel_id,
                    session_id: Some(callback.session_id),
                    callback_id: callback.callback_id,
                })
                .unwrap_or_default(),
            DeadQueue::Notices => serde_json::from_slice(&message.body)
                .map(|notice: Notice| Subject {
                    message_id: notice.event.message_id(),
                    channel_id: notice.event.channel_id().cloned(),
                    ..Subject::default()
                })
                .unwrap_or_default(),
        }
    }

    fn letter(&self, message: &Message) -> (DeadLetter, Option<Entry>) {
        let subject = self.subject(message);
        let reason = message.dead.clone().unwrap_or_else(|| {
            DeadReason::new(
                DeadKind::DeliveryLimit,
                "found in the dead queue without a reason",
            )
        });
        let dead_at = self.clock.now();
        // An unreadable message has no session.
        let entry = subject.session_id.clone().map(|session_id| Entry {
            entry_id: EntryId::generate(),
            message_id: subject.message_id,
            channel_id: subject.channel_id.clone(),
            session_id,
            kind: subject.kind,
            replay_count: message.replay_count,
            at: dead_at,
            event: match subject.callback_id {
                None => Event::Dead(reason.clone()),
                Some(callback_id) => Event::AnswerDead {
                    callback_id,
                    reason: reason.clone(),
                },
            },
        });
        let letter = DeadLetter {
            dead_id: format!("{}.{}", message.id, message.replay_count),
            queue: self.queue,
            webhook_id: message.id.clone(),
            message_id: subject.message_id,
            channel_id: subject.channel_id,
            session_id: subject.session_id,
            reason,
            attempts: message.attempts,
            replay_count: message.replay_count,
            accepted_at: message.accepted_at,
            dead_at,
            body: message.body.clone(),
            contents_erased_at: None,
        };
        (letter, entry)
    }
}

#[async_trait]
impl Handler for DeadLetterWriter {
    async fn handle(&self, message: &Message) -> Decision {
        let (letter, entry) = self.letter(message);
        let written = self.letters.write(vec![letter.clone()]).await;
        if written.is_err() {
            return decision(written);
        }
        DEAD_LETTERS.inc((letter.queue, letter.reason.kind));
        if let Some(entry) = entry {
            self.journal.append(entry).await;
        }
        tracing::info!(
            dead_id = letter.dead_id,
            queue = ?letter.queue,
            channel_id = letter.channel_id.as_ref().map(ChannelId::as_str),
            reason = letter.reason.kind.as_str(),
            attempts = letter.attempts,
            "dead_letter.stored"
        );
        Decision::Done
    }

    async fn panicked(&self, _message: &Message) -> Decision {
        Decision::Snooze(AFTER_A_PANIC)
    }
}
