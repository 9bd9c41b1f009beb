//! Measures the embedded engine's rates of publishes and of acks on this machine: `cargo run
//! --release -p roundtrip-broker --example embedded_rate [folder]`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_broker::{Config, Handler, Message, Queue, Route, SharedBroker, Worker, open};
use roundtrip_model::{ChannelId, Clock, Decision, MessageId, SystemClock};
use tokio_util::sync::CancellationToken;

const MESSAGES: u32 = 100_000;
const BODY_BYTES: usize = 400;
const WINDOW: u16 = 1000;
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let config = Config {
        url: format!("sqlite:{}", folder.path().join("broker.db").display()),
        ..Config::default()
    };
    let broker = open(&config, Arc::new(SystemClock)).await.expect("opens");
    for callers in [1, 16, 256] {
        let messages = if callers == 1 {
            MESSAGES / 10
        } else {
            MESSAGES
        };
        let started = Instant::now();
        publish(&broker, messages, callers).await;
        report(&format!("publish, {callers} callers"), messages, started);

        let started = Instant::now();
        consume(&broker, messages, callers).await;
        report(
            &format!("backlog consumed and acked, {callers} at once"),
            messages,
            started,
        );
    }
    let started = Instant::now();
    tokio::join!(
        publish(&broker, MESSAGES, 256),
        consume(&broker, MESSAGES, 256)
    );
    report("published, consumed and acked together", MESSAGES, started);
    broker.close().await;
}

async fn publish(broker: &SharedBroker, messages: u32, callers: usize) {
    let channel: ChannelId = "c".parse().expect("an id");
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    // A task for each caller, like an HTTP connection.
    let each = messages as usize / callers;
    let publishing = (0..callers).map(|caller| {
        let (broker, body) = (broker.clone(), body.clone());
        let channel = channel.clone();
        let own = each + usize::from(caller < messages as usize % callers);
        tokio::spawn(async move {
            for _ in 0..own {
                let message = Message {
                    id: MessageId::generate().to_string(),
                    attempts: 0,
                    replay_count: 0,
                    accepted_at: SystemClock.now(),
                    dead: None,
                    waiting: None,
                    body: body.clone(),
                };
                broker
                    .publish(Route::Outbound(&channel), message)
                    .await
                    .expect("taken");
            }
        })
    });
    futures::future::try_join_all(publishing)
        .await
        .expect("publishes");
}

/// Consumes with the roles' worker loop.
async fn consume(broker: &SharedBroker, messages: u32, concurrency: usize) {
    let consumer = broker.consume(Queue::Outbound, WINDOW).await.expect("open");
    let stop = CancellationToken::new();
    let handler = Counting {
        left: AtomicU32::new(messages),
        stop: stop.clone(),
    };
    let worker = Worker {
        queue: Queue::Outbound,
        concurrency,
        drain: DRAIN,
    };
    worker.run(consumer, Arc::new(handler), stop).await;
}

/// Acks each message at once, and stops after the last.
struct Counting {
    left: AtomicU32,
    stop: CancellationToken,
}

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, _: &Message) -> Decision {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.cancel();
        }
        Decision::Done
    }

    async fn panicked(&self, _: &Message) -> Decision {
        Decision::Done
    }
}

fn report(what: &str, messages: u32, started: Instant) {
    let rate = f64::from(messages) / started.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} per s");
}
