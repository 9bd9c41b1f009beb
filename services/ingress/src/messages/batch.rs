//! `POST /channel/messages`: many messages in one call, each with its own result.
//!
//! Invariant: the results are in the order of the messages, and each is what the single call would
//! return. A message never fails because of another.

use std::time::Duration;

use axum::{
    Json as JsonBody,
    extract::{Request, State},
    http::HeaderMap,
};
use futures::future::join_all;
use roundtrip_model::{ChannelId, MessageId, SessionId};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::{
    accept::{Accepted, SendMessage},
    idempotency::{Key, KeyedCall, accept_one},
};
use crate::{
    auth::Principal,
    config::MAX_BATCH_BYTES,
    ingress::Ingress,
    json::{
        BODY, Rules,
        body::{is_json, media_type, read},
        parse, without_mark, words,
    },
    problem::{Kind, Problem},
};

pub(crate) const MAX_MESSAGES: usize = 1000;

/// How many messages of one batch with a key are in progress at once. Each makes two writes to the
/// store under its time limit.
const KEYED_AT_ONCE: usize = 32;

const NDJSON: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    channel_id: ChannelId,
    session_id: SessionId,
    pub(crate) message: Box<RawValue>,
    response_url: Option<String>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    deliver_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    expires_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::duration")]
    answer_within: Option<Duration>,
    idempotency_key: Option<Key>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BatchResult {
    accepted: usize,
    rejected: usize,
    results: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Accepted(Accepted),
    Rejected {
        success: bool,
        #[serde(flatten)]
        problem: Problem,
    },
}

pub(crate) async fn send(
    State(ingress): State<Ingress>,
    principal: Principal,
    key: Option<Key>,
    request: Request,
) -> Result<JsonBody<BatchResult>, Problem> {
    let is_array = is_json(request.headers());
    if !is_array && !is_ndjson(request.headers()) {
        return Err(Problem::from(Kind::UnsupportedMediaType));
    }
    let _permit = ingress
        .batches
        .try_acquire()
        .map_err(|_none_left| Kind::Overloaded)?;
    let body = read(request, &ingress, MAX_BATCH_BYTES).await?;
    let body = without_mark(&body);
    let texts = if is_array { array(body)? } else { lines(body) };
    if !(1..=MAX_MESSAGES).contains(&texts.len()) {
        return Err(Problem::invalid_field(BODY, count_problem()));
    }
    let call = match &key {
        Some(key) => Some(KeyedCall::begin(&ingress, &principal, key, &texts).await?),
        None => None,
    };
    let keyed = Semaphore::new(KEYED_AT_ONCE);
    // All at once: the broker bounds what is in progress, and confirms many as fast as one.
    let results = join_all(texts.iter().enumerate().map(|(index, text)| {
        let key = key.as_ref().map(|key| key.of_message(index));
        accept(&ingress, &principal, key, &keyed, text)
    }))
    .await;
    if let Some(call) = call {
        let may_be_enqueued = |result: &Result<_, Problem>| {
            result.as_ref().err().is_none_or(Problem::may_be_enqueued)
        };
        call.end(&ingress, results.iter().any(may_be_enqueued))
            .await;
    }
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    Ok(JsonBody(BatchResult {
        accepted,
        rejected: results.len() - accepted,
        results: results.into_iter().map(Outcome::from).collect(),
    }))
}

async fn accept(
    ingress: &Ingress,
    principal: &Principal,
    key_of_call: Option<Key>,
    keyed: &Semaphore,
    text: &[u8],
) -> Result<Accepted, Problem> {
    let limit = ingress.limits.max_body_bytes;
    if text.len() > limit {
        return Err(Problem::too_large(limit));
    }
    let Item {
        channel_id,
        session_id,
        message,
        response_url,
        deliver_at,
        expires_at,
        answer_within,
        idempotency_key,
    } = parse(text, Rules::relayed(ingress.limits.max_json_depth))?;
    let send = SendMessage {
        channel_id,
        session_id,
        message,
        response_url,
        deliver_at,
        expires_at,
        answer_within,
    };
    let key = idempotency_key.or(key_of_call);
    let _permit = match key {
        // The semaphore is never closed.
        Some(_) => keyed.acquire().await.ok(),
        None => None,
    };
    accept_one(
        ingress,
        principal,
        key.as_ref(),
        MessageId::generate(),
        send,
    )
    .await
}

impl From<Result<Accepted, Problem>> for Outcome {
    fn from(result: Result<Accepted, Problem>) -> Self {
        match result {
            Ok(accepted) => Self::Accepted(accepted),
            Err(problem) => Self::Rejected {
                success: false,
                problem,
            },
        }
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| NDJSON.contains(&kind.as_str()))
}

fn count_problem() -> String {
    format!("must have 1 to {MAX_MESSAGES} messages")
}

/// The non-empty lines, at most one more than the limit.
pub(crate) fn lines(body: &[u8]) -> Vec<&[u8]> {
    body.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .take(MAX_MESSAGES + 1)
        .collect()
}

pub(crate) fn array(body: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let Elements(elements) =
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Data => Problem::invalid_field(BODY, words::of_value(&error)),
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::new(Kind::MalformedJson, words::of_malformed(body, &error))
            }
        })?;
    Ok(elements
        .into_iter()
        .map(|text| text.get().as_bytes())
        .collect())
}

/// The elements of an array. Parsing stops at the limit, so that millions of small elements take no
/// memory.
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX_MESSAGES {
                        return Err(A::Error::custom(count_problem()));
                    }
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }

        deserializer.deserialize_seq(Reader)
    }
}

#[cfg(test)]
mod tests;
