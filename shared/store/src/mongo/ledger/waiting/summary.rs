//! How many messages wait for a channel.
//!
//! Invariant: the cost does not grow with the number of messages. MongoDB has no counter that stays
//! exact without transactions, so messages are counted, and at most `max_counted_waiting` of a reason.

use std::time::Duration;

use bson::{DateTime, Document, doc};
use mongodb::Collection;
use roundtrip_model::waiting::WaitReason;
use serde::Deserialize;

use super::{
    super::{primary, read_time, row},
    due::next,
};
use crate::{QueryError, WaitingSummary};

/// The messages that wait for one reason.
struct OfReason {
    /// At most one more than are to be counted.
    counted: u64,
    oldest: DateTime,
}

pub(super) async fn read(
    waiting: &Collection<Document>,
    channel: &str,
    max_counted: u64,
    max_time: Duration,
) -> Result<WaitingSummary, QueryError> {
    let mut summary = WaitingSummary::default();
    // One after the other, because a query uses one connection.
    for reason in WaitReason::ALL {
        let Some(found) = of_reason(waiting, channel, reason, max_counted, max_time).await? else {
            continue;
        };
        let count = found.counted.min(max_counted);
        summary.count += count;
        summary.has_more |= found.counted > count;
        summary.reasons.insert(reason, count);
        let oldest = read_time(found.oldest)?;
        summary.oldest_accepted_at = summary.oldest_accepted_at.into_iter().chain([oldest]).min();
    }
    let next_due = next(waiting, "due_at", channel).await?;
    summary.next_due_at = next_due.map(read_time).transpose()?;
    Ok(summary)
}

async fn of_reason(
    waiting: &Collection<Document>,
    channel: &str,
    reason: WaitReason,
    max_counted: u64,
    max_time: Duration,
) -> Result<Option<OfReason>, QueryError> {
    #[derive(Deserialize)]
    struct Oldest {
        accepted_at: DateTime,
    }

    let which = doc! { "channel_id": channel, "reason": reason.as_str() };
    let oldest = waiting
        .find_one(which.clone())
        .projection(doc! { "_id": 0, "accepted_at": 1 })
        .sort(doc! { "accepted_at": 1 })
        .selection_criteria(primary())
        .max_time(max_time);
    let Some(oldest) = oldest.await? else {
        return Ok(None);
    };
    let oldest = row::<Oldest>(oldest)?.accepted_at;
    let counted = waiting
        .count_documents(which)
        .limit(max_counted + 1)
        .selection_criteria(primary())
        .max_time(max_time)
        .await?;
    // The last one may have gone since.
    Ok((counted > 0).then_some(OfReason { counted, oldest }))
}
