//! Requests that wait for the answer to a message.
//!
//! Invariant: a wait ends soon after its answer is accepted. This process learns of an answer when it
//! accepts it itself, and of every other answer from the store, which it reads each [`READ_EVERY`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use roundtrip_model::{MessageId, State};
use roundtrip_store::{AnswerRecord, Detail, MAX_PAGE, MessageFilter, SharedStore};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, interval, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::problem::{Kind, Problem};

/// How often the store is read for answers that another process accepted.
const READ_EVERY: Duration = Duration::from_millis(500);

/// What is known of an awaited message.
#[derive(Debug, Clone)]
enum Known {
    Nothing,
    /// This process accepted the answer.
    Answer(Arc<AnswerRecord>),
    /// According to the store the message is answered, dead or cancelled.
    Ended,
}

/// Why a wait ended.
#[derive(Debug)]
pub(crate) enum Waited {
    Answer(Arc<AnswerRecord>),
    /// The store shows the message's end, or its answer.
    Ended,
    /// The time has passed, or the process stops.
    InVain,
}

pub(crate) struct Waiters {
    messages: Arc<Messages>,
    places: Arc<Semaphore>,
    stopping: CancellationToken,
    _reader: DropGuard,
}

type Messages = Mutex<HashMap<MessageId, watch::Sender<Known>>>;

/// One request that waits. Its place is free again when it is dropped.
pub(crate) struct Waiter {
    message_id: MessageId,
    /// `None` only while it is dropped.
    known: Option<watch::Receiver<Known>>,
    messages: Arc<Messages>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Waiters {
    /// At most `places` requests wait, until `stopping`. Must be called within a runtime.
    pub(crate) fn start(places: usize, store: SharedStore, stopping: CancellationToken) -> Self {
        let messages = Arc::default();
        let dropped = CancellationToken::new();
        let reading = read(Arc::clone(&messages), store);
        tokio::spawn(dropped.clone().run_until_cancelled_owned(reading));
        Self {
            messages,
            places: Arc::new(Semaphore::new(places)),
            stopping,
            _reader: dropped.drop_guard(),
        }
    }

    /// Begins a wait. An answer that is accepted from now on ends it.
    pub(crate) fn begin(&self, message_id: MessageId) -> Result<Waiter, Problem> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_none_left| Kind::TooManyWaiters)?;
        let mut messages = self.messages.lock();
        let sender = messages
            .entry(message_id)
            .or_insert_with(|| watch::Sender::new(Known::Nothing));
        Ok(Waiter {
            message_id,
            known: Some(sender.subscribe()),
            messages: Arc::clone(&self.messages),
            stopping: self.stopping.clone(),
            _place: place,
        })
    }

    /// Ends the waits for this message. `answer` is called only if there is one.
    pub(crate) fn answered(&self, message_id: &MessageId, answer: impl FnOnce() -> AnswerRecord) {
        if let Some(sender) = self.messages.lock().get(message_id) {
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
                Known::Answer(answer) => Waited::Answer(Arc::clone(answer)),
                _ => Waited::Ended,
            },
            _ => Waited::InVain,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut messages = self.messages.lock();
        self.known = None;
        let is_last = |sender: &watch::Sender<Known>| sender.receiver_count() == 0;
        if messages.get(&self.message_id).is_some_and(is_last) {
            messages.remove(&self.message_id);
        }
    }
}

/// Looks in the store for the ends of awaited messages.
async fn read(messages: Arc<Messages>, store: SharedStore) {
    let mut ticks = interval(READ_EVERY);
    loop {
        ticks.tick().await;
        let awaited: Vec<MessageId> = messages.lock().keys().copied().collect();
        for ids in awaited.chunks(usize::from(MAX_PAGE)) {
            let filter = MessageFilter {
                message_ids: Some(ids.to_vec()),
                ..MessageFilter::default()
            };
            // While the store cannot be read, only the answers that this process accepts end a wait.
            let Ok(found) = store
                .messages(&filter, None, MAX_PAGE, Detail::Outline)
                .await
            else {
                break;
            };
            let messages = messages.lock();
            for message in found.iter().filter(|message| has_ended(message.state)) {
                if let Some(sender) = messages.get(&message.message_id) {
                    sender.send_if_modified(|known| {
                        let is_new = matches!(known, Known::Nothing);
                        if is_new {
                            *known = Known::Ended;
                        }
                        is_new
                    });
                }
            }
        }
    }
}

/// Whether waiting for an answer to a message in this state has an end.
pub(crate) const fn has_ended(state: State) -> bool {
    matches!(
        state,
        State::Answered | State::Forwarded | State::Dead | State::Cancelled
    )
}

#[cfg(test)]
mod tests;
