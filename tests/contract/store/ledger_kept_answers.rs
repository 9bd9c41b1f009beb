//! Answers with and without a message, as a replay and a conversation read them.

use roundtrip_model::{
    CallbackId, Entry, Event, MessageId, ReplayId,
    journal::{After, KeptAnswer},
};
use roundtrip_store::{
    AnswerFilter, Journal, KeptAnswers, MAX_PAGE_BYTES, StoredAnswer, Turn, TurnCursor,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    Harness,
    samples::{at, attempt, entry, message_id, record, text},
};

fn callback_id(number: i64) -> CallbackId {
    let id = format!("cb_{number:032x}");
    id.parse().expect("a callback id")
}

/// An answer with its number as content, so many milliseconds after the beginning.
fn answered(message_id: MessageId, number: i64, millis: i64) -> Entry {
    let json = RawValue::from_string(number.to_string()).expect("JSON");
    let event = Event::Answered {
        callback_id: callback_id(number),
        content: Some(KeptAnswer::ResponseData(json)),
    };
    entry(message_id, 0, millis, event)
}

/// The same entry of an answer that came without a token.
fn without_message(entry: Entry) -> Entry {
    Entry {
        message_id: None,
        channel_id: None,
        ..entry
    }
}

/// An answer as text: its number, its time after the beginning and its content.
fn shown(answer: &StoredAnswer) -> String {
    let millis = (answer.at - at(0)).whole_milliseconds();
    let content = serde_json::to_string(&answer.content).expect("JSON");
    format!("{} at {millis}: {content}", answer.callback_id)
}

async fn page(
    store: &(impl KeptAnswers + ?Sized),
    filter: &AnswerFilter,
    after: Option<&TurnCursor>,
    limit: u16,
) -> Vec<StoredAnswer> {
    let page = store.kept_answers(filter, after, limit).await;
    page.expect("a page of answers")
}

/// In any order, and twice.
pub(crate) async fn an_answer_without_a_message_is_kept_with_what_became_of_it(
    harness: &impl Harness,
) {
    let (store, other) = (&**harness.store(), harness.second_store().await);
    let forwarded = |replay_count, millis, attempt_number, next| {
        let event = Event::ForwardAttempted {
            callback_id: callback_id(1),
            attempt: Box::new(attempt(attempt_number, next)),
        };
        without_message(entry(message_id(0), replay_count, millis, event))
    };
    let replayed = Event::Replayed {
        replay_id: ReplayId::generate(),
        callback_id: Some(callback_id(1)),
    };
    let life = [
        without_message(answered(message_id(0), 1, 5)),
        forwarded(0, 6, 1, After::Retry { wait_ms: 1 }),
        forwarded(0, 7, 2, After::Retry { wait_ms: 1 }),
        forwarded(0, 8, 3, After::Arrived),
        without_message(entry(message_id(0), 1, 9, replayed)),
    ];
    let session = "s".parse().expect("a session id");
    let found = async || {
        let conversation = store.conversation(&session, None, None, 10).await;
        let mut turns = conversation.expect("a conversation").turns;
        let turn = turns.pop().expect("a turn");
        assert_eq!(turns.len(), 0);
        let Turn::Answer(answer) = turn else {
            panic!("{turn:?}")
        };
        assert_eq!((answer.message_id, &answer.channel_id), (None, &None));
        answer
    };
    // What became of it arrives first.
    for known in [2, 1, 3, 4] {
        record(store, &life[known..=known]).await;
        let latest = known.max(2);
        let answer = found().await;
        assert_eq!(answer.content.map(|_| ()), None);
        let expected = serde_json::to_string(&life[latest]).expect("JSON");
        let latest = answer.latest.expect("what became of it");
        assert_eq!(serde_json::to_string(&latest).expect("JSON"), expected);
    }
    tokio::join!(record(store, &life), record(&*other, &life[..1]));
    let answer = found().await;
    let expected = format!(r#"{} at 5: {{"response_data":1}}"#, callback_id(1));
    assert_eq!(shown(&answer), expected);
    let latest = answer.latest.map(|latest| latest.entry_id);
    assert_eq!(latest, Some(life[4].entry_id));
    // A caller limited to channels does not see it.
    let own = [super::id("c")];
    let own = store.conversation(&session, Some(&own), None, 10).await;
    assert_eq!(own.expect("a conversation").turns.len(), 0);
}

/// Four answers: of channel `c`, of channel `other`, of another session, and without a message.
async fn fill(store: &(impl Journal + ?Sized)) {
    let mut of_other = answered(message_id(1), 2, 20);
    of_other.channel_id = Some(super::id("other"));
    let mut elsewhere = answered(message_id(2), 3, 30);
    elsewhere.session_id = "elsewhere".parse().expect("a session id");
    let entries = [
        answered(message_id(0), 1, 10),
        of_other,
        elsewhere,
        without_message(answered(message_id(0), 4, 40)),
    ];
    record(store, &entries).await;
}

/// Each condition alone and several together. The count and the ids agree with the page.
pub(crate) async fn kept_answers_are_found_by_their_filter(harness: &impl Harness) {
    let store = &**harness.store();
    fill(store).await;
    let ids = |numbers: &[i64]| -> Value {
        let ids = numbers
            .iter()
            .map(|number| callback_id(*number).to_string());
        ids.collect()
    };
    for (filter, expected) in [
        (json!({}), &[1, 2, 3, 4][..]),
        (json!({"ids": ids(&[4, 1, 9])}), &[1, 4]),
        (json!({"session_id": "s"}), &[1, 2, 4]),
        (json!({"channel_id": "c"}), &[1, 3]),
        (json!({"channel_ids": ["c"]}), &[1, 3]),
        (json!({"channel_ids": ["other", "c"]}), &[1, 2, 3]),
        (json!({"channel_ids": []}), &[]),
        (json!({"channel_ids": ["c"], "session_id": "s"}), &[1]),
        (json!({"channel_ids": ["c"], "ids": ids(&[1, 2, 4])}), &[1]),
        (
            json!({"since": text(at(20)), "until": text(at(40))}),
            &[2, 3],
        ),
        (json!({"channel_ids": ["c"], "since": text(at(11))}), &[3]),
        (json!({"channel_id": "c", "until": text(at(11))}), &[1]),
    ] {
        let parsed: AnswerFilter = serde_json::from_value(filter.clone()).expect("a filter");
        let found = page(store, &parsed, None, 1000).await;
        let found: Vec<_> = found.iter().map(|answer| answer.callback_id).collect();
        let expected: Vec<_> = expected.iter().map(|number| callback_id(*number)).collect();
        assert_eq!(found, expected, "{filter}");
        let count = store.count_kept_answers(&parsed).await.expect("a count");
        assert_eq!(count, expected.len() as u64, "{filter}");
        let mut ids = store.kept_answer_ids(&parsed).await.expect("the ids");
        ids.sort_unstable();
        let expected: Vec<_> = expected.into_iter().map(|id| (id, None)).collect();
        assert_eq!(ids, expected, "{filter}");
    }
}

/// Two of each time, on pages of every length, also for a caller limited to channels.
pub(crate) async fn pages_hold_every_kept_answer_once_in_the_order_of_time(harness: &impl Harness) {
    let store = &**harness.store();
    let entries: Vec<_> = (0..8)
        .map(|number| {
            let mut answer = answered(message_id(0), number, 100 - number / 2);
            let channel = if number % 3 == 0 { "a" } else { "b" };
            answer.channel_id = Some(super::id(channel));
            answer
        })
        .collect();
    record(store, &entries).await;
    let all = AnswerFilter::default();
    let own = AnswerFilter {
        channels: Some(vec![super::id("b"), super::id("a")]),
        ..AnswerFilter::default()
    };
    let timed = AnswerFilter {
        since: Some(at(1)),
        ..AnswerFilter::default()
    };
    let expected = [6, 7, 4, 5, 2, 3, 0, 1].map(callback_id);
    for filter in [all, own, timed] {
        for limit in 1..10 {
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = page(store, &filter, after.as_ref(), limit).await;
                assert!(page.len() <= usize::from(limit));
                let Some(last) = page.last() else { break };
                after = Some(last.cursor());
                found.extend(page.iter().map(|answer| answer.callback_id));
            }
            assert_eq!(found, expected, "by {limit}: {filter:?}");
        }
    }
    assert_eq!(
        page(store, &AnswerFilter::default(), None, 0).await.len(),
        0
    );
}

pub(crate) async fn pages_of_large_kept_answers_end_early(harness: &impl Harness) {
    let store = &**harness.store();
    let json = format!("\"{}\"", "long ".repeat(MAX_PAGE_BYTES * 2 / 25));
    for number in 0..3 {
        let mut answer = answered(message_id(0), number, number);
        answer.event = Event::Answered {
            callback_id: callback_id(number),
            content: Some(KeptAnswer::ResponseData(
                RawValue::from_string(json.clone()).expect("JSON"),
            )),
        };
        record(store, &[answer]).await;
    }
    let all = AnswerFilter::default();
    let first = page(store, &all, None, 100).await;
    assert_eq!(first.len(), 2);
    let rest = page(store, &all, Some(&first[1].cursor()), 100).await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].callback_id, callback_id(2));
}
