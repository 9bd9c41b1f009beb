//! Entry points of the fuzz targets: what untrusted bytes reach first. Each takes any bytes, must
//! not panic, and asserts what the code behind it relies on.
#![expect(
    clippy::missing_panics_doc,
    reason = "each panics where what it asserts does not hold: that is what a fuzzer looks for"
)]

use axum::{
    http::{HeaderValue, Uri},
    response::IntoResponse,
};
use roundtrip_model::{
    ApiKeyId, Channel, ChannelPatch, PresentedKey, channel::endpoint, message::is_empty_json,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};

use crate::{
    auth::{api_keys::CreateKey, authenticator::bearer},
    callback::{self, Answer},
    channels::query::{PageParameters, page, write_cursor},
    history::{
        dead_letters::DeadParameters,
        messages::MessageParameters,
        replays::requests::{ReplayAnswers, ReplayDeadLetters, ReplayMessages},
    },
    inbound::Inbound,
    json::{self, Rules},
    messages::{
        accept::SendMessage,
        batch::{self, Item},
        idempotency,
    },
    parameters,
    problem::Problem,
};

/// The default of the configuration.
const DEPTH: usize = 64;

const KEPT: Rules = Rules::kept(DEPTH);
const RELAYED: Rules = Rules::relayed(DEPTH);

/// The bodies of the channel calls and of replays.
pub fn bodies(input: &[u8]) {
    if let Some(channel) = valid(parse::<Channel>(input)) {
        if valid(Problem::unless_valid(channel.check())).is_some() {
            assert!(endpoint(&channel.channel_metadata).is_ok(), "{channel:?}");
        }
        let json = serde_json::to_vec(&channel).expect("a channel is JSON");
        let read: Channel = serde_json::from_slice(&json).expect("and reads back");
        assert_eq!(read, channel);
    }
    valid(parse::<Value>(input));
    if let Some(patch) = valid(parse::<ChannelPatch>(input)) {
        valid(Problem::unless_valid(
            patch.check(&"c".parse().expect("an id")),
        ));
    }
    valid(parse::<ReplayDeadLetters>(input));
    valid(parse::<ReplayMessages>(input));
    valid(parse::<ReplayAnswers>(input));
    valid(parse::<CreateKey>(input));
}

/// The bodies of the message calls, single and in both batch forms, of callbacks and of inbound
/// messages.
pub fn messages(input: &[u8]) {
    if let Some(send) = valid(relayed::<SendMessage>(input)) {
        carried(&send.message);
    }
    if let Some(answer) = valid(relayed::<Answer>(input)) {
        carried(&answer.response_data);
    }
    if let Some(inbound) = valid(relayed::<Inbound>(input)) {
        carried(&inbound.data);
    }
    let lines = batch::lines(input);
    let elements = valid(batch::array(input)).unwrap_or_default();
    assert!(elements.len() <= batch::MAX_MESSAGES);
    for text in lines.into_iter().chain(elements) {
        if let Some(item) = valid(relayed::<Item>(text)) {
            carried(&item.message);
        }
    }
}

/// The query strings of lists, with their cursors, and of callbacks.
pub fn queries(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    drop(callback::token(Some(text)));
    let Ok(uri) = format!("/?{text}").parse::<Uri>() else {
        return;
    };
    query::<DeadParameters>(&uri);
    query::<MessageParameters>(&uri);
    if let Some(request) = query::<PageParameters>(&uri).and_then(|read| valid(page(read)))
        && let Some(cursor) = request.cursor
    {
        let written = write_cursor(request.sort, cursor.clone());
        let uri = format!("/?sort={}&cursor={written}", sort(request.sort));
        let again = query::<PageParameters>(&uri.parse().expect("a URI"));
        let again = again.and_then(|read| valid(page(read))).expect("a page");
        assert_eq!(again.cursor, Some(cursor));
    }
}

/// The `Idempotency-Key` header, and the comparison of two messages under one key.
pub fn idempotency_key(input: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(input)
        && let Err(problem) = idempotency::read(&value)
    {
        refused(Problem::invalid_field(
            idempotency::HEADER,
            problem.to_string(),
        ));
    }
    if let Ok(json) = serde_json::from_slice::<Box<RawValue>>(input) {
        let bare = idempotency::without_white_space(json.get().as_bytes());
        let bare: Box<RawValue> = serde_json::from_slice(&bare).expect("still JSON");
        let value = |json: &RawValue| serde_json::from_str::<Value>(json.get()).ok();
        assert_eq!(value(&bare), value(&json));
    }
}

/// The `Authorization` header and its key.
pub fn api_key(input: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(input)
        && let Some(text) = bearer(&value)
        && let Ok(PresentedKey { key_id, .. }) = text.parse()
    {
        assert!(text.contains(&key_id.to_string()), "{key_id}");
        assert_eq!(key_id.to_string().parse(), Ok::<ApiKeyId, _>(key_id));
    }
}

/// The JSON checks, compared with the parser: what passes is readable by every receiver and within
/// the depth limit.
pub fn json(input: &[u8]) {
    let text = json::without_mark(input);
    let read = |input| serde_json::from_slice::<Value>(input);
    if valid(json::parse::<Box<RawValue>>(input, RELAYED)).is_some() {
        // Not read into a `Value`: the parser's private names would change it.
        assert!(serde_json::from_slice::<&RawValue>(text).is_ok());
    }
    if let Some(value) = valid(json::parse::<Value>(input, KEPT)) {
        assert!(depth(&value) <= DEPTH);
        assert_eq!(read(text).ok(), Some(value));
        assert!(json::parse::<Value>(input, RELAYED).is_ok());
    }
}

fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(elements) => elements.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or_default()
}

fn parse<T: DeserializeOwned>(input: &[u8]) -> Result<T, Problem> {
    json::parse(input, KEPT)
}

fn relayed<T: DeserializeOwned>(input: &[u8]) -> Result<T, Problem> {
    json::parse(input, RELAYED)
}

fn sort(sort: roundtrip_store::Sort) -> String {
    use roundtrip_store::{Direction, SortField};
    let name = match sort.field {
        SortField::ChannelId => "channel_id",
        SortField::ChannelName => "channel_name",
    };
    let minus = match sort.direction {
        Direction::Ascending => "",
        Direction::Descending => "-",
    };
    format!("{minus}{name}")
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Option<T> {
    valid(parameters::read(uri))
}

/// The value that was read. A refusal must be a problem document.
fn valid<T>(read: Result<T, Problem>) -> Option<T> {
    read.map_err(refused).ok()
}

fn refused(problem: Problem) {
    let status = problem.into_response().status();
    assert!(status.is_client_error(), "{status}");
}

/// A message's JSON is embedded verbatim: it must be one value and stay unchanged.
fn carried(json: &RawValue) {
    let around = format!("[{}]", json.get());
    let around: Vec<&RawValue> = serde_json::from_str(&around).expect("one value in an array");
    assert_eq!(around.len(), 1);
    assert_eq!(around[0].get(), json.get().trim());
    let _ = is_empty_json(json);
}
