//! The log lines of a delivery, one for each attempt and for each decision without one.

use std::time::Duration;

use roundtrip_broker::{Message, Queue};
use roundtrip_model::{ChannelId, Decision, Outcome, SessionId, waiting::WaitReason};

use super::{DeliveryRole, Request};
use crate::{
    admission::{Change, Scope},
    attempt::{Attempt, millis},
};

macro_rules! line {
    ($level:ident, $message:expr, $payload:expr, $event:literal, $($fields:tt)*) => {{
        let id = Some($message.id.as_str());
        let (message_id, callback_id, notice_id) = match R::QUEUE {
            Queue::Callbacks => (None, id, None),
            Queue::Notices => (None, None, id),
            _ => (id, None, None),
        };
        let channel_id = $payload.and_then(R::channel_id).map(ChannelId::as_str);
        tracing::$level!(
            message_id, callback_id, notice_id, channel_id, $($fields)*,
            concat!("{}.", $event), R::NAME.as_str()
        );
    }};
}

pub(super) fn attempted<R: DeliveryRole>(
    message: &Message,
    payload: &R::Payload,
    request: &Request<'_>,
    attempt: &Attempt,
) {
    let status = match attempt.outcome {
        Outcome::Responded { status, .. } => Some(status),
        Outcome::Failed(_) => None,
    };
    let failed = attempt.decision != Decision::Done;
    let error = failed.then(|| attempt.outcome.headline());
    let (decision, wait_ms, reason) = fields(&attempt.decision);
    line!(
        info,
        message,
        Some(payload),
        "attempted",
        session_id = R::session_id(payload).map(SessionId::as_str),
        // The host alone: a path or a query may hold a secret.
        host = request.url.host_str(),
        attempt = attempt.number,
        status,
        error,
        duration_ms = millis(attempt.duration),
        decision,
        wait_ms,
        reason
    );
}

pub(super) fn not_attempted<R: DeliveryRole>(
    message: &Message,
    payload: Option<&R::Payload>,
    decision: &Decision,
) {
    let attempts = message.attempts;
    let (decision, _, reason) = fields(decision);
    line! { info, message, payload, "not_attempted", attempts, decision, reason }
}

/// A repeated snooze is logged at the level debug.
pub(super) fn snoozed<R: DeliveryRole>(
    message: &Message,
    payload: &R::Payload,
    attempts: u32,
    wait: Duration,
    reason: WaitReason,
    is_news: bool,
) {
    let payload = Some(payload);
    let (wait_ms, reason) = (millis(wait), reason.as_str());
    if is_news {
        line! { info, message, payload, "snoozed", attempts, wait_ms, reason }
    } else {
        line! { debug, message, payload, "snoozed", attempts, wait_ms, reason }
    }
}

/// Names the message whose attempt panicked. The panic hook logs the panic itself.
pub(super) fn panicked<R: DeliveryRole>(message: &Message, attempt: u32) {
    line!(error, message, None::<&R::Payload>, "panicked", attempt);
}

pub(super) fn breaker_changed<R: DeliveryRole>(scope: Scope<'_>, change: Change) {
    let (name, key) = match scope {
        Scope::Key(key) => (R::BREAKER_LOG_NAME, key.as_ref()),
        Scope::Server => (R::SHARED_SERVER.unwrap_or("server"), None),
    };
    let channel_id = key.map(ChannelId::as_str);
    match change {
        Change::Opened(wait) => {
            tracing::warn!(channel_id, wait_ms = millis(wait), "{name}.opened");
        }
        Change::Closed => tracing::info!(channel_id, "{name}.closed"),
    }
}

/// A decision's name, the time until the next delivery in milliseconds, and why the message is dead.
fn fields(decision: &Decision) -> (&'static str, Option<u64>, Option<&'static str>) {
    match decision {
        Decision::Done => ("done", None, None),
        Decision::RetryAfter(wait) => ("retry", Some(millis(*wait)), None),
        Decision::DeadLetter(reason) | Decision::Reject(reason) => {
            ("dead_letter", None, Some(reason.kind.as_str()))
        }
        Decision::Snooze(wait) => ("snooze", Some(millis(*wait)), None),
        Decision::Wait(waiting) => ("wait", None, Some(waiting.reason.as_str())),
    }
}
