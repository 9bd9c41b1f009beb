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
    problem::{Kind, Problem},
};

/// How often the store is read for the ends of waits of which no note comes. A read that takes longer is
/// followed by a pause as long as itself.
const READ_EVERY: Duration = Duration::from_millis(500);

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
    waiting: Arc<Mutex<Waiting>>,
    places: usize,
    notes: Notes,
    stopping: CancellationToken,
    _reader: DropGuard,
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    messages: HashMap<MessageId, watch::Sender<Known>>,
    /// How many requests of each principal wait.
    principals: HashMap<String, usize>,
    requests: usize,
}

/// One request that waits. Its place is free again when it is dropped.
pub(crate) struct Waiter {
    message_id: MessageId,
    principal: String,
    /// `None` only while it is dropped.
    known: Option<watch::Receiver<Known>>,
    waiting: Arc<Mutex<Waiting>>,
    stopping: CancellationToken,
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
        let waiting = Arc::<Mutex<Waiting>>::default();
        let dropped = CancellationToken::new();
        let (sender, received) = mailbox
            .map(|Mailbox { sender, received }| (sender, received))
            .unzip();
        let ended = Arc::clone(&waiting);
        let reading = join(
            read(Arc::clone(&waiting), store),
            notes::read(received, move |answered| ended.lock().end(&answered)),
        );
        tokio::spawn(dropped.clone().run_until_cancelled_owned(reading));
        Self {
            waiting,
            places,
            notes: Notes::new(sender),
            stopping,
            _reader: dropped.drop_guard(),
        }
    }

    /// Begins a wait. An answer that is accepted from now on ends it. No principal with a key gets
    /// more than half of the places.
    pub(crate) fn begin(
        &self,
        principal: &Principal,
        message_id: MessageId,
    ) -> Result<Waiter, Problem> {
        let share = match principal {
            Principal::Anybody => self.places,
            Principal::Configured | Principal::Key(_) => self.places.div_ceil(2),
        };
        let principal = principal.to_string();
        let mut waiting = self.waiting.lock();
        let own = waiting.principals.get(&principal).copied().unwrap_or(0);
        if waiting.requests >= self.places || own >= share {
            return Err(Kind::TooManyWaiters.into());
        }
        waiting.requests += 1;
        waiting.principals.insert(principal.clone(), own + 1);
        let sender = waiting
            .messages
            .entry(message_id)
            .or_insert_with(|| watch::Sender::new(Known::Nothing));
        Ok(Waiter {
            message_id,
            principal,
            known: Some(sender.subscribe()),
            waiting: Arc::clone(&self.waiting),
            stopping: self.stopping.clone(),
        })
    }

    /// The id of a message for whose answer a request is about to wait.
    pub(crate) fn message_id(&self) -> MessageId {
        self.notes.message_id()
    }

    /// Ends the waits for the message that this entry says is answered: those of this process, and by
    /// a note those of the process that sent the message.
    pub(crate) fn answered(&self, answered: &Entry) {
        self.waiting.lock().end(answered);
        self.notes.send(answered);
    }
}

impl Waiting {
    /// Ends the waits for the message of this entry.
    fn end(&self, answered: &Entry) {
        let awaited = answered.message_id.and_then(|id| self.messages.get(&id));
        let Some(sender) = awaited else {
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
        let mut waiting = self.waiting.lock();
        self.known = None;
        let is_last = |sender: &watch::Sender<Known>| sender.receiver_count() == 0;
        if waiting.messages.get(&self.message_id).is_some_and(is_last) {
            waiting.messages.remove(&self.message_id);
        }
        waiting.requests -= 1;
        let own = waiting.principals.get_mut(&self.principal);
        let left = own.map_or(0, |own| {
            *own -= 1;
            *own
        });
        if left == 0 {
            waiting.principals.remove(&self.principal);
        }
    }
}

/// Looks in the store for the ends of awaited messages.
async fn read(waiting: Arc<Mutex<Waiting>>, store: SharedStore) {
    let mut took = Duration::ZERO;
    loop {
        // At most half of the time, because the recorder writes the answers to the same store.
        sleep(took.max(READ_EVERY)).await;
        let began = Instant::now();
        let awaited: Vec<MessageId> = waiting.lock().messages.keys().copied().collect();
        for ids in awaited.chunks(usize::from(MAX_PAGE)) {
            // While the store is unavailable, only accepted answers and notes end a wait.
            let Ok(found) = store.states(ids).await else {
                break;
            };
            let waiting = waiting.lock();
            for (id, state) in found.into_iter().filter(|(_, state)| ends_a_wait(*state)) {
                if let Some(sender) = waiting.messages.get(&id) {
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
