//! What `GET /metrics` shows: the metrics of every crate, and figures that are read at the scrape.
//!
//! Invariant: scrapes cannot load the broker or the store. Whatever their number, each is asked once in
//! [`FRESH`], and waited for at most [`ASK_LIMIT`]. What did not answer is not shown.

mod process;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::join_all;
use roundtrip_broker::{Queue, SharedBroker, Status};
use roundtrip_delivery::{Admission, RoleName};
use roundtrip_ingress::Ingress;
use roundtrip_journal::Journal;
use roundtrip_metrics::{Counters, Exposition, Gauges};
use roundtrip_model::{Clock, State};
use roundtrip_store::SharedStore;
use tokio::{
    join,
    sync::Mutex,
    time::{Instant, timeout},
};

/// How long what the broker and the store said is shown again.
const FRESH: Duration = Duration::from_secs(1);

/// Below the usual time limit of a scrape, 10 s.
const ASK_LIMIT: Duration = Duration::from_secs(3);

roundtrip_metrics::label! {
    pub(crate) enum Port as "port" {
        Ingress = "ingress",
        Operations = "operations",
    }
}

roundtrip_metrics::label! {
    /// A state that a message should leave soon.
    enum Undelivered as "state" {
        Queued = "queued",
        Retrying = "retrying",
        Answered = "answered",
    }
}

roundtrip_metrics::metrics! {
    static METRICS;
    /// Messages of a queue that are ready: neither delayed nor delivered. The same in every process.
    static READY: Gauges<Queue> = "roundtrip_queue_ready_messages";
    /// For how long the message that is next in a queue has been ready. RabbitMQ cannot tell it.
    static HEAD_AGE: Gauges<Queue> = "roundtrip_queue_head_age_seconds";
    /// Age of the oldest message in this state, as the store knows it; 0 if there is none.
    static OLDEST: Gauges<Undelivered> = "roundtrip_oldest_message_age_seconds";
    /// Whether the broker accepts publishes: 1 or 0.
    static BROKER_READY: Gauges<()> = "roundtrip_broker_ready";
    /// Whether the store answers: 1 or 0.
    static STORE_READY: Gauges<()> = "roundtrip_store_ready";
    /// When the certificate of the API's port ends, in seconds since 1970.
    pub(crate) static CERTIFICATE_ENDS: Gauges<()> = "roundtrip_certificate_expiry_timestamp_seconds";
    /// Open connections of clients.
    pub(crate) static CONNECTIONS: Gauges<Port> = "roundtrip_http_connections";
    /// Connections that were refused because there were as many as allowed.
    pub(crate) static CONNECTIONS_REFUSED: Counters<Port> = "roundtrip_http_connections_refused_total";
}

pub(crate) struct Metrics {
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    ingress: Option<Ingress>,
    admissions: Vec<(RoleName, Admission)>,
    clock: Arc<dyn Clock>,
    exposition: Exposition,
    asked: Mutex<Option<Instant>>,
}

impl Metrics {
    pub(crate) fn new(
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        ingress: Option<Ingress>,
        admissions: Vec<(RoleName, Admission)>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        process::start(&*clock);
        let all = [
            METRICS,
            roundtrip_ingress::METRICS,
            roundtrip_delivery::METRICS,
            roundtrip_broker::METRICS,
            roundtrip_journal::METRICS,
            roundtrip_recorder::METRICS,
            roundtrip_store::METRICS,
            process::METRICS,
        ];
        Self {
            broker,
            store,
            journal,
            ingress,
            admissions,
            clock,
            exposition: Exposition::of(all.into_iter().flatten().copied()),
            asked: Mutex::default(),
        }
    }

    pub(crate) async fn text(&self) -> Result<String, fmt::Error> {
        self.ask().await;
        for (role, admission) in &self.admissions {
            admission.measure(*role);
        }
        if let Some(ingress) = &self.ingress {
            ingress.measure();
        }
        self.journal.measure();
        process::measure();
        self.exposition.text()
    }

    /// Asks the broker and the store, unless they were asked just now. Scrapes wait for each other here.
    async fn ask(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let queues = join_all(Queue::ALL.map(|queue| self.look_at(queue)));
        let states = [
            (Undelivered::Queued, State::Queued),
            (Undelivered::Retrying, State::Retrying),
            (Undelivered::Answered, State::Answered),
        ];
        let oldest = join_all(states.map(|(label, state)| self.look_for(label, state)));
        let ping = timeout(ASK_LIMIT, self.store.ping());
        let (_, _, store) = join!(queues, oldest, ping);
        STORE_READY.set((), matches!(store, Ok(Ok(()))));
        BROKER_READY.set((), self.broker.status() == Status::Ready);
        *asked = Some(Instant::now());
    }

    async fn look_at(&self, queue: Queue) {
        let asked = async { join!(self.broker.ready(queue), self.broker.head_age(queue)) };
        let (ready, head_age) = match timeout(ASK_LIMIT, asked).await {
            Ok((ready, head_age)) => (ready.ok(), head_age.ok().flatten()),
            Err(_too_long) => (None, None),
        };
        READY.set(queue, ready);
        HEAD_AGE.set(queue, head_age);
    }

    async fn look_for(&self, label: Undelivered, state: State) {
        let oldest = timeout(ASK_LIMIT, self.store.oldest(state)).await;
        let age = oldest.ok().and_then(Result::ok).map(|oldest| {
            let age = oldest.map(|id| self.clock.now() - id.made_at());
            // Another machine's clock may be ahead.
            age.map_or(Duration::ZERO, |age| age.try_into().unwrap_or_default())
        });
        OLDEST.set(label, age);
    }
}
