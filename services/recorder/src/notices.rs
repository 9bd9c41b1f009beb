//! What the recorder gives notice of: dead letters, overdue messages, and queues that are too long.

use std::time::Duration;

use roundtrip_broker::{Queue, SharedBroker};
use roundtrip_model::{Entry, Event, NoticeEvent};
use roundtrip_notices::Notices;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The queues whose length is watched.
const WATCHED: [Queue; 3] = [Queue::Outbound, Queue::Callbacks, Queue::Journal];

/// The event that an entry gives notice of. An answer without a message is of no channel, and gives
/// none.
pub(crate) fn of_entry(entry: &Entry) -> Option<NoticeEvent> {
    let (message_id, channel_id) = entry.message_id.zip(entry.channel_id.as_ref())?;
    match &entry.event {
        Event::Dead(reason) => Some(NoticeEvent::MessageDead {
            channel_id: channel_id.clone(),
            message_id,
            reason: reason.kind,
        }),
        Event::AnswerDead {
            callback_id,
            reason,
        } => Some(NoticeEvent::AnswerDead {
            channel_id: channel_id.clone(),
            message_id,
            callback_id: *callback_id,
            reason: reason.kind,
        }),
        Event::Overdue {} => Some(NoticeEvent::MessageOverdue {
            channel_id: channel_id.clone(),
            message_id,
        }),
        _ => None,
    }
}

/// Until `stop`, gives notice of each queue with more ready messages than `high`.
pub(crate) async fn watch_backlog(
    broker: &SharedBroker,
    high: u64,
    notices: &Notices,
    stop: &CancellationToken,
) {
    loop {
        for queue in WATCHED {
            // An unavailable broker is logged elsewhere.
            if let Ok(ready) = broker.ready(queue).await
                && ready > high
            {
                let queue = queue.name();
                tracing::warn!(queue, ready, high, "backlog.high");
                notices.offer(NoticeEvent::BacklogHigh {
                    queue: queue.to_owned(),
                    ready,
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
