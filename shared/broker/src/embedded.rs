//! The embedded engine: durable queues in one SQLite file, for one process.
//!
//! Invariant: a reply follows its commit, and a commit follows its sync (`synchronous=FULL`). One
//! thread, the writer, owns the file and all state; others send it commands. The writer commits all
//! waiting publishes and settlements in one transaction, so that they share one sync.
//!
//! The states of a message:
//!
//! ```text
//!  publish ─▶ ready on disk ──▶ leased to a consumer ──Ack──▶ gone
//!               ▲   ▲  (a window of them, in memory)  ──Dead─▶ ready, in the dead queue
//!               │   └────── released, consumer dropped, process died
//!               └─ due ──── delayed on disk ◀────────── Defer
//! ```
//!
//! One table holds every message. A message is ready when its due time has come. A queue delivers
//! in order of the key (due time, sequence number), so a retry follows what was ready before it.
//! Each queue keeps the key up to which it has read, and reads only after it. That is enough,
//! because a message that becomes ready later has a later key (see [`timeline`]). Leases are only
//! in memory, so what was leased when the process died is ready at the next start.

mod command;
mod consumer;
#[cfg(feature = "fuzzing")]
#[path = "embedded/tests/fuzzing.rs"]
pub(crate) mod fuzzing;
mod queue;
mod schema;
mod table;
mod timeline;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use roundtrip_model::{Clock, WrongSetting, millis};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    command::{CLOSED, Command, Depth, Publish},
    consumer::Receiver,
    writer::{Bounds, Writer},
};
use crate::{
    Broker, Closed, Config, Consumer, Message, OpenError, PublishError, Queue, Route, Status,
    metrics::counted,
};

/// Maximum number of publishes that wait for the writer. Further ones wait for a permit within
/// their time limit. Settlements are bounded by the windows.
const MAX_WAITING_PUBLISHES: usize = 4096;

/// Maximum size of a body; SQLite's own limit is about a gigabyte.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

pub(crate) struct Embedded {
    commands: mpsc::Sender<Command>,
    /// Bounds the waiting publishes; the permit goes with the publish to the writer.
    room: Arc<Semaphore>,
    publish_timeout: Duration,
    status: Arc<ArcSwap<Status>>,
    closed: CancellationToken,
    next_consumer: AtomicU64,
}

impl Embedded {
    /// The file of a URL, such as `sqlite:data/broker.db` or `sqlite:///var/lib/broker.db`, from what
    /// follows `sqlite:`.
    pub(crate) fn file(path: &str) -> Result<PathBuf, WrongSetting> {
        let path = path.strip_prefix("//").unwrap_or(path);
        let wrong = |problem| Err(WrongSetting::new("url", problem));
        match path {
            "" => wrong("must name a file, such as sqlite:data/broker.db"),
            // An in-memory database would lose every message with the process.
            ":memory:" => wrong("must name a file: memory is not durable"),
            path => Ok(path.into()),
        }
    }

    pub(crate) async fn open(
        path: PathBuf,
        config: &Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let (commands, inbox) = mpsc::channel();
        let status = Arc::new(ArcSwap::from_pointee(Status::Ready));
        let closed = CancellationToken::new();
        let ended = Ended {
            status: Arc::clone(&status),
            closed: closed.clone(),
        };
        let bounds = Bounds::of(config);
        let (report, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("broker-writer".to_owned());
        let spawned = thread.spawn(move || {
            let writer = Writer::open(path, &*clock, bounds, Arc::clone(&ended.status));
            let writer = match writer {
                Ok(writer) => writer,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(()));
            let asked = writer.run(&inbox);
            drop(ended);
            if let Some(asked) = asked {
                let _ = asked.send(());
            }
        });
        spawned.map_err(|error| OpenError::Thread(error.into()))?;
        opened
            .await
            .map_err(|ended| OpenError::Thread(ended.into()))??;
        Ok(Self {
            commands,
            room: Arc::new(Semaphore::new(MAX_WAITING_PUBLISHES)),
            publish_timeout: config.publish_timeout,
            status,
            closed,
            next_consumer: AtomicU64::new(0),
        })
    }

    async fn take(&self, queue: Queue, message: Message) -> Result<(), PublishError> {
        // One limit over both waits: for the permit and for the commit.
        let limit = Instant::now() + self.publish_timeout;
        let room = timeout_at(limit, Arc::clone(&self.room).acquire_owned()).await;
        let Ok(room) = room else {
            return Err(PublishError::Refused(format!(
                "{MAX_WAITING_PUBLISHES} publishes wait for the disk"
            )));
        };
        let room = room.map_err(|_| unavailable())?;
        let (reply, replied) = oneshot::channel();
        let publish = Publish {
            queue,
            message,
            reply,
            room,
        };
        self.commands
            .send(Command::Publish(publish))
            .map_err(|_| unavailable())?;
        match timeout_at(limit, replied).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unavailable()),
            Err(_) => Err(PublishError::Unconfirmed),
        }
    }

    async fn look(&self, queue: Queue) -> Result<Depth, PublishError> {
        let (reply, replied) = oneshot::channel();
        self.commands
            .send(Command::Look { queue, reply })
            .map_err(|_| unavailable())?;
        match timeout(self.publish_timeout, replied).await {
            Ok(Ok(depth)) => Ok(depth),
            Ok(Err(_)) => Err(unavailable()),
            Err(_) => Err(PublishError::Unavailable(
                "the disk does not answer in time".to_owned(),
            )),
        }
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, route: Route<'_>, mut message: Message) -> Result<(), PublishError> {
        if message.body.len() > MAX_BODY_BYTES {
            return Err(PublishError::Refused(format!(
                "a body of {} bytes is over the limit of {MAX_BODY_BYTES}",
                message.body.len()
            )));
        }
        // Truncated to the stored precision, so that a message is equal whether it comes from
        // memory or disk.
        message.accepted_at = timeline::time_of_day(millis::of(message.accepted_at));
        let queue = route.queue();
        counted(queue, self.take(queue, message.published_to(queue))).await
    }

    async fn consume(&self, queue: Queue, window: u16) -> Result<Box<dyn Consumer>, Closed> {
        let id = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        let receiver = Receiver::subscribe(
            queue,
            id,
            usize::from(window.max(1)),
            self.commands.clone(),
            self.closed.clone(),
        )?;
        Ok(Box::new(receiver))
    }

    fn status(&self) -> Status {
        Status::clone(&self.status.load())
    }

    async fn ready(&self, queue: Queue) -> Result<u64, PublishError> {
        Ok(self.look(queue).await?.ready)
    }

    async fn head_age(&self, queue: Queue) -> Result<Option<Duration>, PublishError> {
        Ok(self.look(queue).await?.head_age)
    }

    async fn close(&self) {
        self.closed.cancel();
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).is_ok() {
            let _ = closed.await;
        }
    }
}

/// Dropping the last handle closes the broker; otherwise its thread would wait forever.
impl Drop for Embedded {
    fn drop(&mut self) {
        self.closed.cancel();
        let (unread, _) = oneshot::channel();
        let _ = self.commands.send(Command::Close(unread));
    }
}

/// Dropped when the writer ends, also by a panic: logs it, and ends the consumers.
struct Ended {
    status: Arc<ArcSwap<Status>>,
    closed: CancellationToken,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.status
            .store(Arc::new(Status::Unavailable(CLOSED.to_owned())));
        self.closed.cancel();
    }
}

fn unavailable() -> PublishError {
    PublishError::Unavailable(CLOSED.to_owned())
}
