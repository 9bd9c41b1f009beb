//! The metrics of queues, and of the connections to RabbitMQ.

use std::time::Instant;

use roundtrip_metrics::{Counters, Gauges, Histograms, REQUEST};
use roundtrip_model::Decision;

use crate::{PublishError, Queue};

roundtrip_metrics::label_of! { Queue as "queue": Queue::ALL, Queue::name }

roundtrip_metrics::label! {
    pub(crate) enum Decided as "decision" {
        Done = "done",
        Retry = "retry",
        Snooze = "snooze",
        Wait = "wait",
        Dead = "dead",
    }
}

roundtrip_metrics::label! {
    pub(crate) enum PublishResult as "result" {
        Confirmed = "confirmed",
        Unavailable = "unavailable",
        Refused = "refused",
        TooLarge = "too_large",
        Unconfirmed = "unconfirmed",
    }
}

roundtrip_metrics::label! {
    /// What a connection to RabbitMQ is for.
    pub(crate) enum Purpose as "purpose" {
        Publish = "publish",
        Receive = "receive",
        Notes = "notes",
    }
}

roundtrip_metrics::label! {
    pub(crate) enum ConnectResult as "result" {
        Connected = "connected",
        Failed = "failed",
    }
}

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Publishes by queue and result, without those of settlements.
    static PUBLISHES: Counters<(Queue, PublishResult)> = "roundtrip_publishes_total";
    /// Time from a publish to its confirm.
    static PUBLISH_DURATION: Histograms<()> = "roundtrip_publish_duration_seconds" in REQUEST;
    /// Deliveries of the broker and of the waiting room that were settled, by what was decided.
    pub(crate) static SETTLEMENTS: Counters<(Queue, Decided)> = "roundtrip_settlements_total";
    /// Deliveries that could not be settled and come again.
    pub(crate) static SETTLEMENTS_FAILED: Counters<Queue> = "roundtrip_settlements_failed_total";
    /// Connections to RabbitMQ that are open.
    pub(crate) static CONNECTIONS: Gauges<Purpose> = "roundtrip_rabbitmq_connections";
    /// Attempts to connect to RabbitMQ. All but the first that connected are reconnects.
    pub(crate) static CONNECTS: Counters<(Purpose, ConnectResult)> = "roundtrip_rabbitmq_connects_total";
}

impl Decided {
    pub(crate) const fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Done => Self::Done,
            Decision::RetryAfter(_) => Self::Retry,
            Decision::Snooze(_) => Self::Snooze,
            Decision::Wait(_) => Self::Wait,
            Decision::DeadLetter(_) | Decision::Reject(_) => Self::Dead,
        }
    }
}

/// Counts a publish to this queue.
pub(crate) async fn counted(
    queue: Queue,
    publish: impl Future<Output = Result<(), PublishError>>,
) -> Result<(), PublishError> {
    let began = Instant::now();
    let published = publish.await;
    let result = match &published {
        Ok(()) => {
            PUBLISH_DURATION.observe_since((), began);
            PublishResult::Confirmed
        }
        Err(PublishError::Unavailable(_)) => PublishResult::Unavailable,
        Err(PublishError::Refused(_)) => PublishResult::Refused,
        Err(PublishError::TooLarge) => PublishResult::TooLarge,
        Err(PublishError::Unconfirmed) => PublishResult::Unconfirmed,
    };
    PUBLISHES.inc((queue, result));
    published
}
