//! Notices on their way to the broker. A notice tells the operator's server about a dead letter, an
//! open breaker, a paused channel or a long queue.
//!
//! Invariant: of all events of one kind that concern one channel, a process publishes at most one in
//! a window of time, so an outage is a handful of notices. All processes give that notice the same
//! id, so the receiver knows a repeat.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use roundtrip_broker::{Message, PublishError, Route, SharedBroker};
use roundtrip_model::{Clock, LogThrottle, Notice, NoticeEvent, ids::NoticeId};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// The most notices of a process in a window. Beyond it the window has no further ones.
pub const MAX_NOTICES_A_WINDOW: usize = 10_000;

/// The most offered notices that wait to be published. Further ones are dropped, with a log line.
const MAX_OFFERED: usize = 1_024;

/// The wait before an offered notice is published again after an error.
const PUBLISH_AGAIN_AFTER: Duration = Duration::from_secs(1);

static DROPPED: LogThrottle = LogThrottle::every(Duration::from_secs(10));

/// Publishes notices; does nothing if notices are off.
#[derive(Clone)]
pub struct Notices(Option<Publishing>);

#[derive(Clone)]
struct Publishing {
    publisher: Arc<Publisher>,
    offered: mpsc::Sender<NoticeEvent>,
}

struct Publisher {
    broker: SharedBroker,
    clock: Arc<dyn Clock>,
    window: Duration,
    claimed: Mutex<Claimed>,
}

/// The notices of the present window that are published, or are being published.
#[derive(Default)]
struct Claimed {
    window: i64,
    ids: HashSet<NoticeId>,
}

impl Claimed {
    /// Whether the caller is to publish this notice: the window has none with this id yet, and room
    /// for one.
    fn claim(&mut self, window: i64, id: NoticeId) -> bool {
        if window != self.window {
            self.window = window;
            self.ids.clear();
        }
        self.ids.len() < MAX_NOTICES_A_WINDOW && self.ids.insert(id)
    }
}

impl Notices {
    pub const fn off() -> Self {
        Self(None)
    }

    /// Starts the task that publishes what is offered. Must be called within a tokio runtime.
    pub fn start(broker: SharedBroker, clock: Arc<dyn Clock>, window: Duration) -> Self {
        let publisher = Arc::new(Publisher {
            broker,
            clock,
            window,
            claimed: Mutex::default(),
        });
        let (offered, events) = mpsc::channel(MAX_OFFERED);
        tokio::spawn(publish_offered(Arc::clone(&publisher), events));
        Self(Some(Publishing { publisher, offered }))
    }

    pub const fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Publishes a notice of this event, and resolves after the broker's confirm. Does nothing if the
    /// window already has one, or if another caller is publishing it: then that caller's event is
    /// unsettled until the confirm. A notice that the broker refuses is dropped, with a log line.
    ///
    /// # Errors
    /// If the broker did not confirm it. The notice may be in its queue all the same; the next one in
    /// this window has the same id.
    pub async fn raise(&self, event: &NoticeEvent) -> Result<(), PublishError> {
        match &self.0 {
            Some(Publishing { publisher, .. }) => publisher.raise(event).await,
            None => Ok(()),
        }
    }

    /// Hands the event to the task that publishes notices, and does not wait for the confirm. A crash
    /// before the confirm loses the notice. If too many events wait, this one is dropped.
    pub fn offer(&self, event: NoticeEvent) {
        if let Some(Publishing { offered, .. }) = &self.0
            && let Err(error) = offered.try_send(event)
            && let Some(suppressed) = DROPPED.due(Instant::now().into_std())
        {
            let kind = error.into_inner().name();
            tracing::warn!(kind, suppressed, "a notice is dropped: too many wait");
        }
    }
}

impl Publisher {
    async fn raise(&self, event: &NoticeEvent) -> Result<(), PublishError> {
        let now = self.clock.now();
        let seconds = i64::try_from(self.window.as_secs()).unwrap_or(i64::MAX);
        let window = now.unix_timestamp() / seconds.max(1);
        let id = event.id(window);
        if !self.claimed.lock().claim(window, id) {
            return Ok(());
        }
        let claim = Claim {
            publisher: self,
            id: Some(id),
        };
        let notice = Notice {
            timestamp: now,
            event: event.clone(),
        };
        let body = serde_json::to_vec(&notice);
        let body = body.map_err(|error| PublishError::Refused(error.to_string()))?;
        let message = Message::new(id.to_string(), now, body.into());
        match self.broker.publish(Route::Notices, message).await {
            Ok(()) => {}
            // The journal must not wait for a queue that is full or has other arguments.
            Err(error @ (PublishError::Refused(_) | PublishError::TooLarge)) => {
                if let Some(suppressed) = DROPPED.due(Instant::now().into_std()) {
                    let kind = event.name();
                    tracing::warn!(kind, %error, suppressed, "a notice is dropped");
                }
            }
            Err(error) => return Err(error),
        }
        claim.keep();
        Ok(())
    }
}

/// A claim on a notice. Dropping it lets another event publish the notice.
struct Claim<'a> {
    publisher: &'a Publisher,
    id: Option<NoticeId>,
}

impl Claim<'_> {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.publisher.claimed.lock().ids.remove(id);
        }
    }
}

/// Publishes until every [`Notices`] is dropped.
async fn publish_offered(publisher: Arc<Publisher>, mut events: mpsc::Receiver<NoticeEvent>) {
    while let Some(event) = events.recv().await {
        while let Err(error) = publisher.raise(&event).await {
            tracing::debug!(%error, "a notice is not published yet");
            sleep(PUBLISH_AGAIN_AFTER).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use roundtrip_broker::Queue;
    use roundtrip_doubles::{FakeBroker, Mood};
    use roundtrip_model::SystemClock;

    use super::*;

    /// Longer than any test.
    const WINDOW: Duration = Duration::from_hours(1000);

    fn closed(channel_id: &str) -> NoticeEvent {
        NoticeEvent::BreakerClosed {
            channel_id: channel_id.parse().unwrap(),
        }
    }

    fn notices() -> (Arc<FakeBroker>, Notices) {
        let broker = Arc::new(FakeBroker::new(Queue::Notices));
        let shared = Arc::clone(&broker) as SharedBroker;
        let notices = Notices::start(shared, Arc::new(SystemClock), WINDOW);
        (broker, notices)
    }

    #[tokio::test]
    async fn a_window_has_one_notice_for_each_channel() {
        let (broker, notices) = notices();
        for channel in ["a", "b", "a", "a"] {
            notices.raise(&closed(channel)).await.unwrap();
        }
        let ids = broker.taken();
        assert_eq!(ids.len(), 2, "{ids:?}");
    }

    #[tokio::test]
    async fn an_unconfirmed_notice_is_published_again_under_its_id() {
        let (broker, notices) = notices();
        broker.set(Mood::Unconfirmed);
        assert!(notices.raise(&closed("a")).await.is_err());
        broker.set(Mood::Confirms);
        notices.raise(&closed("a")).await.unwrap();
        let ids = broker.taken();
        assert_eq!(ids.len(), 2);
        assert_eq!(ids[0], ids[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offered_notice_waits_for_the_broker() {
        let (broker, notices) = notices();
        broker.set(Mood::IsUnavailable);
        notices.offer(closed("a"));
        sleep(PUBLISH_AGAIN_AFTER).await;
        assert!(broker.taken().is_empty());
        broker.set(Mood::Confirms);
        while broker.taken().is_empty() {
            sleep(PUBLISH_AGAIN_AFTER).await;
        }
    }

    #[tokio::test]
    async fn a_refused_notice_stops_nothing() {
        let (broker, notices) = notices();
        broker.limit_bytes(1);
        notices.raise(&closed("a")).await.unwrap();
        assert!(broker.taken().is_empty());
    }

    #[test]
    fn a_window_has_a_bounded_number_of_notices() {
        let mut claimed = Claimed::default();
        let ids = (0..2 * MAX_NOTICES_A_WINDOW).map(|number| closed(&format!("c{number}")).id(1));
        let taken = ids.filter(|id| claimed.claim(1, *id)).count();
        assert_eq!(taken, MAX_NOTICES_A_WINDOW);
        assert!(claimed.claim(2, closed("c0").id(2)));
    }
}
