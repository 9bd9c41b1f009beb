//! Notes: short messages to another process of the deployment, which may be lost.
//!
//! Invariant: sending a note never waits. A note that finds no place is dropped without an error, so
//! its receiver must also be able to read elsewhere what it says.

use bytes::Bytes;
use roundtrip_model::MailboxId;
use tokio::sync::mpsc;

/// The longest note. A longer one is dropped.
pub const MAX_NOTE_BYTES: usize = 16 << 10;

/// The most notes that wait to be sent, and the most that were received and not yet read.
const MAX_UNSENT: usize = 1024;
const MAX_UNREAD: usize = 64;

/// What this process sends to others and receives from them. Dropping both parts closes it.
#[derive(Debug)]
pub struct Mailbox {
    pub sender: NoteSender,
    pub received: mpsc::Receiver<Bytes>,
}

#[derive(Debug, Clone)]
pub struct NoteSender {
    own: MailboxId,
    unsent: mpsc::Sender<Note>,
}

/// A note, and the mailbox that it is for.
#[derive(Debug)]
pub struct Note {
    pub to: MailboxId,
    pub body: Bytes,
}

/// The engine's side of a mailbox.
#[derive(Debug)]
pub struct Carrier {
    pub own: MailboxId,
    pub unsent: mpsc::Receiver<Note>,
    pub received: mpsc::Sender<Bytes>,
}

impl Mailbox {
    /// An empty mailbox with a new id, and its engine's side.
    pub fn open() -> (Self, Carrier) {
        let own = MailboxId::generate();
        let (unsent_sender, unsent) = mpsc::channel(MAX_UNSENT);
        let (received_sender, received) = mpsc::channel(MAX_UNREAD);
        let sender = NoteSender {
            own,
            unsent: unsent_sender,
        };
        let carrier = Carrier {
            own,
            unsent,
            received: received_sender,
        };
        (Self { sender, received }, carrier)
    }
}

impl NoteSender {
    /// The mailbox of this process.
    pub const fn own(&self) -> MailboxId {
        self.own
    }

    pub fn send(&self, to: MailboxId, body: Bytes) {
        if body.len() <= MAX_NOTE_BYTES {
            // Without a place it is dropped.
            let _ = self.unsent.try_send(Note { to, body });
        }
    }
}
