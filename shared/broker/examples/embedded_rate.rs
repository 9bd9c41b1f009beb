//! How fast the embedded engine takes parcels, and hands them out and forgets them, on this
//! machine: `cargo run --release -p roundtrip-broker --example embedded_rate [folder]`.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use roundtrip_broker::{Config, Parcel, Queue, Route, SharedBroker, open};
use roundtrip_model::{Clock, Decision, MessageId, SystemClock};

const PARCELS: u32 = 100_000;
const BODY_BYTES: usize = 400;
const WINDOW: u16 = 1000;

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
        let parcels = if callers == 1 { PARCELS / 10 } else { PARCELS };
        let started = Instant::now();
        publish(&broker, parcels, callers).await;
        report(&format!("publish, {callers} callers"), parcels, started);

        let started = Instant::now();
        consume(&broker, parcels, callers).await;
        report(
            &format!("backlog consumed and acked, {callers} at once"),
            parcels,
            started,
        );
    }
    let started = Instant::now();
    tokio::join!(
        publish(&broker, PARCELS, 256),
        consume(&broker, PARCELS, 256)
    );
    report(
        "published, consumed and acked at once, 256 and 256",
        PARCELS,
        started,
    );
    broker.close().await;
}

async fn publish(broker: &SharedBroker, parcels: u32, callers: usize) {
    let channel = "c".parse().expect("an id");
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    // A task for each caller, as an HTTP connection would have.
    let each = parcels as usize / callers;
    let publishing = (0..callers).map(|caller| {
        let (broker, body) = (broker.clone(), body.clone());
        let channel: roundtrip_model::ChannelId = Clone::clone(&channel);
        let own = each + usize::from(caller < parcels as usize % callers);
        tokio::spawn(async move {
            for _ in 0..own {
                let parcel = Parcel {
                    id: MessageId::generate().to_string(),
                    tries: 0,
                    accepted_at: SystemClock.now(),
                    dead: None,
                    body: body.clone(),
                };
                broker
                    .publish(Route::Outbound(&channel), parcel)
                    .await
                    .expect("taken");
            }
        })
    });
    futures::future::try_join_all(publishing)
        .await
        .expect("publishes");
}

async fn consume(broker: &SharedBroker, parcels: u32, at_once: usize) {
    let consumer = broker.consume(Queue::Outbound, WINDOW).await.expect("open");
    let deliveries = stream::unfold(consumer, |mut consumer| async {
        consumer.next().await.map(|delivery| (delivery, consumer))
    });
    deliveries
        .take(parcels as usize)
        .for_each_concurrent(at_once, async |delivery| {
            delivery.settle(Decision::Done).await.expect("settled");
        })
        .await;
}

fn report(what: &str, parcels: u32, started: Instant) {
    let rate = f64::from(parcels) / started.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} per s");
}
