//! What each fuzz target does with the bytes it is given. They are here and not in the targets, so
//! that the test beside them replays what is kept on the stable toolchain.
//!
//! Invariant: none panics, whatever the bytes.

use std::{net::IpAddr, sync::LazyLock};

use bytes::Bytes;
use roundtrip_broker::fuzzing;
use roundtrip_egress::{Guard, Loopback, address::special};
use roundtrip_ingress::fuzzing as api;
use roundtrip_model::{
    Callback, Channel, Entry, OutboundMessage, SessionId, State, TokenKeys, channel::MAX_URL_BYTES,
    redacted,
};
use roundtrip_store::Filter;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A target: any bytes, and no panic.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its file and of its folder of seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("api_bodies", api::bodies),
    ("api_key", api::api_key),
    ("api_messages", api::messages),
    ("api_queries", api::queries),
    ("broker_message", broker_message),
    ("broker_row", broker_row),
    ("callback_token", callback_token),
    ("endpoint_url", endpoint_url),
    ("filter", filter),
    ("idempotency_key", api::idempotency_key),
    ("journal", journal),
    ("json", api::json),
];

/// The target of this name.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("a target of this name").1
}

/// Channels for a filter to look at: the seed's, one with a bit of everything, one with nothing.
static CHANNELS: LazyLock<Vec<Channel>> = LazyLock::new(|| {
    let documents = json!([
        {"channel_id": "slack-sim", "channel_name": "Slack Simulated Channel",
         "channel_description": "Sends messages to Slack (simulated)",
         "channel_tags": ["slack", "test"],
         "channel_metadata": {"endpoint_url": "http://localhost:5001/incoming"}},
        {"channel_id": "a", "channel_name": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\n",
         "channel_tags": ["a", "", "ä", "1"],
         "channel_metadata": {"a": [1, {"b": [null, {"c": [[]]}]}, "x"], "0": {"0": [0.5, -1]},
            "deep": {"deep": {"deep": true}}, "n": 9_223_372_036_854_775_807_i64}},
        {"channel_id": "c"}
    ]);
    serde_json::from_value(documents).expect("channels")
});

/// The body of `POST /channels`: read, and held against channels. Nothing here can take long: a
/// fuzzer reports an input that does.
fn filter(input: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match Filter::parse(&json) {
        Ok(filter) => {
            let negated = Filter::parse(&json!({"$nor": [json]}));
            for channel in &*CHANNELS {
                let matches = filter.matches(channel);
                // Where there is room for one level more.
                if let Ok(negated) = &negated {
                    assert_ne!(matches, negated.matches(channel), "{json}");
                }
            }
        }
        Err(error) => assert!(
            !error.problem.is_empty() && !error.path.is_empty(),
            "{error}"
        ),
    }
}

/// The URL that a channel's owner gives: what passes leads to no address that is refused, and
/// passes again as the URL library writes it, unless that is too long: it writes `%C3%A4` for `ä`.
fn endpoint_url(input: &[u8]) {
    static GUARD: LazyLock<Guard> = LazyLock::new(|| {
        let guard = roundtrip_egress::Config::default().guard(Loopback::Refused);
        guard.expect("the defaults")
    });
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let Ok(url) = GUARD.vet_url(text) else {
        return;
    };
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert_eq!((url.username(), url.password()), ("", None), "{url}");
    let is_too_long = url.as_str().len() > MAX_URL_BYTES;
    assert_eq!(GUARD.vet_url(url.as_str()).is_err(), is_too_long, "{url}");
    let host = url.host_str().expect("a host");
    let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
    if let Ok(address) = bare.parse::<IpAddr>() {
        assert_eq!(special(address), None, "{url}");
    }
}

/// The token of an answer: only one that the gateway signed is valid.
fn callback_token(input: &[u8]) {
    static KEYS: LazyLock<TokenKeys> =
        LazyLock::new(|| TokenKeys::new([&[7; 32][..]]).expect("a secret that is long enough"));
    let text = String::from_utf8_lossy(input);
    let (token, session) = text.split_once('\n').unwrap_or((&text, "s"));
    let Ok(session) = session.parse::<SessionId>() else {
        return;
    };
    let Ok(proven) = KEYS.check(token, OffsetDateTime::UNIX_EPOCH) else {
        return;
    };
    assert!(!redacted(&text).contains(token), "the token is shown");
    if let Ok(claims) = proven.claims(&session) {
        let own = KEYS.sign(claims, &session, None, proven.ends_at());
        assert_eq!(own, token, "forged");
    }
}

/// A message from RabbitMQ, from any writer, and what the roles make of it.
fn broker_message(input: &[u8]) {
    handled(&fuzzing::message(input, &OffsetDateTime::UNIX_EPOCH));
}

/// A row of the embedded broker's file.
fn broker_row(input: &[u8]) {
    if let Some(message) = fuzzing::row(input) {
        handled(&message);
    }
}

/// What the dispatcher, the forwarder and the recorder read of a message.
fn handled(message: &roundtrip_broker::Message) {
    // A dead letter is shown with this time; one that cannot be written would hide all others.
    let shown = message.accepted_at.format(&Rfc3339);
    assert!(shown.is_ok(), "{:?}", message.accepted_at);
    if let Ok(message) = serde_json::from_slice::<OutboundMessage>(&message.body) {
        let body = message.delivery_body(&message.response_url);
        assert!(serde_json::to_vec(&body).is_ok());
    }
    if let Ok(callback) = serde_json::from_slice::<Callback>(&message.body) {
        assert!(serde_json::to_vec(&callback.forward_body()).is_ok());
    }
}

/// A message of the journal queue.
fn journal(input: &[u8]) {
    let Ok(entries) = roundtrip_journal::decode(&Bytes::copy_from_slice(input)) else {
        return;
    };
    let state = State::of(&entries);
    assert_eq!(state.is_none(), entries.is_empty());
    for entry in &entries {
        assert!(entry.position().rank >= 0);
        assert!(entry.at.format(&Rfc3339).is_ok(), "{:?}", entry.at);
        let json = serde_json::to_vec(entry).expect("an entry is JSON");
        let read: Entry = serde_json::from_slice(&json).expect("and reads back");
        assert_eq!(read.position(), entry.position());
    }
}

#[cfg(test)]
mod tests;
