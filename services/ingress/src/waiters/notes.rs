//! Notes between ingress processes: the answer to a message that another one sent.
//!
//! Invariant: a note names the message of a valid callback token, and nothing else decides where it
//! goes: the message's id ends with the mailbox, and the token's MAC covers the id. A process ends
//! only waits for the message that a note names.

use std::time::Instant;

use bytes::Bytes;
use roundtrip_broker::{MAX_NOTE_BYTES, NoteSender};
use roundtrip_model::{Entry, Event, LogThrottle, MessageId};
use tokio::sync::mpsc;

static UNREADABLE: LogThrottle = LogThrottle::new();

/// The notes of this process to others. None if the broker belongs to one process.
pub(super) struct Notes(Option<NoteSender>);

impl Notes {
    pub(super) const fn new(sender: Option<NoteSender>) -> Self {
        Self(sender)
    }

    /// The id of a message whose answer is awaited here.
    pub(super) fn message_id(&self) -> MessageId {
        match &self.0 {
            Some(sender) => MessageId::awaited_at(sender.own()),
            None => MessageId::generate(),
        }
    }

    /// Sends the answer to the process that sent its message, if that process awaits it. A message
    /// that no process awaits costs nothing here.
    pub(super) fn send(&self, answered: &Entry) {
        let mailbox = answered.message_id.and_then(|id| id.mailbox());
        if let (Some(sender), Some(to)) = (&self.0, mailbox)
            && to != sender.own()
        {
            match encoded(answered) {
                Ok(note) => sender.send(to, note),
                Err(error) => tracing::error!(%error, "a note could not be encoded"),
            }
        }
    }
}

/// The entry of an answer. If it is too long for a note, it has no content, and its reader reads the
/// store.
fn encoded(answered: &Entry) -> serde_json::Result<Bytes> {
    let note = serde_json::to_vec(answered)?;
    if note.len() <= MAX_NOTE_BYTES {
        return Ok(note.into());
    }
    let mut outline = answered.clone();
    if let Event::Answered { content, .. } = &mut outline.event {
        *content = None;
    }
    serde_json::to_vec(&outline).map(Into::into)
}

/// Reads the notes of other processes.
pub(super) async fn read(received: Option<mpsc::Receiver<Bytes>>, answered: impl Fn(Entry)) {
    let Some(mut received) = received else {
        return;
    };
    while let Some(note) = received.recv().await {
        match serde_json::from_slice(&note) {
            Ok(entry) => answered(entry),
            Err(error) => {
                if let Some(suppressed) = UNREADABLE.due(Instant::now()) {
                    tracing::warn!(%error, suppressed, "a note of another ingress process is unreadable");
                }
            }
        }
    }
}
