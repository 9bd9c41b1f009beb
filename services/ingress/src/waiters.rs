//! Requests that wait for the answer to a message.
//!
//! Invariant: a waiting request ends soon after any process has accepted its answer. If this process
//! accepts the answer, the request ends at once. If another one does, this process finds the answer in
//! the store, which it reads once every [`READ_EVERY`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use roundtrip_model::{CallbackId, MessageId, State};
use roundtrip_store::{AnswerRecord, MAX_PAGE, SharedStore};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    auth::Principal,
    problem::{Kind, Problem},
};

/// How often the store is read for answers that another process accepted.
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
    /// This process accepted the answer.
    Answer(Arc<AnswerRecord>),
    /// In the store the message has a state that ends the wait.
    Ended(State),
}

/// Why a wait ended.
#[derive(Debug)]
pub(crate) enum Waited {
    Answer(Arc<AnswerRecord>),
    /// In the store the message has this state.
    Ended(State),
    /// The time has passed, or the process stops.
    InVain,
}

pub(crate) struct Waiters {
    waiting: Arc<Mutex<Waiting>>,
    places: usize,
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
    /// At most `places` requests wait, until `stopping`. Must be called within a runtime.
    pub(crate) fn start(places: usize, store: SharedStore, stopping: CancellationToken) -> Self {
        let waiting = Arc::default();
        let dropped = CancellationToken::new();
        let reading = read(Arc::clone(&waiting), store);
        tokio::spawn(dropped.clone().run_until_cancelled_owned(reading));
        Self {
            waiting,
            places,
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

    /// Ends the waits for this message. `answer` is called only if there is one.
    pub(crate) fn answered(&self, message_id: &MessageId, answer: impl FnOnce() -> AnswerRecord) {
        if let Some(sender) = self.waiting.lock().messages.get(message_id) {
            sender.send_replace(Known::Answer(Arc::new(answer())));
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
    let mut ticks = interval(READ_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let awaited: Vec<MessageId> = waiting.lock().messages.keys().copied().collect();
        for ids in awaited.chunks(usize::from(MAX_PAGE)) {
            // While the store is unavailable, only the answers that this process accepts end a wait.
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
