//! Runs that measure how messages leave the store: retries that are made now, scheduled messages,
//! and channels that are resumed one by one.
//!
//! Invariant: a message that goes too early, for another channel, or twice fails the run.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use harness::{
    counting::CountingServer,
    loader::{Load, post_all},
    stack::{Engines, Stack},
    tally::Tally,
};
use roundtrip_model::{Clock, MessageId, OutboundMessage, SystemClock, waiting::WaitReason};
use roundtrip_store::WaitingMessage;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::{
    options::{Release, Releases},
    plan,
    waiting::{IN_FLIGHT, LIMIT, request, until_waiting},
};

/// The most rows that one call puts into the store.
const ROWS: usize = 500;

/// How far in the future the retries are.
const LAST_INTERVAL: Duration = Duration::from_hours(6);

/// How far in the future the scheduled messages are, from the first post on.
const AHEAD: Duration = Duration::from_secs(10);

/// Runs it on these engines.
pub(crate) async fn run(
    options: &Releases,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<()> {
    for (title, key, engine) in engines {
        println!("== {title} ==");
        let mut run = Run::start(options, engine, &format!("releases-{key}")).await?;
        match options.run {
            Release::Retries => run.retries().await?,
            Release::Scheduled => run.scheduled().await?,
            Release::Channels => run.channels().await?,
        }
        ensure!(run.tally.duplicates() == 0, "some came twice");
        run.stack.stop_all().await?;
        run.stack.remove().await?;
    }
    Ok(())
}

struct Run {
    stack: Stack,
    channels: Vec<String>,
    tally: Arc<Tally>,
    _server: CountingServer,
}

impl Run {
    async fn start(options: &Releases, engine: &Engines, name: &str) -> anyhow::Result<Self> {
        let (channels, messages) = match options.run {
            Release::Channels => (options.channels, options.channels * options.messages),
            Release::Retries | Release::Scheduled => (1, options.messages),
        };
        let tally = Arc::new(Tally::new("release", messages));
        let server = CountingServer::start(Arc::clone(&tally)).await?;
        let plan = plan(&options.common, engine.clone(), name)?.sessions_server(server.url());
        let mut stack = Stack::new(plan)?;
        stack.start_all().await?;
        let channels = stack.register(channels, &[server.url()]).await?;
        Ok(Self {
            stack,
            channels,
            tally,
            _server: server,
        })
    }

    /// Messages on the last interval of their schedule, which `POST /channel/{id}/retry` makes due.
    async fn retries(&mut self) -> anyhow::Result<()> {
        let channel = self.channels[0].clone();
        self.stack.stop_all().await?;
        let store = self.stack.open_store().await?;
        let rows = (0..self.tally.messages())
            .map(|message| self.retry(&channel, message))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for rows in rows.chunks(ROWS) {
            store.put_waiting(rows).await?;
        }
        store.close().await;
        drop(store);
        self.stack.start_all().await?;
        ensure!(self.tally.distinct() == 0, "some came before their time");
        let began = Instant::now();
        request(&self.stack, &format!("/channel/{channel}/retry"), "").await?;
        let responded = began.elapsed();
        let full = self.tally.full(LIMIT).await? - began;
        println!(
            "{} retries: POST …/retry took {:.2} s, all were delivered {:.1} s after it began",
            self.tally.messages(),
            responded.as_secs_f64(),
            full.as_secs_f64()
        );
        Ok(())
    }

    fn retry(&self, channel: &str, message: u64) -> anyhow::Result<WaitingMessage> {
        let message_id = MessageId::generate();
        let session_id: roundtrip_model::SessionId = self.tally.session(message).parse()?;
        let accepted_at = SystemClock.now();
        let outbound = OutboundMessage {
            message_id,
            channel_id: channel.parse()?,
            channel_uid: None,
            session_id: session_id.clone(),
            message: serde_json::from_str("\"text\"")?,
            response_url: self.stack.response_url(),
            deliver_at: None,
            expires_at: None,
            answer_within_ms: None,
        };
        Ok(WaitingMessage {
            id: message_id.to_string(),
            channel_id: channel.parse()?,
            session_id,
            replay_count: 0,
            attempts: 1,
            accepted_at,
            due_at: accepted_at + LAST_INTERVAL,
            reason: WaitReason::Retry,
            expires_at: None,
            body: serde_json::to_vec(&outbound)?.into(),
        })
    }

    /// Messages that are all due at one time.
    async fn scheduled(&self) -> anyhow::Result<()> {
        let deliver_at = SystemClock.now() + AHEAD;
        let due = Instant::now() + AHEAD;
        let mut load = Load {
            in_flight: IN_FLIGHT,
            ..self.stack.load(&self.tally, &self.channels, LIMIT)
        };
        load.body.fields = format!(r#""deliver_at":"{}","#, deliver_at.format(&Rfc3339)?);
        let loaded = post_all(&load).await?;
        ensure!(Instant::now() < due, "the posts took too long");
        let full = self.tally.full(LIMIT).await?;
        let first = self.tally.first_at().unwrap_or(full);
        ensure!(first >= due, "some came before their time");
        println!(
            "{} scheduled: accepted in {:.1} s, the first came {:.2} s after the time, the last {:.2} s",
            self.tally.messages(),
            loaded.took.as_secs_f64(),
            (first - due).as_secs_f64(),
            (full - due).as_secs_f64()
        );
        Ok(())
    }

    /// Paused channels with as many messages each, which are resumed one after the other.
    async fn channels(&self) -> anyhow::Result<()> {
        let channels = self.channels.len() as u64;
        let each = self.tally.messages() / channels;
        for channel in &self.channels {
            request(&self.stack, &format!("/channel/{channel}/pause"), "").await?;
        }
        let load = Load {
            in_flight: IN_FLIGHT,
            ..self.stack.load(&self.tally, &self.channels, LIMIT)
        };
        post_all(&load).await?;
        for channel in &self.channels {
            until_waiting(&self.stack, channel, usize::try_from(each)?).await?;
        }
        let mut times = Vec::new();
        for (number, channel) in (0u64..).zip(&self.channels) {
            let began = Instant::now();
            request(&self.stack, &format!("/channel/{channel}/resume"), "").await?;
            self.tally.reach((number + 1) * each, LIMIT).await?;
            times.push(began.elapsed());
            let mut of_channel =
                (number..self.tally.messages()).step_by(usize::try_from(channels)?);
            ensure!(
                of_channel.all(|message| self.tally.arrived_at(message).is_some()),
                "messages of another channel came"
            );
        }
        times.sort_unstable();
        println!(
            "{channels} channels with {each} messages each: all messages of one came {:.2} s (median) and \
             {:.2} s (most) after its resume",
            times[times.len() / 2].as_secs_f64(),
            times[times.len() - 1].as_secs_f64()
        );
        Ok(())
    }
}
