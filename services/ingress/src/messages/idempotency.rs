//! `Idempotency-Key`: a repeated message gets the first response and is not enqueued again.
//!
//! Each principal has its own keys, so producers cannot collide. Keys are not per channel: a key
//! that is reused for another channel is a mistake and is reported. Two messages are the same if
//! channel, session, `response_url`, `deliver_at`, `expires_at`, `answer_within` and the JSON of
//! `message` are the same. White space between JSON tokens, the order of the body's own fields and the offset of a
//! time do not matter.
//!
//! On a batch the key covers all messages in their order, and each message gets a key derived from
//! it. A repeat returns the earlier results and retries the rest.
//!
//! Invariant: a key is completed only after its message was enqueued. It is released only if the
//! message was certainly not enqueued. If that is unknown (no confirm, or a crash), the key keeps
//! its message id until the lease expires. The repeat that takes it over enqueues under the same
//! id, so a possible duplicate has the same `webhook-id`.

use std::time::Duration;

use axum::{
    extract::OptionalFromRequestParts,
    http::{HeaderValue, request::Parts},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use roundtrip_model::{LogThrottle, MessageId, SessionId, millis};
use roundtrip_store::Reservation;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::accept::{Accepted, SendMessage};
use crate::{
    auth::Principal,
    ingress::Ingress,
    problem::{Kind, Problem},
};

pub(crate) const HEADER: &str = "idempotency-key";

pub(crate) const REPLAYED: &str = "idempotent-replayed";

const MAX_KEY_BYTES: usize = 255;

/// How long a request holds its key. Longer than a request takes: twice the store's time limit,
/// plus those of the publish and the journal entry.
const LEASE: Duration = Duration::from_secs(10);

/// How long a repeat waits for the first request.
const WAIT: Duration = Duration::from_secs(3);

/// How often a waiting repeat checks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A key: 1 to 255 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Key(pub(crate) String);

#[derive(Debug, thiserror::Error)]
#[error("must be 1 to {MAX_KEY_BYTES} printable ASCII characters")]
pub(crate) struct KeyForm;

impl Key {
    /// The derived key of one message of a batch. No client's key and no principal's name holds a
    /// line feed, so it collides with neither.
    pub(crate) fn of_message(&self, index: usize) -> Self {
        Self(format!("{}\n\n{index}", self.0))
    }

    fn of_call(&self) -> Self {
        Self(format!("{}\n\n", self.0))
    }
}

impl TryFrom<String> for Key {
    type Error = KeyForm;

    fn try_from(text: String) -> Result<Self, KeyForm> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if printable && (1..=MAX_KEY_BYTES).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(KeyForm)
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Problem> {
        let mut keys = parts.headers.get_all(HEADER).iter();
        let Some(first) = keys.next() else {
            return Ok(None);
        };
        if keys.next().is_some() {
            return Err(Problem::invalid_field(HEADER, "must be given once"));
        }
        read(first)
            .map(Some)
            .map_err(|problem| Problem::invalid_field(HEADER, problem.to_string()))
    }
}

pub(crate) fn read(value: &HeaderValue) -> Result<Key, KeyForm> {
    let text = value.to_str().map_err(|_not_ascii| KeyForm)?;
    text.to_owned().try_into()
}

/// Accepts a message that its principal may send; with a key, at most once. The message gets this
/// id, unless an earlier request with the key gave it another one.
pub(crate) async fn accept_one(
    ingress: &Ingress,
    principal: &Principal,
    key: Option<&Key>,
    message_id: MessageId,
    send: SendMessage,
) -> Result<Accepted, Problem> {
    principal.allow(&send.channel_id)?;
    let Some(Key(key)) = key else {
        return ingress.accept(send, message_id).await;
    };
    let once = Once {
        key: principal.idempotency_key(key),
        fingerprint: fingerprint(&send),
        message_id,
        session_id: send.session_id.clone(),
        reused: key_of_another_message,
    };
    once.accept(ingress, |reserved| ingress.accept(send, reserved))
        .await
}

/// A message that is accepted at most once under its key.
pub(crate) struct Once {
    /// The key's name in the store.
    pub(crate) key: String,
    pub(crate) fingerprint: String,
    /// Its id, unless an earlier request with the key gave it another one.
    pub(crate) message_id: MessageId,
    pub(crate) session_id: SessionId,
    /// The key was used for a message with another fingerprint.
    pub(crate) reused: fn() -> Problem,
}

impl Once {
    pub(crate) async fn accept<F>(
        self,
        ingress: &Ingress,
        accept: impl FnOnce(MessageId) -> F,
    ) -> Result<Accepted, Problem>
    where
        F: Future<Output = Result<Accepted, Problem>>,
    {
        let Self {
            key,
            fingerprint,
            message_id,
            session_id,
            reused,
        } = self;
        match reserve(ingress, &key, &fingerprint, &message_id).await? {
            Reservation::Taken(reserved) => {
                let accepted = accept(reserved).await;
                match &accepted {
                    Ok(_) => settle(ingress, &key, &reserved, true).await,
                    // The earlier request with this id may have enqueued it.
                    Err(problem) if problem.may_be_enqueued() || reserved != message_id => {}
                    Err(_) => settle(ingress, &key, &reserved, false).await,
                }
                accepted
            }
            Reservation::Done(first) => Ok(Accepted::again(first, session_id)),
            Reservation::Mismatch => Err(reused()),
            Reservation::UnderWay => Err(Problem::from(Kind::IdempotencyKeyInUse)),
        }
    }
}

fn key_of_another_message() -> Problem {
    Problem::of_field(
        Kind::IdempotencyKeyReused,
        HEADER,
        "was used for another message",
    )
}

pub(crate) struct KeyedCall {
    key: String,
    /// The message id of this attempt; `None` if the batch was completed before.
    reserved: Option<MessageId>,
}

impl KeyedCall {
    pub(crate) async fn begin(
        ingress: &Ingress,
        principal: &Principal,
        key: &Key,
        messages: &[&[u8]],
    ) -> Result<Self, Problem> {
        let key = principal.idempotency_key(&key.of_call().0);
        let messages = messages.iter().map(|message| without_white_space(message));
        let reservation = reserve(ingress, &key, &digest(messages), &MessageId::generate()).await?;
        let reserved = match reservation {
            Reservation::Taken(id) => Some(id),
            Reservation::Done(_) => None,
            Reservation::Mismatch => return Err(key_of_another_message()),
            Reservation::UnderWay => return Err(Problem::from(Kind::IdempotencyKeyInUse)),
        };
        Ok(Self { key, reserved })
    }

    /// Completes the key, unless certainly none of the messages was enqueued.
    pub(crate) async fn end(self, ingress: &Ingress, may_be_enqueued: bool) {
        if let Some(id) = self.reserved {
            settle(ingress, &self.key, &id, may_be_enqueued).await;
        }
    }
}

async fn reserve(
    ingress: &Ingress,
    key: &str,
    fingerprint: &str,
    message_id: &MessageId,
) -> Result<Reservation, Problem> {
    let deadline = Instant::now() + WAIT;
    loop {
        let now = ingress.clock.now();
        let reserved = ingress
            .store
            .reserve(key, fingerprint, message_id, now, LEASE)
            .await?;
        if reserved != Reservation::UnderWay || Instant::now() >= deadline {
            return Ok(reserved);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Logged by every request with a key while the store is unavailable.
static NOT_SETTLED: LogThrottle = LogThrottle::new();

/// Completes the key of an enqueued message, and releases any other. An error does not change the
/// response: the key's lease expires, and a repeat is enqueued again under the same id.
async fn settle(ingress: &Ingress, key: &str, message_id: &MessageId, is_enqueued: bool) {
    let settled = if is_enqueued {
        ingress.store.complete(key, message_id).await
    } else {
        ingress.store.release(key, message_id).await
    };
    if let Err(error) = settled
        && let Some(suppressed) = NOT_SETTLED.due(Instant::now().into_std())
    {
        tracing::warn!(
            %error, %message_id, is_enqueued, suppressed,
            "an idempotency key was neither completed nor released; its lease expires"
        );
    }
}

/// Distinguishes a repeat from another message under the same key.
fn fingerprint(send: &SendMessage) -> String {
    let message = without_white_space(send.message.get().as_bytes());
    let parts = [
        send.channel_id.as_str().as_bytes(),
        send.session_id.as_str().as_bytes(),
        &message,
    ];
    let url = send.response_url.as_deref().map(str::as_bytes);
    // A time or `answer_within` adds two parts for the times; `answer_within` adds two more. So the
    // number of parts determines what each one means. A message without these fields has the same
    // digest as in earlier versions.
    let times = [send.deliver_at, send.expires_at];
    let within = send.answer_within.map(|within| within.as_millis());
    let mut texts = Vec::new();
    if within.is_some() || times != [None, None] {
        let text = |at: Option<_>| at.map_or_else(String::new, |at| millis::of(at).to_string());
        texts.extend(times.map(text));
    }
    texts.extend(
        within
            .into_iter()
            .flat_map(|within| [within.to_string(), String::new()]),
    );
    digest(
        parts
            .into_iter()
            .chain(url)
            .chain(texts.iter().map(String::as_bytes)),
    )
}

pub(crate) fn digest(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        // The length first: two lists of parts must not concatenate to the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// A JSON text without white space between its tokens. Numbers keep their text: as doubles, two
/// different ones could become equal.
pub(crate) fn without_white_space(json: &[u8]) -> Vec<u8> {
    let mut in_string = false;
    let mut escaped = false;
    json.iter()
        .copied()
        .filter(|&byte| {
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                return true;
            }
            in_string = byte == b'"';
            !byte.is_ascii_whitespace()
        })
        .collect()
}

#[cfg(test)]
mod tests;
