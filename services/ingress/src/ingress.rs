//! What the handlers share, and how it is built.

use std::{ops::Deref, sync::Arc};

use roundtrip_broker::SharedBroker;
use roundtrip_egress::Guard;
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock, SealingKeys, TokenKeys};
use roundtrip_notices::Notices;
use roundtrip_store::{CachedChannels, SharedStore};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Authenticator, KeySettings},
    callback::refusals::Refusals,
    config::{CallbackAuth, Config},
    inbound::secret_reads::SecretReads,
    limits::{AnswerLimits, Places, Queries, ResponseBudget},
    metrics::REQUESTS_IN_FLIGHT,
    waiters::Waiters,
};

/// The most batches in progress; a further one gets 503. Each holds its body and the parsed
/// messages in memory.
const MAX_BATCHES: usize = 8;

/// The state of the handlers. It is cloned several times a request, which only increments a
/// counter.
#[derive(Clone)]
pub struct Ingress(Arc<IngressState>);

impl Deref for Ingress {
    type Target = IngressState;

    fn deref(&self) -> &IngressState {
        &self.0
    }
}

pub struct IngressState {
    parts: Parts,
    pub(crate) limits: Config,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) answer_limits: AnswerLimits,
    pub(crate) secret_reads: SecretReads,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) under_way: Semaphore,
    /// The free part of the byte budget of all bodies.
    pub(crate) bytes: Arc<Semaphore>,
    /// The part of it for unread responses.
    pub(crate) response_budget: ResponseBudget,
    pub(crate) batches: Semaphore,
    pub(crate) queries: Queries,
    pub(crate) waiters: Waiters,
    pub(crate) followers: Places,
}

impl Deref for IngressState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

pub struct Parts {
    pub broker: SharedBroker,
    pub store: SharedStore,
    /// The channel cache, which reads secrets; other roles of the process may share it.
    pub channel_cache: Arc<CachedChannels>,
    pub journal: Journal,
    /// The keys of the tokens that the dispatcher makes.
    pub tokens: TokenKeys,
    pub callback_auth: CallbackAuth,
    pub sealing: SealingKeys,
    /// The gateway's own `/webhook-response`, as channels reach it. Messages that name no
    /// `response_url` get it.
    pub own_response_url: Arc<str>,
    pub keys: KeySettings,
    pub guard: Arc<Guard>,
    pub clock: Arc<dyn Clock>,
    pub notices: Notices,
    /// Cancelled when the process begins to stop. Requests that wait for an answer then end.
    pub stopping: CancellationToken,
}

impl Ingress {
    /// Forgets what is known of a channel, and has its waiting messages looked at.
    pub(crate) async fn channel_changed(&self, id: &ChannelId) {
        self.channel_cache.forget(id).await;
        if let Err(error) = self.store.wake_channel(id, self.clock.now()).await {
            // A dispatcher looks at a paused channel after `paused_park`, too.
            tracing::warn!(channel_id = %id, %error, "the store did not accept that the channel's waiting messages are due now; they are checked later");
        }
    }

    /// Sets the gauge of the requests under way to their present number.
    pub fn measure(&self) {
        let free = self.under_way.available_permits();
        let under_way = self.limits.max_requests_in_flight.saturating_sub(free);
        REQUESTS_IN_FLIGHT.set((), under_way);
    }

    /// An ingress of these parts, with these limits. Must be called within a runtime.
    pub fn new(limits: Config, parts: Parts) -> Self {
        let authenticator = Authenticator::start(
            &parts.keys,
            &limits,
            Arc::clone(&parts.store),
            Arc::clone(&parts.clock),
            &parts.own_response_url,
        );
        let waiters = Waiters::start(
            limits.waiting_places(),
            Arc::clone(&parts.store),
            parts.broker.mailbox(),
            parts.stopping.clone(),
        );
        let bytes = Arc::new(Semaphore::new(limits.max_bytes_in_flight));
        Self(Arc::new(IngressState {
            parts,
            refusals: Arc::default(),
            answer_limits: AnswerLimits::new(&limits),
            secret_reads: SecretReads::new(),
            authenticator: Arc::new(authenticator),
            under_way: Semaphore::new(limits.max_requests_in_flight),
            response_budget: ResponseBudget::of(&bytes, limits.max_bytes_in_flight),
            bytes,
            batches: Semaphore::new(MAX_BATCHES),
            queries: Queries::new(),
            waiters,
            followers: Places::new(limits.max_followers),
            limits,
        }))
    }

    /// How many answers were refused since the start because another process signed their tokens
    /// with another secret. For probes.
    pub fn answers_of_unknown_keys(&self) -> u64 {
        self.refusals.unknown_keys()
    }

    /// Why sends with a key from the store are refused now, if they are. For probes.
    pub fn unready(&self) -> Option<&'static str> {
        self.authenticator.unready()
    }
}
