//! Replays and their leases.
//!
//! Invariant: the write that takes or renews a lease also checks, in its filter, that the lease is
//! free or has the same owner.

use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use roundtrip_model::{ChannelId, ReplayId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    super::MongoStore, REPLAYS, Unreadable, document, later, name, named, read_time, row, rows,
    stored, texts, unless_there, updated,
};
use crate::{
    MAX_RUNNING_REPLAYS, Progress, QueryError, Replay, ReplayError, ReplayFilter, ReplaySource,
    ReplayStatus, Replays, Unavailable, ledger::MAX_ROWS,
};

#[async_trait]
impl Replays for MongoStore {
    async fn create_replay(&self, replay: &Replay) -> Result<(), ReplayError> {
        let row = document(&ReplayRow::of(replay))?;
        let running = doc! {
            "status": name(&ReplayStatus::Running)?,
            "requested_by": replay.requested_by.as_str(),
        };
        self.on(REPLAYS, move |replays| async move {
            let running = replays.count_documents(running).await?;
            if running >= u64::from(MAX_RUNNING_REPLAYS) {
                return Err(ReplayError::TooMany);
            }
            Ok(unless_there(replays.insert_one(row).await)?)
        })
        .await
    }

    async fn replays(
        &self,
        filter: &ReplayFilter,
        after: Option<&ReplayId>,
        limit: u16,
    ) -> Result<Vec<Replay>, QueryError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let ReplayFilter { channels, status } = filter;
        let mut which = Document::new();
        if let Some(after) = after {
            which.insert("_id", doc! { "$lt": after.to_string() });
        }
        if let Some(status) = status {
            which.insert("status", name(status)?);
        }
        if let Some(channels) = channels {
            let own = texts(channels);
            // The first condition finds a channel's replays through the index. The second excludes
            // those of other channels.
            which.insert(
                "channels",
                doc! { "$in": own.clone(), "$not": { "$elemMatch": { "$nin": own } } },
            );
        }
        self.run_query(REPLAYS, move |replays, max_time| async move {
            let found = replays
                .find(which)
                .sort(doc! { "_id": -1 })
                .limit(i64::from(limit.min(MAX_ROWS)))
                .max_time(max_time)
                .await?;
            rows(found, ReplayRow::replay).await
        })
        .await
    }

    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, Unavailable> {
        let which = named(id);
        self.on(REPLAYS, move |replays| async move {
            read(replays.find_one(which).await?)
        })
        .await
    }

    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, Unavailable> {
        let now = stored(now);
        let which = doc! {
            "status": name(&ReplayStatus::Running)?,
            // Times are whole milliseconds. Not `$lte`: SecantusDB omits the bound itself if
            // another field follows in the index.
            "lease_until": { "$lt": later(now, Duration::from_millis(1)) },
        };
        let change = doc! { "$set": { "owner": owner, "lease_until": later(now, lease) } };
        self.on(REPLAYS, move |replays| async move {
            let claimed = replays
                .find_one_and_update(which, change)
                .sort(doc! { "lease_until": 1, "_id": 1 })
                .return_document(ReturnDocument::After)
                .await?;
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
    ) -> Result<Option<ReplayStatus>, Unavailable> {
        let mut which = named(id);
        which.insert("owner", owner);
        let change = doc! { "$set": {
            "progress": document(progress)?,
            "lease_until": stored(lease_until),
        } };
        self.on(REPLAYS, move |replays| async move {
            let advanced = updated(&replays, which, change).await?;
            Ok::<_, Unavailable>(read(advanced)?.map(|replay| replay.status))
        })
        .await
    }

    async fn end_replay(
        &self,
        id: &ReplayId,
        status: ReplayStatus,
        now: OffsetDateTime,
    ) -> Result<Option<Replay>, Unavailable> {
        let which = named(id);
        let mut running = which.clone();
        running.insert("status", name(&ReplayStatus::Running)?);
        let change = doc! { "$set": { "status": name(&status)?, "ended_at": stored(now) } };
        self.on(REPLAYS, move |replays| async move {
            let replay = match updated(&replays, running, change).await? {
                None => replays.find_one(which).await?,
                ended => ended,
            };
            read(replay)
        })
        .await
    }
}

fn read(found: Option<Document>) -> Result<Option<Replay>, Unavailable> {
    let replay = found.map(|found| row::<ReplayRow>(found)?.replay());
    Ok(replay.transpose()?)
}

#[derive(Serialize, Deserialize)]
struct ReplayRow {
    #[serde(rename = "_id")]
    replay_id: ReplayId,
    /// Empty in replays of an older version: they count for no key.
    #[serde(default)]
    requested_by: String,
    #[serde(default)]
    channels: Option<Vec<ChannelId>>,
    source: ReplaySource,
    rate_per_second: Option<u32>,
    status: ReplayStatus,
    matched: u64,
    progress: Progress,
    created_at: DateTime,
    ended_at: Option<DateTime>,
    /// The owner of the latest lease, and its end. The end is 1970 before the first lease.
    owner: Option<String>,
    lease_until: DateTime,
}

impl ReplayRow {
    fn of(replay: &Replay) -> Self {
        Self {
            replay_id: replay.replay_id,
            requested_by: replay.requested_by.clone(),
            channels: replay
                .source
                .channels()
                .map(|channels| channels.into_iter().cloned().collect()),
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
            requested_by: self.requested_by,
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
