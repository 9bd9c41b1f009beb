//! Test doubles that the unit tests of several crates share: a scripted broker, and a journal that
//! shows its entries.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use roundtrip_broker::{Broker, Closed, Consumer, Message, PublishError, Queue, Route, Status};
use roundtrip_journal::Journal;
use roundtrip_model::Entry;
use tokio::sync::{mpsc, watch};

/// What a [`FakeBroker`] does with the messages of its scripted queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Confirms,
    IsUnavailable,
    /// Enqueues them, but the confirm is lost.
    Unconfirmed,
    /// Decides when its mood changes.
    Waits,
}

/// Confirms every message and keeps it; one queue's messages are treated as scripted.
#[derive(Debug)]
pub struct FakeBroker {
    scripted: Queue,
    mood: watch::Sender<Mood>,
    failures: AtomicU32,
    max_bytes: AtomicUsize,
    ready: AtomicU64,
    confirmed: watch::Sender<Vec<(Queue, Message)>>,
    entries: Option<mpsc::UnboundedSender<Entry>>,
}

impl FakeBroker {
    pub fn new(scripted: Queue) -> Self {
        Self {
            scripted,
            mood: watch::Sender::new(Mood::Confirms),
            failures: AtomicU32::new(0),
            max_bytes: AtomicUsize::new(usize::MAX),
            ready: AtomicU64::new(0),
            confirmed: watch::Sender::default(),
            entries: None,
        }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Refuses the next publishes, this many.
    pub fn fail(&self, publishes: u32) {
        self.failures.store(publishes, Ordering::Relaxed);
    }

    /// Refuses longer messages.
    pub fn limit_bytes(&self, most: usize) {
        self.max_bytes.store(most, Ordering::Relaxed);
    }

    /// Says that so many messages are ready in each queue.
    pub fn say_ready(&self, messages: u64) {
        self.ready.store(messages, Ordering::Relaxed);
    }

    /// The messages that are in this queue.
    pub fn messages(&self, queue: Queue) -> Vec<Message> {
        let confirmed = self.confirmed.borrow();
        let of_queue = confirmed.iter().filter(|(of, _)| *of == queue);
        of_queue.map(|(_, message)| message.clone()).collect()
    }

    /// The ids of the messages that are in the scripted queue.
    pub fn taken(&self) -> Vec<String> {
        let messages = self.messages(self.scripted).into_iter();
        messages.map(|message| message.id).collect()
    }

    async fn follow_the_script(&self, message: &Message) -> Result<Mood, PublishError> {
        // Lets other tasks that were started reach the broker, too.
        tokio::task::yield_now().await;
        let mut mood = self.mood.subscribe();
        let decided = mood.wait_for(|mood| *mood != Mood::Waits).await;
        let mood = *decided.map_err(|_gone| PublishError::Unconfirmed)?;
        if mood == Mood::IsUnavailable {
            return Err(PublishError::Unavailable("scripted".to_owned()));
        }
        if message.body.len() > self.max_bytes.load(Ordering::Relaxed) {
            return Err(PublishError::TooLarge);
        }
        let one_less = |left: u32| left.checked_sub(1);
        let failures = &self.failures;
        match failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Err(PublishError::Unconfirmed),
            Err(_none_left) => Ok(mood),
        }
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, route: Route<'_>, message: Message) -> Result<(), PublishError> {
        let queue = route.queue();
        let mut mood = Mood::Confirms;
        if queue == self.scripted {
            mood = self.follow_the_script(&message).await?;
        }
        if let Some(observer) = &self.entries {
            let decoded = roundtrip_journal::decode(&message.body);
            for entry in decoded.map_err(|error| PublishError::Refused(error.to_string()))? {
                // The receiver may have been dropped; that is fine.
                let _ = observer.send(entry);
            }
        }
        self.confirmed
            .send_modify(|confirmed| confirmed.push((queue, message)));
        match mood {
            Mood::Unconfirmed => Err(PublishError::Unconfirmed),
            _ => Ok(()),
        }
    }

    async fn consume(&self, _: Queue, _: u16) -> Result<Box<dyn Consumer>, Closed> {
        Err(Closed)
    }

    fn status(&self) -> Status {
        Status::Ready
    }

    async fn ready(&self, _: Queue) -> Result<u64, PublishError> {
        Ok(self.ready.load(Ordering::Relaxed))
    }

    async fn close(&self) {}
}

/// A journal, and the entries appended to it. Must be called within a tokio runtime.
pub fn observed_journal() -> (Journal, mpsc::UnboundedReceiver<Entry>) {
    let (entries, observed) = mpsc::unbounded_channel();
    let broker = FakeBroker {
        entries: Some(entries),
        ..FakeBroker::new(Queue::Journal)
    };
    (Journal::start(Arc::new(broker)), observed)
}
