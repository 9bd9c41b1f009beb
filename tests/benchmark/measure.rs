//! One round of measurements on one gateway.
//!
//! Invariant: every measurement starts warm and idle: processes are ready, channels registered,
//! connections open, and all messages of the measurement before have arrived.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use harness::{
    counting::CountingServer,
    http::Connection,
    loader::{BodyShape, Load, post_all},
    procfs::{self, Usage},
    servers::Server,
    stack::{Role, Stack},
    tally::Tally,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    options::Run,
    results::{Measure, Round, Stage},
};

const LIMIT: Duration = Duration::from_mins(2);

/// The benchmark's own process in the report.
const OWN_NAME: &str = "loader, counting servers";

/// A gateway under measurement, with its channel and sessions servers.
pub(crate) struct Bench<'a> {
    pub(crate) run: &'a Run,
    pub(crate) stack: Stack,
    pub(crate) channel_server: CountingServer,
    pub(crate) sessions_server: CountingServer,
    /// Its servers, by their names in the report.
    pub(crate) servers: Vec<(&'static str, &'a Server)>,
    /// The registered channels; empty before their registration.
    pub(crate) channels: Vec<String>,
}

/// The rate of the loader straight to the counting server.
pub(crate) async fn ceiling(run: &Run, server: &CountingServer) -> anyhow::Result<f64> {
    let tally = Arc::new(Tally::new("ceiling", usize::try_from(run.messages)?));
    server.answer(false);
    server.count_into(Arc::clone(&tally));
    let load = Load {
        address: server.peer(),
        path: "/incoming",
        tally: Arc::clone(&tally),
        body: BodyShape {
            channels: vec!["none".to_owned()],
            response_url: server.url(),
            fields: String::new(),
            bytes: run.body_bytes,
        },
        in_flight: run.in_flight,
        limit: LIMIT,
    };
    let loaded = post_all(&load).await?;
    ensure!(
        loaded.repeated == 0,
        "{} posts were not answered",
        loaded.repeated
    );
    let full = tally.full(LIMIT).await?;
    Ok(run.size().per_second(full - loaded.since))
}

impl Bench<'_> {
    /// Measures everything once and stops what it started.
    pub(crate) async fn round(&mut self, number: usize, round: &mut Round) -> anyhow::Result<()> {
        let first = *self.stack.roles().first().context("no role")?;
        self.stack.start(first).await?;
        if self.channels.is_empty() {
            let endpoint = [self.channel_server.url()];
            self.channels = self.stack.register(self.run.channels, &endpoint).await?;
        }
        // The embedded engines have one process with every role: there the channels hold their
        // responses while the backlog is made.
        let is_whole = first == Role::All;
        let held = is_whole.then(|| self.channel_server.hold());
        let backlog = self.accept(number, round).await?;
        self.deliver_backlog(&backlog, held, round).await?;
        self.accept_to_delivery(number, round).await?;
        self.round_trips(number, round).await?;
        self.one_at_a_time(number, round).await?;
        for (role, usage) in self.stack.usage()? {
            round.memory.insert(role.to_string(), usage.peak_memory);
        }
        for (name, server) in &self.servers {
            let peak_memory = server.usage().peak_memory;
            round.memory.insert((*name).to_owned(), peak_memory);
        }
        self.stack.stop_all().await
    }

    /// Accepts while nothing is delivered, and leaves the backlog.
    async fn accept(&mut self, number: usize, round: &mut Round) -> anyhow::Result<Arc<Tally>> {
        let tally = tally("accept", number, self.run.messages)?;
        self.channel_server.answer(false);
        self.channel_server.count_into(Arc::clone(&tally));
        let before = self.usage()?;
        let loaded = post_all(&self.load(&tally)).await?;
        round.used(Stage::Accept, &before, &self.usage()?);
        ensure!(
            loaded.repeated == 0,
            "{} posts were not accepted",
            loaded.repeated
        );
        round.rate(Measure::Accept, self.run.size(), loaded.took);
        Ok(tally)
    }

    /// Delivers the backlog while nothing is accepted.
    async fn deliver_backlog(
        &mut self,
        backlog: &Tally,
        held: Option<CancellationToken>,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        let mut size = self.run.size();
        let (full, first) = if let Some(held) = held {
            size.messages -= backlog.distinct();
            let first = Instant::now();
            held.cancel();
            (backlog.full(LIMIT).await?, first)
        } else {
            self.stack.start_all().await?;
            let full = backlog.full(LIMIT).await?;
            (full, backlog.first_at().context("nothing came")?)
        };
        round.rate(Measure::Backlog, size, full - first);
        Ok(())
    }

    async fn accept_to_delivery(&self, number: usize, round: &mut Round) -> anyhow::Result<()> {
        let tally = tally("delivery", number, self.run.messages)?;
        self.channel_server.count_into(Arc::clone(&tally));
        let before = self.usage()?;
        let loaded = post_all(&self.load(&tally)).await?;
        let full = tally.full(LIMIT).await?;
        round.used(Stage::AcceptToDelivery, &before, &self.usage()?);
        round.rate(
            Measure::AcceptToDelivery,
            self.run.size(),
            full - loaded.since,
        );
        Ok(())
    }

    async fn round_trips(&self, number: usize, round: &mut Round) -> anyhow::Result<()> {
        let delivered = tally("trip", number, self.run.messages)?;
        let answered = tally("trip", number, self.run.messages)?;
        self.channel_server.count_into(Arc::clone(&delivered));
        self.channel_server.answer(true);
        self.sessions_server.count_into(Arc::clone(&answered));
        let before = self.usage()?;
        let loaded = post_all(&self.load(&delivered)).await?;
        let full = answered.full(LIMIT).await?;
        round.used(Stage::RoundTrips, &before, &self.usage()?);
        round.rate(Measure::RoundTrips, self.run.size(), full - loaded.since);
        Ok(())
    }

    async fn one_at_a_time(&self, number: usize, round: &mut Round) -> anyhow::Result<()> {
        let messages = self.run.one_at_a_time;
        let delivered = tally("single", number, messages)?;
        let answered = tally("single", number, messages)?;
        self.channel_server.count_into(Arc::clone(&delivered));
        self.sessions_server.count_into(Arc::clone(&answered));
        let load = self.load(&delivered);
        let mut connection = Connection::open(&load.address).await?;
        let (mut deliveries, mut trips) = (Vec::new(), Vec::new());
        for message in 0..messages {
            let body = load.body.make(message, &delivered.session(message));
            let since = Instant::now();
            let delivery = async {
                delivered.reach(message + 1, LIMIT).await?;
                anyhow::Ok(since.elapsed())
            };
            let trip = async {
                answered.reach(message + 1, LIMIT).await?;
                anyhow::Ok(since.elapsed())
            };
            let (answer, delivery, trip) =
                tokio::try_join!(connection.post(load.path, body), delivery, trip)?;
            ensure!(answer.0.is_success(), "a post was met with {}", answer.0);
            deliveries.push(delivery);
            trips.push(trip);
        }
        round.percentiles(Measure::DeliveryP50, Measure::DeliveryP99, deliveries);
        round.percentiles(Measure::RoundTripP50, Measure::RoundTripP99, trips);
        Ok(())
    }

    fn load(&self, tally: &Arc<Tally>) -> Load {
        let mut load = self.stack.load(tally, &self.channels, LIMIT);
        load.body.bytes = self.run.body_bytes;
        load.in_flight = self.run.in_flight;
        load
    }

    /// The use of each process so far, by name.
    fn usage(&self) -> anyhow::Result<BTreeMap<String, Usage>> {
        let roles = self.stack.usage()?;
        let own = procfs::usage(std::process::id())?;
        Ok(roles
            .into_iter()
            .map(|(role, usage)| (role.to_string(), usage))
            .chain(
                self.servers
                    .iter()
                    .map(|(name, server)| ((*name).to_owned(), server.usage())),
            )
            .chain([(OWN_NAME.to_owned(), own)])
            .collect())
    }
}

/// A separate tally for each measurement, so that late messages of an earlier one do not count.
fn tally(stage: &str, number: usize, messages: u64) -> anyhow::Result<Arc<Tally>> {
    let run = format!("{stage}-{number}");
    Ok(Arc::new(Tally::new(&run, usize::try_from(messages)?)))
}
