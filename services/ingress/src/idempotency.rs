//! `Idempotency-Key`: a message that is posted again gets the first answer and is not enqueued
//! again.
//!
//! Keys are their caller's, so that no producer meets another's; they are not a channel's: a key
//! that comes back for another channel is a mistake of the producer, and is told so. What counts as the same message: the same channel,
//! session and `response_url`, and the same JSON in `message`, white space between its parts and
//! the order of the body's own fields apart.
//!
//! On a call with many messages a key is the whole call's: it stands for the messages in their order,
//! and each has a key of its own that follows from it. A repeat answers what was taken as before, and
//! tries the rest again.
//!
//! Invariant: a key is remembered as done only after its message was enqueued, and is forgotten
//! only where its message certainly was not. In between, where nobody can know (no confirm came,
//! or the process died), the key keeps its message id until the lease runs out; the repeat that
//! takes it over enqueues under the same id, so that what may come twice comes under one
//! `webhook-id`.

use std::time::Duration;

use axum::{
    extract::OptionalFromRequestParts,
    http::{HeaderValue, request::Parts},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use roundtrip_model::{LogThrottle, MessageId};
use roundtrip_store::Reservation;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::{
    Ingress,
    access::Caller,
    messages::{Accepted, SendMessage},
    problem::Problem,
};

/// The header that carries a key.
pub(crate) const HEADER: &str = "idempotency-key";

/// The header that says of an answer that it is the first one, given again.
pub(crate) const REPLAYED: &str = "idempotent-replayed";

/// The longest key.
const MAX_KEY_BYTES: usize = 255;

/// How long a request has its key. Longer than a request takes: the store's time limit twice, and
/// those of the publish and of the journal entry.
const LEASE: Duration = Duration::from_secs(10);

/// How long a repeat waits for the first request.
const WAIT: Duration = Duration::from_secs(3);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A key: 1 to 255 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Key(String);

/// What a key must be.
#[derive(Debug, thiserror::Error)]
#[error("must be 1 to {MAX_KEY_BYTES} printable ASCII characters")]
pub(crate) struct KeyForm;

impl Key {
    /// The key of one message of a call that has this key. The line feeds are in no key that a client
    /// can send, nor in the name of a caller.
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

/// Takes a message that its caller may send, and where it has a key, no more than once.
pub(crate) async fn accept_one(
    ingress: &Ingress,
    caller: &Caller,
    key: Option<&Key>,
    send: SendMessage,
) -> Result<Accepted, Problem> {
    caller.allow(&send.channel_id)?;
    let message_id = MessageId::generate();
    let Some(Key(key)) = key else {
        return ingress.accept(send, message_id).await;
    };
    let key = &caller.idempotency_key(key);
    match reserve(ingress, key, &fingerprint(&send), &message_id).await? {
        Reservation::Taken(reserved) => {
            let accepted = ingress.accept(send, reserved).await;
            match &accepted {
                Ok(_) => complete(ingress, key, &reserved).await,
                // An id that was taken over may have been enqueued by the request before.
                Err(problem) if problem.may_be_enqueued() || reserved != message_id => {}
                Err(_) => release(ingress, key, &reserved).await,
            }
            accepted
        }
        Reservation::Done(first) => Ok(Accepted::again(first, send)),
        Reservation::Mismatch => Err(Problem::key_of_another_message()),
        Reservation::UnderWay => Err(Problem::key_under_way()),
    }
}

/// A call with many messages, under one key.
pub(crate) struct KeyedCall {
    key: String,
    /// The name of this attempt, where the call was not completed before.
    reserved: Option<MessageId>,
}

impl KeyedCall {
    /// Takes the key for a call with these messages.
    ///
    /// # Errors
    /// If the key was used for other messages, or another request has it.
    pub(crate) async fn begin(
        ingress: &Ingress,
        caller: &Caller,
        key: &Key,
        messages: &[&[u8]],
    ) -> Result<Self, Problem> {
        let key = caller.idempotency_key(&key.of_call().0);
        let messages = messages.iter().map(|message| without_white_space(message));
        let reservation = reserve(ingress, &key, &digest(messages), &MessageId::generate()).await?;
        let reserved = match reservation {
            Reservation::Taken(id) => Some(id),
            Reservation::Done(_) => None,
            Reservation::Mismatch => return Err(Problem::key_of_another_message()),
            Reservation::UnderWay => return Err(Problem::key_under_way()),
        };
        Ok(Self { key, reserved })
    }

    /// Remembers the call, unless none of its messages can have been enqueued.
    pub(crate) async fn end(self, ingress: &Ingress, may_be_enqueued: bool) {
        match self.reserved {
            Some(id) if may_be_enqueued => complete(ingress, &self.key, &id).await,
            Some(id) => release(ingress, &self.key, &id).await,
            None => {}
        }
    }
}

/// Takes the key, or waits a little for the request that has it.
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

/// Met by every request with a key while the store is away.
static NOT_SETTLED: LogThrottle = LogThrottle::new();

/// The message is enqueued, so this changes no answer: a key that could not be completed runs out,
/// and a repeat of it is enqueued once more, under the same id.
async fn complete(ingress: &Ingress, key: &str, message_id: &MessageId) {
    if let Err(error) = ingress.store.complete(key, message_id).await
        && let Some(suppressed) = NOT_SETTLED.due(Instant::now().into_std())
    {
        tracing::warn!(%error, %message_id, suppressed, "an idempotency key was not completed");
    }
}

async fn release(ingress: &Ingress, key: &str, message_id: &MessageId) {
    if let Err(error) = ingress.store.release(key, message_id).await
        && let Some(suppressed) = NOT_SETTLED.due(Instant::now().into_std())
    {
        tracing::warn!(%error, %message_id, suppressed, "an idempotency key was not released; it runs out");
    }
}

/// What tells a repeat from another message that came under the same key.
fn fingerprint(send: &SendMessage) -> String {
    let message = without_white_space(send.message.get().as_bytes());
    let parts = [
        send.channel_id.as_str().as_bytes(),
        send.session_id.as_str().as_bytes(),
        &message,
    ];
    let url = send.response_url.as_deref().map(str::as_bytes);
    digest(parts.into_iter().chain(url))
}

fn digest(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        // The length first, so that no two lists of parts run together into the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// A JSON text without the white space between its parts. Its numbers stay as they are written: as
/// doubles, two that differ could become one.
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
