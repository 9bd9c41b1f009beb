//! Requests that wait for the answer to a message.
//!
//! Invariant: a waiting request ends soon after any process has accepted its answer. If this process
//! accepts the answer, the request ends at once. If another one does, its note ends the wait of the
//! process that sent the message ([`notes`]). All else this process finds in the store, which it reads
//! once every [`READ_EVERY`].

mod notes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join;
use parking_lot::Mutex;
use roundtrip_broker::Mailbox;
use roundtrip_model::{CallbackId, Entry, Event, MessageId, State};
use roundtrip_store::{AnswerRecord, MAX_PAGE, SharedStore};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::notes::Notes;
use crate::{
    auth::Principal,
    limits::{Place, Places},
    problem::{Kind, Problem},
};

/// How often the store is read for the ends of waits of which no note comes. A read that takes longer is
/// followed by a pause as long as itself.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(500);

/// How long to wait for the recorder to store a message or an answer that was accepted.
pub(crate) const RECORDED_WITHIN: Duration = Duration::from_secs(2);

/// The first pause between two reads of what is about to be stored. Each further one is twice as
/// long, up to [`READ_EVERY`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// What is known of an awaited message.
#[derive(Debug, Clone)]
enum Known {
    Nothing,
    /// This process accepted the answer, or has a note of it.
    Answer(Arc<AnswerRecord>),
    /// In the store, or by a note without the answer, the message has a state that ends the wait.
    Ended(State),
}

/// Why a wait ended.
#[derive(Debug)]
pub(crate) enum Waited {
    Answer(Arc<AnswerRecord>),
    /// The message has this state, and the store has the rest, or is about to have it.
    Ended(State),
    /// The time has passed, or the process stops.
    InVain,
}

pub(crate) struct Waiters {
    awaited: Arc<Mutex<Awaited>>,
    places: Places,
    notes: Notes,
    stopping: CancellationToken,
    _reader: DropGuard,
}

/// What is known of each awaited message.
#[derive(Default)]
struct Awaited(HashMap<MessageId, watch::Sender<Known>>);

/// One request that waits.
pub(crate) struct Waiter {
    message_id: MessageId,
    /// `None` only while it is dropped.
    known: Option<watch::Receiver<Known>>,
    awaited: Arc<Mutex<Awaited>>,
    stopping: CancellationToken,
    _place: Place,
}

impl Waiters {
    /// At most `places` requests wait, until `stopping`. Other processes send notes to the mailbox, if
    /// there is one. Must be called within a runtime.
    pub(crate) fn start(
        places: usize,
        store: SharedStore,
        mailbox: Option<Mailbox>,
        stopping: CancellationToken,
    ) -> Self {
        let awaited = Arc::<Mutex<Awaited>>::default();
        let dropped = CancellationToken::new();
        let (sender, received) = mailbox
            .map(|Mailbox { sender, received }| (sender, received))
            .unzip();
        let ended = Arc::clone(&awaited);
        let reading = join(
            read(Arc::clone(&awaited), store),
            notes::read(received, move |answered| ended.lock().end(&answered)),
        );
        tokio::spawn(dropped.clone().run_until_cancelled_owned(reading));
        Self {
            awaited,
            places: Places::new(places),
            notes: Notes::new(sender),
            stopping,
            _reader: dropped.drop_guard(),
        }
    }

    /// Begins a wait. An answer that is accepted from now on ends it.
    pub(crate) fn begin(
        &self,
        principal: &Principal,
        message_id: MessageId,
    ) -> Result<Waiter, Problem> {
        let place = self.places.take(principal).ok_or(Kind::TooManyWaiters)?;
        let mut awaited = self.awaited.lock();
        let known = awaited
            .0
            .entry(message_id)
            .or_insert_with(|| watch::Sender::new(Known::Nothing))
            .subscribe();
        Ok(Waiter {
            message_id,
            known: Some(known),
            awaited: Arc::clone(&self.awaited),
            stopping: self.stopping.clone(),
            _place: place,
        })
    }

    /// The id of a message for whose answer a request is about to wait.
    pub(crate) fn message_id(&self) -> MessageId {
        self.notes.message_id()
    }

    /// Ends the waits for the message that this entry says is answered: those of this process, and by
    /// a note those of the process that sent the message.
    pub(crate) fn answered(&self, answered: &Entry) {
        self.awaited.lock().end(answered);
        self.notes.send(answered);
    }
}

impl Awaited {
    /// Ends the waits for the message of this entry.
    fn end(&self, answered: &Entry) {
        let known = answered.message_id.and_then(|id| self.0.get(&id));
        let Some(sender) = known else {
            return;
        };
        if let Event::Answered {
            callback_id,
            content,
        } = &answered.event
        {
            sender.send_replace(match content {
                Some(content) => Known::Answer(Arc::new(AnswerRecord {
                    callback_id: *callback_id,
                    at: answered.at,
                    content: Some(content.clone()),
                    contents_erased_at: None,
                })),
                None => Known::Ended(State::Answered),
            });
        }
    }
}

impl Waiter {
    pub(crate) const fn message_id(&self) -> MessageId {
        self.message_id
    }

    pub(crate) async fn wait(&mut self, deadline: Instant) -> Waited {
        let Some(known) = &mut self.known else {
            return Waited::InVain;
        };
        let ended = known.wait_for(|known| !matches!(known, Known::Nothing));
        let ended = timeout_at(deadline, ended);
        match self.stopping.run_until_cancelled(ended).await {
            Some(Ok(Ok(known))) => match &*known {
                Known::Nothing => Waited::InVain,
                Known::Answer(answer) => Waited::Answer(Arc::clone(answer)),
                Known::Ended(state) => Waited::Ended(*state),
            },
            _ => Waited::InVain,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut awaited = self.awaited.lock();
        self.known = None;
        let is_last = |sender: &watch::Sender<Known>| sender.receiver_count() == 0;
        if awaited.0.get(&self.message_id).is_some_and(is_last) {
            awaited.0.remove(&self.message_id);
        }
    }
}

/// Looks in the store for the ends of awaited messages.
async fn read(awaited: Arc<Mutex<Awaited>>, store: SharedStore) {
    let mut took = Duration::ZERO;
    loop {
        // At most half of the time, because the recorder writes the answers to the same store.
        sleep(took.max(READ_EVERY)).await;
        let began = Instant::now();
        let all: Vec<MessageId> = awaited.lock().0.keys().copied().collect();
        for ids in all.chunks(usize::from(MAX_PAGE)) {
            // While the store is unavailable, only accepted answers and notes end a wait.
            let Ok(found) = store.states(ids).await else {
                break;
            };
            let awaited = awaited.lock();
            for (id, state) in found.into_iter().filter(|(_, state)| ends_a_wait(*state)) {
                if let Some(sender) = awaited.0.get(&id) {
                    sender.send_if_modified(|known| {
                        let is_new = matches!(known, Known::Nothing);
                        if is_new {
                            *known = Known::Ended(state);
                        }
                        is_new
                    });
                }
            }
        }
        took = began.elapsed();
    }
}

/// Whether a request stops waiting for an answer to a message in this state.
pub(crate) const fn ends_a_wait(state: State) -> bool {
    has_answer(state) || matches!(state, State::Overdue | State::Dead | State::Cancelled)
}

/// Whether a message in this state certainly has an answer.
pub(crate) const fn has_answer(state: State) -> bool {
    matches!(state, State::Answered | State::Forwarded)
}

/// Waits until the store has the answer, and returns it: the one with the id `which`, or the first answer
/// to the message. The message's state can be `answered` in the store before the answer is there.
pub(crate) async fn recorded(
    store: &SharedStore,
    message_id: &MessageId,
    which: Option<&CallbackId>,
    until: Instant,
) -> Option<AnswerRecord> {
    let mut pauses = Pauses::default();
    loop {
        if let Ok(Some(answer)) = store.answer(message_id, which).await {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        pauses.next().await;
    }
}

/// The pauses between reads of what is about to be stored.
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(crate) async fn next(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(READ_EVERY);
    }
}

#[cfg(test)]
mod tests;
