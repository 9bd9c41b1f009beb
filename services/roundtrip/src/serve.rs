//! The composition root: chooses the engines, builds every part, then starts them.

use std::{collections::BTreeSet, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, serve::ListenerExt};
use roundtrip_broker::SharedBroker;
use roundtrip_dispatcher::{Answers, Dispatcher};
use roundtrip_forwarder::Forwarder;
use roundtrip_ingress::{Ingress, Parts};
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, SystemClock};
use roundtrip_recorder::Recorder;
use roundtrip_store::{CachedChannels, SharedChannels, SharedStore};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Role,
    config::{Config, Problem, Stage},
    development,
    lifecycle::{Lifecycle, Step},
    operations::Operations,
    telemetry,
};

/// How long the end waits for the last journal entries, whose deliveries are not settled without
/// them.
const JOURNAL_CLOSE: Duration = Duration::from_secs(5);

/// Runs these roles until the process is told to stop.
pub(crate) fn run(config: Config, roles: BTreeSet<Role>) -> ExitCode {
    if let Err(problem) = telemetry::start(&config.log) {
        return problem.exit();
    }
    // Before anything opens a connection: each TLS client would otherwise choose its own provider.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::error!("another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        serve(config, roles).await.unwrap_or_else(|error| {
            if let Some(problem) = error.downcast_ref::<Problem>() {
                return problem.exit();
            }
            eprintln!("roundtrip: {error:#}");
            ExitCode::FAILURE
        })
    })
}

async fn serve(config: Config, roles: BTreeSet<Role>) -> anyhow::Result<ExitCode> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let egress = Arc::new(config.egress()?);
    let broker = open_broker(&config, Arc::clone(&clock)).await?;
    let store = open_store(&config).await?;
    let channels: SharedChannels = Arc::clone(&store) as SharedChannels;
    let journal = Journal::start(Arc::clone(&broker));
    let known = Arc::new(CachedChannels::new(Arc::clone(&channels), &config.store));
    let own_response_url = config.own_response_url()?;
    let tokens = config.tokens()?;

    // Everything is built before anything starts: what cannot be is told first.
    let dispatcher = roles.contains(&Role::Dispatcher).then(|| {
        Dispatcher::new(
            &config.dispatcher,
            Arc::clone(&known),
            Arc::clone(&egress),
            Answers::new(own_response_url.clone(), tokens.clone()),
            journal.clone(),
            Arc::clone(&clock),
        )
        .map_err(|error| Problem::section("dispatcher", &error))
    });
    let forwarder = roles.contains(&Role::Forwarder).then(|| {
        Forwarder::new(
            &config.forwarder,
            config.sessions_server()?,
            egress.roots().clone(),
            journal.clone(),
            Arc::clone(&clock),
        )
        .map_err(|error| Problem::section("forwarder", &error))
    });
    let (dispatcher, forwarder) = (dispatcher.transpose()?, forwarder.transpose()?);

    let mut lifecycle = Lifecycle::new()?;
    if roles.contains(&Role::Ingress) {
        let parts = Parts {
            broker: Arc::clone(&broker),
            store: Arc::clone(&store),
            known,
            journal: journal.clone(),
            tokens,
            own_response_url: own_response_url.as_str().into(),
            guard: Arc::clone(egress.guard()),
            clock: Arc::clone(&clock),
        };
        let ingress = Ingress::new(config.ingress.clone(), parts);
        let more = match config.environment {
            Stage::Development => {
                development::register_echo(&config, &*channels).await?;
                development::router(Arc::clone(&clock), Arc::clone(&egress))?
            }
            Stage::Production => Router::new(),
        };
        let router = ingress.router(more);
        listen(&mut lifecycle, "ingress", config.ingress.listen, router).await?;
    }
    let operations = Operations {
        broker: Arc::clone(&broker),
        channels,
    };
    let (listen_at, router) = (config.operations.listen, operations.router());
    listen(&mut lifecycle, "operations", listen_at, router).await?;

    let drain = config.drain;
    work(&mut lifecycle, &broker, drain, dispatcher, forwarder);
    if roles.contains(&Role::Recorder) {
        let recorder = Recorder::new(
            &config.recorder,
            Arc::clone(&broker),
            store,
            journal.clone(),
            clock,
        );
        lifecycle.spawn(Step::Workers, "recorder", |stop| async move {
            recorder.run(drain, stop).await.context("the recorder")
        });
    }

    tracing::info!(
        roles = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(","),
        environment = ?config.environment,
        broker = ?config.broker,
        store = ?config.store,
        "started"
    );
    let code = lifecycle.run(config.drain).await;
    if timeout(JOURNAL_CLOSE, journal.close()).await.is_err() {
        tracing::warn!("the broker did not take the last journal entries");
    }
    broker.close().await;
    tracing::info!("stopped");
    Ok(code)
}

/// Starts the two that post.
fn work(
    lifecycle: &mut Lifecycle,
    broker: &SharedBroker,
    drain: Duration,
    dispatcher: Option<Dispatcher>,
    forwarder: Option<Forwarder>,
) {
    if let Some(dispatcher) = dispatcher {
        let broker = Arc::clone(broker);
        lifecycle.spawn(Step::Workers, "dispatcher", |stop| async move {
            let run = dispatcher.run(broker, drain, stop);
            run.await.context("the dispatcher")
        });
    }
    if let Some(forwarder) = forwarder {
        let broker = Arc::clone(broker);
        lifecycle.spawn(Step::Workers, "forwarder", |stop| async move {
            let run = forwarder.run(broker, drain, stop);
            run.await.context("the forwarder")
        });
    }
}

async fn open_broker(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<SharedBroker> {
    use roundtrip_broker::OpenError::{Scheme, Setting, Url};
    roundtrip_broker::open(&config.broker, clock)
        .await
        .map_err(|error| match error {
            Scheme | Url(_) | Setting { .. } => Problem::said(&error).into(),
            other => other.into(),
        })
}

async fn open_store(config: &Config) -> anyhow::Result<SharedStore> {
    use roundtrip_store::OpenError::{Scheme, Setting};
    match roundtrip_store::open(&config.store).await {
        Ok(store) => Ok(store),
        Err(error @ (Scheme(_) | Setting { .. })) => Err(Problem::said(&error).into()),
        Err(other) => Err(other.into()),
    }
}

/// Binds now, so that a port that is taken is told at the start, and serves from then on.
async fn listen(
    lifecycle: &mut Lifecycle,
    name: &'static str,
    address: SocketAddr,
    router: Router,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({name}.listen)"))?;
    tracing::info!(%address, "{name} listens");
    // Small answers to waiting clients: none may wait for a full segment.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
    });
    lifecycle.spawn(Step::Servers, name, |stop: CancellationToken| async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context(name)
    });
    Ok(())
}
