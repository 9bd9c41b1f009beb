//! Posts notices to the operator's server.

use std::sync::Arc;

use async_trait::async_trait;
use roundtrip_broker::{Message, Queue};
use roundtrip_delivery::{
    DeliveryRole, EgressPolicy, Limits, NoAttempt, Pipeline, Request, RoleName, Settings,
};
use roundtrip_journal::Journal;
use roundtrip_model::{ChannelId, Clock, Entry, Event, Notice, SessionId, Signer, WrongSettings};
use roundtrip_tls::Roots;
use time::OffsetDateTime;
use url::Url;

use crate::Config;

/// The most notices that are posted at once.
const CONCURRENCY: u16 = 4;

pub struct Notifier {
    url: Url,
    signer: Option<Signer>,
}

impl Notifier {
    /// A pipeline that posts to this URL, signed if there is a signer, with the forwarder's time
    /// limits and schedule. The URL is the operator's own, so the egress rules do not apply.
    pub fn pipeline(
        config: &Config,
        url: Url,
        signer: Option<Signer>,
        roots: Roots,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Pipeline<Self>, WrongSettings> {
        let settings = Settings {
            concurrency: CONCURRENCY,
            ..config.settings()
        };
        let role = Self { url, signer };
        let egress_policy = EgressPolicy::Unrestricted(roots);
        Pipeline::new(role, &settings, egress_policy, journal, clock)
    }
}

#[async_trait]
impl DeliveryRole for Notifier {
    type Payload = Notice;
    /// All notices go to one server.
    type Destination = ();

    const QUEUE: Queue = Queue::Notices;
    const SHARED_SERVER: Option<&'static str> = None;
    const NAME: RoleName = RoleName::Notice;
    const BREAKER_LOG_NAME: &'static str = "notices_server";

    /// Notices have no channel: all go to one server, which has one breaker.
    fn channel_id(_: &Notice) -> Option<&ChannelId> {
        None
    }

    fn session_id(_: &Notice) -> Option<&SessionId> {
        None
    }

    async fn destination(&self, _: &Notice) -> Result<(), NoAttempt> {
        Ok(())
    }

    fn request<'a>(
        &'a self,
        message: &Message,
        _: &Notice,
        (): &'a (),
    ) -> Result<Request<'a>, serde_json::Error> {
        Ok(Request {
            url: &self.url,
            webhook_id: message.id.clone(),
            headers: Vec::new(),
            body: message.body.clone(),
            signer: self.signer.as_ref(),
            limits: Limits::NONE,
            timeout: None,
            schedule: None,
            answer: None,
        })
    }

    /// Attempts to post a notice are not journaled.
    fn entry(_: &Message, _: &Notice, _: OffsetDateTime, _: Event) -> Option<Entry> {
        None
    }
}
