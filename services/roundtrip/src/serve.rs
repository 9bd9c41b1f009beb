//! The composition root: chooses the engines, builds every part, then starts them.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use axum::Router;
use roundtrip_broker::SharedBroker;
use roundtrip_egress::Egress;
use roundtrip_ingress::{CallbackAuth, Ingress, KeySettings, Parts};
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, SealingKeys, SystemClock, TokenKeys, WrongSetting, config::chain};
use roundtrip_notices::Notices;
use roundtrip_store::{
    CachedChannels, OpenError, SharedChannels, SharedSecrets, SharedStore, Store,
};
use tokio::time::timeout;

use crate::{
    cli::Role,
    config::{Config, Environment},
    descriptors, development,
    lifecycle::{Lifecycle, Step},
    listener::{Limits, Listener, Tls},
    metrics::{Metrics, Port},
    operations::{self, Operations},
    runtime, start, telemetry,
    workers::{Common, Workers},
};

/// How long the end waits for the last journal entries. Their deliveries are settled only after
/// them.
const JOURNAL_CLOSE: Duration = Duration::from_secs(5);

pub(crate) fn run(config: Config, roles: BTreeSet<Role>) -> ExitCode {
    telemetry::start(&config.log);
    runtime::run(serve(config, roles))
}

async fn serve(config: Config, roles: BTreeSet<Role>) -> anyhow::Result<ExitCode> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let egress = Arc::new(config.egress()?);
    let broker = roundtrip_broker::open(&config.broker, Arc::clone(&clock)).await?;
    let store = open_store(&config.store).await?;
    let ended = serve_on(&broker, &store, &config, &roles, clock, egress).await;
    // Also after an error: the tasks of the store's driver must not outlive the runtime.
    broker.close().await;
    store.close().await;
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    ended
}

async fn serve_on(
    broker: &SharedBroker,
    store: &SharedStore,
    config: &Config,
    roles: &BTreeSet<Role>,
    clock: Arc<dyn Clock>,
    egress: Arc<Egress>,
) -> anyhow::Result<ExitCode> {
    let channels = Arc::clone(store) as SharedChannels;
    let journal = Journal::start(Arc::clone(broker));
    let notices = notices_of(config, broker, &clock)?;
    let keys = Keys::of(config, roles)?;
    let channel_cache = Arc::new(channel_cache_of(config, roles, store, keys.as_ref()));
    let own_response_url = config.own_response_url()?;

    // Build everything before anything starts, so that errors come first.
    let workers = Workers::build(
        config,
        roles,
        Common {
            broker,
            store,
            channel_cache: &channel_cache,
            journal: &journal,
            notices: &notices,
            egress: &egress,
            tokens: keys.as_ref().map(|keys| &keys.tokens),
            own_response_url: &own_response_url,
            clock: &clock,
        },
    )?;

    if config.environment == Environment::Production && config.callback_auth() == CallbackAuth::Open
    {
        tracing::warn!(
            "callback_auth = \"open\": anyone who reaches the gateway can forge an answer"
        );
    }
    if config.sessions_server.is_none() && roles.contains(&Role::Forwarder) {
        tracing::warn!(
            "SESSIONS_SERVER is not set: answers go to the inbox in this process' memory, which keeps \
             the latest {} of a session and is empty after a restart, though their messages' state \
             says forwarded",
            development::MAX_ANSWERS
        );
    }
    let mut lifecycle = Lifecycle::new()?;
    let mut api = None;
    if let Some(Keys { sealing, tokens }) = keys.filter(|_| roles.contains(&Role::Ingress)) {
        let parts = Parts {
            broker: Arc::clone(broker),
            store: Arc::clone(store),
            channel_cache: Arc::clone(&channel_cache),
            journal: journal.clone(),
            tokens,
            callback_auth: config.callback_auth(),
            sealing,
            own_response_url: own_response_url.as_str().into(),
            keys: api_keys(config, &**store, &*clock).await?,
            guard: Arc::clone(egress.guard()),
            clock: Arc::clone(&clock),
            notices: notices.clone(),
            stopping: lifecycle.stopping(),
        };
        let ingress = Ingress::new(config.ingress.clone(), parts);
        let more = match config.environment {
            Environment::Development => {
                development::register_echo(config, &*channels).await?;
                development::router(Arc::clone(&clock), Arc::clone(&egress))?
            }
            Environment::Production => Router::new(),
        };
        api = Some(ingress.clone());
        let router = ingress.router(more);
        let listener = open_api(&config.ingress, Arc::clone(&clock)).await?;
        serve_by(&mut lifecycle, "ingress", listener, router);
    }
    let metrics = Metrics::new(
        Arc::clone(broker),
        Arc::clone(store),
        journal.clone(),
        api.clone(),
        workers.admissions(),
        Arc::clone(&clock),
    );
    let operations = Operations {
        metrics: Arc::new(metrics),
        broker: Arc::clone(broker),
        channels,
        channel_cache,
        ingress: api,
        is_development: config.environment == Environment::Development,
        answers: workers.answers(),
        store_answered: Arc::default(),
    };
    let at = config.operations.listen;
    let listener = Listener::bind(Port::Operations, at, None, operations::LIMITS).await?;
    let router = operations.router(&own_response_url);
    serve_by(&mut lifecycle, "operations", listener, router);

    workers.spawn(&mut lifecycle, broker, config.drain);
    start::announce(config, roles)?;
    let code = lifecycle.run(config.drain).await;
    if timeout(JOURNAL_CLOSE, journal.close()).await.is_err() {
        tracing::warn!("the broker did not accept the last journal entries");
    }
    Ok(code)
}

fn notices_of(
    config: &Config,
    broker: &SharedBroker,
    clock: &Arc<dyn Clock>,
) -> Result<Notices, WrongSetting> {
    let url = config.notices_url()?;
    let (broker, clock) = (Arc::clone(broker), Arc::clone(clock));
    Ok(url.map_or_else(Notices::off, |_url| {
        Notices::start(broker, clock, config.notices.window)
    }))
}

/// Which API keys are accepted. Refuse to start without any key; if the store is unavailable, start
/// and reject requests until it answers.
async fn api_keys(
    config: &Config,
    store: &dyn Store,
    clock: &dyn Clock,
) -> anyhow::Result<KeySettings> {
    let settings = KeySettings {
        required: config.environment == Environment::Production,
        operator: config.operator_key()?,
        time_to_live: config.store.cache_ttl,
    };
    if settings.required && settings.operator.is_none() {
        match store.active_keys(clock.now()).await {
            Ok(keys) if keys.is_empty() => {
                return Err(no_key().into());
            }
            Ok(_) => {}
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "cannot check whether there are API keys");
            }
        }
    }
    Ok(settings)
}

fn no_key() -> WrongSetting {
    WrongSetting::new(
        "operator_key",
        "(OPERATOR_KEY) is not set and there is no API key, so every call would be refused",
    )
    .remedy("make one with `roundtrip keys create --name first --role operator`, or set it")
}

/// The keys of the ingress and the dispatcher. The other roles need none and create no key files.
struct Keys {
    sealing: SealingKeys,
    tokens: TokenKeys,
}

impl Keys {
    fn of(config: &Config, roles: &BTreeSet<Role>) -> Result<Option<Self>, WrongSetting> {
        if !roles.contains(&Role::Ingress) && !roles.contains(&Role::Dispatcher) {
            return Ok(None);
        }
        Ok(Some(Self {
            sealing: config.sealing()?,
            tokens: config.tokens()?,
        }))
    }
}

/// The channel cache of the roles. It also reads secrets, if a role signs or verifies with them, and,
/// for the ingress, until when each channel is held.
fn channel_cache_of(
    config: &Config,
    roles: &BTreeSet<Role>,
    store: &SharedStore,
    keys: Option<&Keys>,
) -> CachedChannels {
    let mut channel_cache = CachedChannels::new(Arc::clone(store) as SharedChannels, &config.store);
    if roles.contains(&Role::Ingress) {
        channel_cache = channel_cache.with_held_until(Arc::clone(store) as _);
    }
    match keys {
        Some(keys) => {
            channel_cache.with_secrets(Arc::clone(store) as SharedSecrets, keys.sealing.clone())
        }
        None => channel_cache,
    }
}

pub(crate) async fn open_store(config: &roundtrip_store::Config) -> anyhow::Result<SharedStore> {
    roundtrip_store::open(config)
        .await
        .map_err(|error| match error {
            OpenError::Settings(wrong) => wrong.into(),
            OpenError::File(error) => error.into(),
        })
}

/// Opens the API's port, after the files that it needs.
async fn open_api(
    config: &roundtrip_ingress::Config,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Listener> {
    let tls = config.tls.as_ref();
    let tls = tls.map(|files| Tls::new(files, clock)).transpose()?;
    let limits = Limits {
        connections: config.max_connections,
        header_bytes: config.max_header_bytes,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
    };
    descriptors::enough_for(limits.connections);
    Listener::bind(Port::Ingress, config.listen, tls, limits).await
}

fn serve_by(lifecycle: &mut Lifecycle, name: &'static str, listener: Listener, router: Router) {
    lifecycle.spawn(Step::Servers, name, |stop| async move {
        listener.run(router, stop).await;
        Ok(())
    });
}
