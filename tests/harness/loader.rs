//! Posts messages, so many at a time, each until it is accepted.
//!
//! Invariant: a message counts as accepted when its post was answered with success, and a post that
//! was not is made again; so "accepted" means what the gateway has answered for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use bytes::Bytes;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{http::Connection, tally::Tally};

/// How long a post that was not accepted waits to be made again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long a post may take before it counts as not accepted.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// What to post, and how.
#[derive(Debug, Clone)]
pub struct Load {
    /// The gateway (or whatever else is loaded).
    pub address: SocketAddr,
    /// The path that messages are posted to.
    pub path: &'static str,
    /// The run's name and number of messages.
    pub tally: Arc<Tally>,
    /// How each message's body is made.
    pub body: BodyShape,
    /// How many posts are under way at once, each on a connection of its own.
    pub in_flight: usize,
    /// How long all of it may take.
    pub limit: Duration,
}

/// How the body of a message is made.
#[derive(Debug, Clone)]
pub struct BodyShape {
    /// The channels that messages are for, in turn.
    pub channels: Vec<String>,
    /// Where answers go.
    pub response_url: String,
    /// The size of the whole body; the message's text is as long as it takes.
    pub bytes: usize,
}

impl BodyShape {
    /// The body of a message of this session.
    #[must_use]
    pub fn make(&self, message: u64, session: &str) -> Bytes {
        let channels = self.channels.len() as u64;
        // The remainder of a division by a length fits into an index.
        let channel = &self.channels[usize::try_from(message % channels).unwrap_or_default()];
        let response_url = &self.response_url;
        let bare = format!(
            r#"{{"channel_id":"{channel}","session_id":"{session}","response_url":"{response_url}","message":""}}"#
        );
        let text = "x".repeat(self.bytes.saturating_sub(bare.len()).max(1));
        let end = bare.len() - r#""}"#.len();
        format!("{}{text}{}", &bare[..end], &bare[end..]).into()
    }
}

/// How far a loader is; faults are timed by it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages whose post was answered with success.
    pub accepted: AtomicU64,
    /// Posts that were not, and were made again.
    pub repeated: AtomicU64,
}

/// What a loader did.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// When the first post was made.
    pub since: Instant,
    /// From the first post to the last one's answer.
    pub took: Duration,
    /// Posts that were not answered with success, and were made again.
    pub repeated: u64,
}

/// Posts a run's messages as fast as they are accepted.
///
/// # Errors
/// If it takes longer than the load's limit.
pub async fn post_all(load: &Load) -> anyhow::Result<Loaded> {
    let (_open, gate) = watch::channel(u64::MAX);
    post_gated(load, &Arc::default(), &gate).await
}

/// Posts a run's messages; those from the gate's number on wait until the gate moves.
///
/// # Errors
/// As [`post_all`].
pub async fn post_gated(
    load: &Load,
    progress: &Arc<Progress>,
    gate: &watch::Receiver<u64>,
) -> anyhow::Result<Loaded> {
    // Connections stand before the clock starts.
    let mut connections = Vec::new();
    for _ in 0..load.in_flight {
        connections.push(Connection::open(load.address).await?);
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

async fn poster(
    load: Load,
    connection: Connection,
    progress: Arc<Progress>,
    next: Arc<AtomicU64>,
    mut gate: watch::Receiver<u64>,
) {
    let mut connection = Some(connection);
    loop {
        let message = next.fetch_add(1, Ordering::AcqRel);
        // The gate's owner is gone only when nobody wants anything posted any more.
        if message >= load.tally.messages() || gate.wait_for(|&gate| message < gate).await.is_err()
        {
            return;
        }
        let body = load.body.make(message, &load.tally.session(message));
        while !post(&load, &mut connection, body.clone()).await {
            progress.repeated.fetch_add(1, Ordering::AcqRel);
            sleep(AGAIN_AFTER).await;
        }
        progress.accepted.fetch_add(1, Ordering::AcqRel);
    }
}

/// Posts once; whether it was accepted.
async fn post(load: &Load, connection: &mut Option<Connection>, body: Bytes) -> bool {
    let exchange = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(load.address).await?,
        };
        let (status, _) = open.post(load.path, body).await?;
        anyhow::Ok((open, status))
    };
    match timeout(POST_LIMIT, exchange).await {
        Ok(Ok((open, status))) => {
            *connection = Some(open);
            status.is_success()
        }
        Ok(Err(_)) | Err(_) => false,
    }
}
