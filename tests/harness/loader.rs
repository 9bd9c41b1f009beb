//! Posts messages concurrently, and each one again until it is accepted.
//!
//! Invariant: a message counts as accepted only after a success response, so the gateway is
//! responsible for every accepted message.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    http::{Connection, Peer},
    tally::Tally,
};

/// The wait before a refused post is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long a post may take before it counts as not accepted.
const POST_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Load {
    /// The address of the gateway, or of another server under load.
    pub address: Peer,
    /// The path that messages are posted to.
    pub path: &'static str,
    /// The run's name and number of messages.
    pub tally: Arc<Tally>,
    /// How each message's body is made.
    pub body: BodyShape,
    /// The number of concurrent posts, each on its own connection.
    pub in_flight: usize,
    /// The time limit on the load.
    pub limit: Duration,
}

/// How the body of a message is made.
#[derive(Debug, Clone)]
pub struct BodyShape {
    /// The channels that messages are for, in turn.
    pub channels: Vec<String>,
    /// Where answers go.
    pub response_url: String,
    /// JSON fields that every body begins with, each with its comma.
    pub fields: String,
    /// The size of the whole body; the message's text fills it.
    pub bytes: usize,
}

impl BodyShape {
    /// The body of a message of this session.
    pub fn make(&self, message: u64, session: &str) -> Bytes {
        let channels = self.channels.len() as u64;
        // The remainder of a division by a length fits into an index.
        let channel = &self.channels[usize::try_from(message % channels).unwrap_or_default()];
        let Self {
            response_url,
            fields,
            ..
        } = self;
        let bare = format!(
            r#"{{{fields}"channel_id":"{channel}","session_id":"{session}","response_url":"{response_url}","message":""}}"#
        );
        let text = "x".repeat(self.bytes.saturating_sub(bare.len()).max(1));
        let end = bare.len() - r#""}"#.len();
        format!("{}{text}{}", &bare[..end], &bare[end..]).into()
    }
}

/// A loader's progress; faults are timed by it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages whose post was answered with success.
    pub accepted: AtomicU64,
    /// Posts that failed. Each was repeated.
    pub repeated: AtomicU64,
    ids: Option<Mutex<Vec<Accepted>>>,
}

/// A message that was answered 202.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its number in the run.
    pub message: u64,
    /// The id that the gateway gave it.
    pub id: String,
}

impl Progress {
    /// One that keeps the id of each accepted message.
    pub fn keeping_ids() -> Self {
        Self {
            ids: Some(Mutex::default()),
            ..Self::default()
        }
    }

    /// Every accepted message, where ids are kept.
    pub fn accepted_ids(&self) -> Vec<Accepted> {
        self.ids().map(|ids| ids.clone()).unwrap_or_default()
    }

    fn ids(&self) -> Option<MutexGuard<'_, Vec<Accepted>>> {
        let ids = self.ids.as_ref()?;
        Some(ids.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, message: u64, response: &[u8]) {
        let Some(mut ids) = self.ids() else {
            return;
        };
        // A response without an id leaves the message without one, and the account reports it.
        let response: Value = serde_json::from_slice(response).unwrap_or_default();
        let id = response["message_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        ids.push(Accepted { message, id });
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// When the first post was made.
    pub since: Instant,
    /// From the first post to the last one's answer.
    pub took: Duration,
    /// Posts that were not answered with success, and were made again.
    pub repeated: u64,
}

impl Loaded {
    /// The time of each message that arrived, from when it was due on a timetable with this interval;
    /// in ascending order.
    pub fn times(&self, tally: &Tally, every: Duration) -> Vec<Duration> {
        let mut times: Vec<Duration> = (0u32..)
            .zip(0..tally.messages())
            .filter_map(|(number, message)| {
                Some(tally.arrived_at(message)? - (self.since + every * number))
            })
            .collect();
        times.sort_unstable();
        times
    }
}

/// Posts a run's messages as fast as they are accepted.
pub async fn post_all(load: &Load) -> anyhow::Result<Loaded> {
    let (_open, gate) = watch::channel(u64::MAX);
    post(load, &Arc::default(), &gate, Duration::ZERO).await
}

/// Posts a run's messages on a fixed timetable, independent of earlier posts (up to the load's
/// limit in flight): message n is due n intervals after [`Loaded::since`].
pub async fn post_paced(
    load: &Load,
    progress: &Arc<Progress>,
    every: Duration,
) -> anyhow::Result<Loaded> {
    let (_open, gate) = watch::channel(u64::MAX);
    post(load, progress, &gate, every).await
}

/// Posts a run's messages; those from the gate's number on wait until the gate moves.
pub async fn post_gated(
    load: &Load,
    progress: &Arc<Progress>,
    gate: &watch::Receiver<u64>,
) -> anyhow::Result<Loaded> {
    post(load, progress, gate, Duration::ZERO).await
}

async fn post(
    load: &Load,
    progress: &Arc<Progress>,
    gate: &watch::Receiver<u64>,
    every: Duration,
) -> anyhow::Result<Loaded> {
    // All connections are open before the clock starts.
    let mut connections = Vec::new();
    for _ in 0..load.in_flight {
        connections.push(Connection::open(&load.address).await?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let mut posters = JoinSet::new();
    let since = Instant::now();
    for connection in connections {
        posters.spawn(poster(
            load.clone(),
            connection,
            Arc::clone(progress),
            Arc::clone(&next),
            gate.clone(),
            Pace { since, every },
        ));
    }
    let all = async { while posters.join_next().await.is_some() {} };
    if timeout(load.limit, all).await.is_err() {
        bail!(
            "{} of {} messages were accepted within {:?}",
            progress.accepted.load(Ordering::Acquire),
            load.tally.messages(),
            load.limit
        );
    }
    Ok(Loaded {
        since,
        took: since.elapsed(),
        repeated: progress.repeated.load(Ordering::Acquire),
    })
}

/// When each message is due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    since: Instant,
    every: Duration,
}

impl Pace {
    fn due(self, message: u64) -> Instant {
        // No run has more than 2^32 messages.
        self.since + self.every * u32::try_from(message).unwrap_or(u32::MAX)
    }
}

async fn poster(
    load: Load,
    connection: Connection,
    progress: Arc<Progress>,
    next: Arc<AtomicU64>,
    mut gate: watch::Receiver<u64>,
    pace: Pace,
) {
    let mut connection = Some(connection);
    loop {
        let message = next.fetch_add(1, Ordering::AcqRel);
        // The gate's owner is dropped only when the run no longer needs posts.
        if message >= load.tally.messages() || gate.wait_for(|&gate| message < gate).await.is_err()
        {
            return;
        }
        if !pace.every.is_zero() {
            sleep_until(pace.due(message)).await;
        }
        let body = load.body.make(message, &load.tally.session(message));
        let answer = loop {
            if let Some(answer) = post_once(&load, &mut connection, body.clone()).await {
                break answer;
            }
            progress.repeated.fetch_add(1, Ordering::AcqRel);
            sleep(AGAIN_AFTER).await;
        };
        progress.keep(message, &answer);
        progress.accepted.fetch_add(1, Ordering::AcqRel);
    }
}

/// Posts once and returns the response, if the message was accepted.
async fn post_once(load: &Load, connection: &mut Option<Connection>, body: Bytes) -> Option<Bytes> {
    let exchange = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(&load.address).await?,
        };
        let (status, answer) = open.post(load.path, body).await?;
        anyhow::Ok((open, status, answer))
    };
    match timeout(POST_LIMIT, exchange).await {
        Ok(Ok((open, status, answer))) => {
            *connection = Some(open);
            status.is_success().then_some(answer)
        }
        Ok(Err(_)) | Err(_) => None,
    }
}
