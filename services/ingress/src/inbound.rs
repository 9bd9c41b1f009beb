//! `POST /channel/{channel_id}/inbound`: what a user of the channel's platform says first.
//!
//! Invariant: nothing is enqueued before the signature or the API key is checked. A 401 is the same for
//! a missing, a wrong and an old signature, and for an unknown channel. The log has the reason.

pub(crate) mod secret_reads;

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json as JsonBody,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use roundtrip_broker::{Message, Route};
use roundtrip_model::{
    Callback, ChannelId, Entry, EntryId, Event, LogThrottle, MessageId, MessageKind, SessionId,
    Signer, SigningSecret,
    journal::KeptAnswer,
    signing::{NEW_SECRET_BYTES, Signed},
};
use roundtrip_store::{ChannelError, KnownChannel};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    auth::Principal,
    ingress::Ingress,
    json::{Rules, body::read_json, parse},
    messages::{
        accept::{Accepted, encode},
        idempotency::{Key, Once, REPLAYED, digest, without_white_space},
    },
    metrics::{self, ACCEPT_DURATION, ACCEPTED},
    parameters::PathId,
    problem::{Kind, Problem},
};

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

static REFUSED: LogThrottle = LogThrottle::every(Duration::from_secs(5));

/// Verifies requests that name an unknown channel, so that their refusal takes as long as any other.
/// The result is not used.
static DECOY: LazyLock<Signer> =
    LazyLock::new(|| Signer::new(&SigningSecret::new([0; NEW_SECRET_BYTES]), []));

/// The body. Other people write channel servers, so unknown fields are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Inbound {
    session_id: SessionId,
    pub(crate) data: Box<RawValue>,
}

pub(crate) async fn receive(
    State(ingress): State<Ingress>,
    PathId(id): PathId,
    principal: Option<Extension<Principal>>,
    request: Request,
) -> Result<Response, Problem> {
    let headers = request.headers().clone();
    let channel_id = id.parse::<ChannelId>();
    let (channel_id, channel, body) = if principal.is_some() {
        let channel_id = channel_id.map_err(|_error| Problem::unknown_channel(&id))?;
        let channel = ingress.channel_cache.get(&channel_id).await?;
        (channel_id, channel, read_json(request, &ingress).await?)
    } else {
        let signed = signed(&headers).ok_or_else(|| refused(&id, "incomplete headers"))?;
        // Before the body is read.
        if !signed.is_recent(ingress.clock.now()) {
            return Err(refused(&id, "timestamp beyond the tolerance"));
        }
        let body = read_json(request, &ingress).await?;
        let channel_id = channel_id.ok();
        let channel = verify(&ingress, channel_id.as_ref(), &signed, &body).await?;
        let verified = channel_id.zip(channel);
        let (channel_id, channel) = verified.ok_or_else(|| refused(&id, "no valid signature"))?;
        (channel_id, channel, body)
    };
    ingress.answer_limits.take_rate(Some(&channel_id)).await?;
    let webhook_id = webhook_id(&headers)?;
    let rules = Rules::relayed(ingress.limits.max_json_depth);
    let inbound: Inbound = parse(&body, rules)?;
    let mut accepted = match webhook_id {
        Some(Key(webhook_id)) => {
            let once = Once {
                // The channel's `uid`, because another channel can have the same id later. The line
                // feeds separate this key from producers' keys.
                key: format!("inbound\n{}\n{webhook_id}", channel.target.uid.as_str()),
                fingerprint: inbound.fingerprint(),
                message_id: MessageId::generate(),
                session_id: inbound.session_id.clone(),
                reused: id_of_another_message,
            };
            once.accept(&ingress, |message_id| {
                ingress.accept_inbound(channel_id, inbound, message_id)
            })
            .await?
        }
        None => {
            ingress
                .accept_inbound(channel_id, inbound, MessageId::generate())
                .await?
        }
    };
    let again = std::mem::take(&mut accepted.again);
    let mut response = (StatusCode::ACCEPTED, JsonBody(accepted)).into_response();
    if again {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

impl Inbound {
    /// Distinguishes a repeat from another message under the same `webhook-id`.
    fn fingerprint(&self) -> String {
        let data = without_white_space(self.data.get().as_bytes());
        digest([self.session_id.as_str().as_bytes(), &data])
    }
}

impl Ingress {
    /// Publishes an inbound message, then its journal entry, as [`Ingress::accept`] does.
    async fn accept_inbound(
        &self,
        channel_id: ChannelId,
        Inbound { session_id, data }: Inbound,
        message_id: MessageId,
    ) -> Result<Accepted, Problem> {
        let began = Instant::now();
        let accepted_at = self.clock.now();
        let kept = KeptAnswer::of(&data, self.limits.max_kept_answer_bytes);
        let callback = Callback {
            callback_id: None,
            session_id: session_id.clone(),
            message_id: Some(message_id),
            channel_id: Some(channel_id.clone()),
            response_data: data,
        };
        let message = Message::new(message_id.to_string(), accepted_at, encode(&callback)?);
        self.broker.publish(Route::Callbacks, message).await?;
        ACCEPTED.inc(metrics::Accepted::Inbound);
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: Some(message_id),
            channel_id: Some(channel_id),
            session_id: session_id.clone(),
            kind: MessageKind::Inbound,
            replay_count: 0,
            at: accepted_at,
            event: Event::Received(Some(Box::new(kept))),
        };
        self.record(entry).await;
        ACCEPT_DURATION.observe_since(metrics::Accepted::Inbound, began);
        Ok(Accepted::new(message_id, session_id))
    }
}

/// The headers of a signature, if each is there once.
fn signed(headers: &HeaderMap) -> Option<Signed<'_>> {
    let once = |name| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        values.next().is_none().then(|| first.to_str().ok())?
    };
    Some(Signed {
        id: once(ID)?,
        timestamp: once(TIMESTAMP)?,
        signatures: once(SIGNATURE)?,
    })
}

/// A key's holder may leave it out. Then a repeat is another message.
fn webhook_id(headers: &HeaderMap) -> Result<Option<Key>, Problem> {
    let Some(value) = headers.get(ID) else {
        return Ok(None);
    };
    let key = crate::messages::idempotency::read(value);
    key.map(Some)
        .map_err(|problem| Problem::invalid_field(ID, problem.to_string()))
}

fn id_of_another_message() -> Problem {
    Problem::of_field(
        Kind::WebhookIdReused,
        ID,
        "was used for another inbound message of this channel",
    )
}

/// The channel, if one of its secrets signed this body.
async fn verify(
    ingress: &Ingress,
    channel_id: Option<&ChannelId>,
    signed: &Signed<'_>,
    body: &[u8],
) -> Result<Option<Arc<KnownChannel>>, Problem> {
    let verified = |channel: Option<Arc<KnownChannel>>| {
        let signer = channel.as_ref().and_then(|known| known.signing.signer());
        let signer_or_decoy = signer.unwrap_or(&DECOY);
        let is_valid = signer_or_decoy.verifies(signed, body, ingress.clock.now());
        let is_valid = is_valid && signer.is_some();
        channel.filter(|_| is_valid)
    };
    let known = match channel_id {
        Some(id) => found(ingress.channel_cache.get(id).await)?,
        None => None,
    };
    let first = verified(known);
    match channel_id {
        Some(id) if first.is_none() && ingress.secret_reads.may_read(id).await => {
            Ok(verified(found(ingress.channel_cache.get_now(id).await)?))
        }
        _ => Ok(first),
    }
}

fn found(
    read: Result<Arc<KnownChannel>, ChannelError>,
) -> Result<Option<Arc<KnownChannel>>, Problem> {
    match read {
        Ok(channel) => Ok(Some(channel)),
        Err(error @ ChannelError::Unavailable(_)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

fn refused(channel: &str, reason: &str) -> Problem {
    if let Some(suppressed) = REFUSED.due(Instant::now()) {
        tracing::warn!(channel_id = ?channel, reason, suppressed, "inbound.refused");
    }
    Problem::from(Kind::InboundRefused)
}

#[cfg(test)]
mod tests;
