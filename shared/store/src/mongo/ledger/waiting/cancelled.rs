//! Waiting messages that are cancelled because their session was erased.

use bson::{Document, doc};
use mongodb::Database;
use roundtrip_model::Entry;
use time::OffsetDateTime;

use super::super::{WAITING, erased::of_sessions, journal::record, texts};
use crate::{Unavailable, WaitingMessage};

/// Cancels those of these messages, just stored, that an erasure covers.
pub(super) async fn cancel_put(
    database: &Database,
    messages: &[WaitingMessage],
) -> Result<(), Unavailable> {
    let sessions: Vec<_> = messages
        .iter()
        .map(|message| message.session_id.clone())
        .collect();
    for (session, erasure) in of_sessions(database, texts(&sessions)).await? {
        let covered = messages
            .iter()
            .filter(|message| message.session_id == session && erasure.covers(&message.id));
        let covered: Vec<_> = covered.cloned().collect();
        cancel(database, &covered, erasure.requested_at).await?;
    }
    Ok(())
}

/// Records the cancellations first: what still waits after a crash is found again.
pub(in super::super) async fn cancel(
    database: &Database,
    messages: &[WaitingMessage],
    at: OffsetDateTime,
) -> Result<(), Unavailable> {
    if messages.is_empty() {
        return Ok(());
    }
    let entries: Vec<Entry> = messages
        .iter()
        .filter_map(|message| message.cancelled(at))
        .collect();
    record(database, &entries).await?;
    let ids: Vec<&str> = messages.iter().map(|message| &*message.id).collect();
    database
        .collection::<Document>(WAITING)
        .delete_many(doc! { "_id": { "$in": ids } })
        .await?;
    Ok(())
}
