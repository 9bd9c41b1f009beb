//! Notes between the processes of a deployment.

use bytes::Bytes;
use harness::wait;
use roundtrip_broker::{MAX_NOTE_BYTES, Mailbox, NoteSender};
use roundtrip_model::MailboxId;
use tokio::time::timeout;

use super::{Engine, Harness, LIMIT};

/// An engine that belongs to one process has no mailboxes.
pub(crate) async fn a_note_reaches_its_mailbox_alone<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let Some([mut one, mut other]) = broker.mailbox().zip(broker.mailbox()).map(<[_; 2]>::from)
    else {
        return;
    };
    let own = |mailbox: &Mailbox| mailbox.sender.own();
    assert_ne!(own(&one), own(&other));
    until_open(&mut one).await;
    until_open(&mut other).await;
    let longest = Bytes::from(vec![b'x'; MAX_NOTE_BYTES]);
    let sender: &NoteSender = &one.sender;
    // One that is too long, and one for a mailbox that does not exist.
    sender.send(own(&other), vec![b'x'; MAX_NOTE_BYTES + 1].into());
    sender.send(MailboxId::generate(), longest.clone());
    sender.send(own(&other), longest.clone());
    sender.send(own(&one), Bytes::from_static(b"last"));
    // What goes to one mailbox keeps its order.
    assert_eq!(next(&mut other).await, longest);
    assert_eq!(next(&mut one).await, "last");
    broker.close().await;
    for mut mailbox in [one, other] {
        let end = timeout(LIMIT, mailbox.received.recv()).await;
        assert_eq!(end.expect("it ends with its broker"), None);
    }
}

/// Waits until the mailbox receives its own notes.
async fn until_open(mailbox: &mut Mailbox) {
    let received = wait::until_within(LIMIT, "a note to arrive", async || {
        mailbox.sender.send(mailbox.sender.own(), "open?".into());
        mailbox.received.try_recv().ok()
    });
    received.await.expect("it opens");
    // The others have arrived when a last one has.
    mailbox.sender.send(mailbox.sender.own(), "open".into());
    while next(mailbox).await != "open" {}
}

async fn next(mailbox: &mut Mailbox) -> Bytes {
    let note = timeout(LIMIT, mailbox.received.recv()).await;
    note.expect("a note in time").expect("an open mailbox")
}
