//! Replays, and who is at work on them.
//!
//! Invariant: whether a lease is free, and whose it is, is asked for by the very write that takes
//! or renews it.

use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use roundtrip_model::ReplayId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    super::{MongoStore, away},
    REPLAYS, Unreadable, document, later, name, read_time, row, stored, unless_there,
};
use crate::{Progress, Replay, ReplaySource, ReplayStatus, Replays, StoreError};

#[async_trait]
impl Replays for MongoStore {
    async fn create_replay(&self, replay: &Replay) -> Result<(), StoreError> {
        let row = document(&ReplayRow::of(replay))?;
        self.connection
            .run(move |_, database| async move {
                unless_there(database.collection(REPLAYS).insert_one(row).await)
            })
            .await
    }

    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, StoreError> {
        let which = named(id);
        self.connection
            .run(move |_, database| async move {
                let replays = database.collection::<Document>(REPLAYS);
                read(replays.find_one(which).await.map_err(away)?)
            })
            .await
    }

    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, StoreError> {
        let now = stored(now);
        let which = doc! {
            "status": name(&ReplayStatus::Running)?,
            "lease_until": { "$lte": now },
        };
        let change = doc! { "$set": { "owner": owner, "lease_until": later(now, lease) } };
        self.connection
            .run(move |_, database| async move {
                let claimed = database
                    .collection::<Document>(REPLAYS)
                    .find_one_and_update(which, change)
                    .sort(doc! { "_id": 1 })
                    .return_document(ReturnDocument::After)
                    .await
                    .map_err(away)?;
                read(claimed)
            })
            .await
    }

    async fn advance_replay(
        &self,
        id: &ReplayId,
        owner: &str,
        progress: &Progress,
        lease_until: OffsetDateTime,
    ) -> Result<Option<ReplayStatus>, StoreError> {
        let mut which = named(id);
        which.insert("owner", owner);
        let change = doc! { "$set": {
            "progress": document(progress)?,
            "lease_until": stored(lease_until),
        } };
        self.connection
            .run(move |_, database| async move {
                let advanced = database
                    .collection::<Document>(REPLAYS)
                    .find_one_and_update(which, change)
                    .return_document(ReturnDocument::After)
                    .await
                    .map_err(away)?;
                Ok(read(advanced)?.map(|replay| replay.status))
            })
            .await
    }

    async fn end_replay(
        &self,
        id: &ReplayId,
        status: ReplayStatus,
        now: OffsetDateTime,
    ) -> Result<Option<Replay>, StoreError> {
        let which = named(id);
        let mut running = which.clone();
        running.insert("status", name(&ReplayStatus::Running)?);
        let change = doc! { "$set": { "status": name(&status)?, "ended_at": stored(now) } };
        self.connection
            .run(move |_, database| async move {
                let replays = database.collection::<Document>(REPLAYS);
                let ended = replays
                    .find_one_and_update(running, change)
                    .return_document(ReturnDocument::After)
                    .await
                    .map_err(away)?;
                match ended {
                    Some(ended) => read(Some(ended)),
                    None => read(replays.find_one(which).await.map_err(away)?),
                }
            })
            .await
    }
}

fn named(id: &ReplayId) -> Document {
    doc! { "_id": id.to_string() }
}

fn read(found: Option<Document>) -> Result<Option<Replay>, StoreError> {
    let replay = found.map(|found| row::<ReplayRow>(found)?.replay());
    Ok(replay.transpose()?)
}

/// A replay as it is stored.
#[derive(Serialize, Deserialize)]
struct ReplayRow {
    #[serde(rename = "_id")]
    replay_id: ReplayId,
    source: ReplaySource,
    rate_per_second: Option<u32>,
    status: ReplayStatus,
    matched: u64,
    progress: Progress,
    created_at: DateTime,
    ended_at: Option<DateTime>,
    /// Who is at work on it, until this time; in 1970 nobody was yet.
    owner: Option<String>,
    lease_until: DateTime,
}

impl ReplayRow {
    fn of(replay: &Replay) -> Self {
        Self {
            replay_id: replay.replay_id,
            source: replay.source.clone(),
            rate_per_second: replay.rate_per_second,
            status: replay.status,
            matched: replay.matched,
            progress: replay.progress.clone(),
            created_at: stored(replay.created_at),
            ended_at: replay.ended_at.map(stored),
            owner: None,
            lease_until: DateTime::from_millis(0),
        }
    }

    fn replay(self) -> Result<Replay, Unreadable> {
        Ok(Replay {
            replay_id: self.replay_id,
            source: self.source,
            rate_per_second: self.rate_per_second,
            status: self.status,
            matched: self.matched,
            progress: self.progress,
            created_at: read_time(self.created_at)?,
            ended_at: self.ended_at.map(read_time).transpose()?,
        })
    }
}
