//! The contents of answers.

use roundtrip_model::{CallbackId, Entry, Event, MessageId, State, journal::KeptAnswer};
use roundtrip_store::{AnswerFilter, AnswerRecord, Answers, Journal, MAX_ANSWERS, MAX_PAGE_BYTES};
use serde_json::value::RawValue;

use super::{
    Harness,
    samples::{accepted, at, entry, found, message_id, record},
};

fn callback_id(number: usize) -> CallbackId {
    let id = format!("cb_{number:032x}");
    id.parse().expect("a callback id")
}

/// The answer with this number and this content, so many milliseconds after the beginning.
fn answered(message_id: MessageId, number: usize, millis: i64, content: KeptAnswer) -> Entry {
    let event = Event::Answered {
        callback_id: callback_id(number),
        content: Some(content),
    };
    entry(message_id, 0, millis, event)
}

fn whole(json: &str) -> KeptAnswer {
    KeptAnswer::ResponseData(RawValue::from_string(json.to_owned()).expect("JSON"))
}

async fn answers(store: &(impl Journal + ?Sized), id: &MessageId) -> Answers {
    store.answers(id).await.expect("the answers")
}

/// Each answer's id, time and content, as text.
fn texts(answers: &Answers) -> Vec<String> {
    let text = |answer: &AnswerRecord| {
        let content = serde_json::to_string(&answer.content).expect("JSON");
        format!("{} {} {content}", answer.callback_id, answer.at)
    };
    answers.answers.iter().map(text).collect()
}

fn ids(answers: &Answers) -> Vec<CallbackId> {
    let answers = answers.answers.iter();
    answers.map(|answer| answer.callback_id).collect()
}

/// Byte for byte, and beside the timeline, whose entry lacks it.
pub(crate) async fn an_answers_content_is_stored_beside_the_timeline(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = (message_id(0), message_id(1));
    let json = r#"{"b": 1.0, "a" :[1e400,"\u0000\ud83d\ude80 \u00e9"], "$x.y": null}"#;
    let long = KeptAnswer::TruncatedResponseData {
        head: "\"\u{1f680} and so".to_owned(),
        bytes: 70_000,
    };
    let entries = [
        answered(id, 2, 7, long),
        answered(id, 1, 5, whole(json)),
        answered(other, 3, 6, whole("null")),
        entry(
            id,
            0,
            8,
            Event::Answered {
                callback_id: callback_id(4),
                content: None,
            },
        ),
    ];
    record(store, &entries).await;
    let stored = answers(store, &id).await;
    let truncated = r#"{"truncated_response_data":{"head":"\"🚀 and so","bytes":70000}}"#;
    let expected = [
        format!("{} {} {{\"response_data\":{json}}}", callback_id(1), at(5)),
        format!("{} {} {truncated}", callback_id(2), at(7)),
    ];
    assert_eq!(texts(&stored), expected);
    assert!(!stored.has_earlier);
    let (_, timeline) = found(store, &id).await;
    let contents = timeline.iter().map(|entry| match &entry.event {
        Event::Answered { content, .. } => content.is_some(),
        event => panic!("{event:?}"),
    });
    assert_eq!(contents.collect::<Vec<_>>(), [false; 3]);
    assert_eq!(answers(store, &message_id(2)).await.answers.len(), 0);
}

/// A channel that posts an answer again, to another process or after a restart.
pub(crate) async fn a_repeated_answer_is_one_with_its_first_time(harness: &impl Harness) {
    let (one, other) = (harness.store(), harness.second_store().await);
    for (millis, order) in (0..).zip([[5, 9, 7], [9, 7, 5], [7, 5, 9]]) {
        let id = message_id(millis);
        let number = usize::try_from(millis).expect("a few");
        let entries = order.map(|millis| answered(id, number, millis, whole("[1.0]")));
        record(&**one, &entries[..1]).await;
        tokio::join!(record(&**one, &entries), record(&*other, &entries[1..]));
        record(&*other, &entries).await;
        let content = r#"{"response_data":[1.0]}"#;
        let expected = format!("{} {} {content}", callback_id(number), at(5));
        assert_eq!(texts(&answers(&**one, &id).await), [expected]);
        let filter = AnswerFilter {
            callback_ids: Some(vec![callback_id(number)]),
            ..AnswerFilter::default()
        };
        let kept = one.kept_answers(&filter, None, 9).await;
        let kept = kept.expect("a page").pop().expect("the answer");
        assert_eq!((kept.at, kept.message_id), (at(5), Some(id)));
    }
}

/// By their number and by their bytes.
pub(crate) async fn of_many_answers_the_latest_are_read(harness: &impl Harness) {
    let store = &**harness.store();
    let most = usize::from(MAX_ANSWERS);
    let (many, long) = (message_id(0), message_id(1));
    let mut entries: Vec<_> = (0..=most)
        .map(|number| {
            answered(
                many,
                number,
                i64::try_from(number).expect("a few"),
                whole("1"),
            )
        })
        .collect();
    let json = format!("\"{}\"", "long ".repeat(MAX_PAGE_BYTES * 2 / 25));
    entries.extend((0..4).map(|number| {
        let millis = i64::try_from(number).expect("a few");
        answered(long, 1_000 + number, millis, whole(&json))
    }));
    for some in entries.chunks(50) {
        record(store, some).await;
    }
    let read = answers(store, &many).await;
    assert!(read.has_earlier);
    assert_eq!(ids(&read), (1..=most).map(callback_id).collect::<Vec<_>>());
    let read = answers(store, &long).await;
    assert!(read.has_earlier);
    assert_eq!(ids(&read), [1_002, 1_003].map(callback_id));
}

pub(crate) async fn an_answer_is_found_by_its_id_or_as_the_first(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = (message_id(0), message_id(1));
    let entries = [
        answered(id, 1, 9, whole("1")),
        answered(id, 2, 5, whole("2")),
        answered(other, 3, 1, whole("3")),
    ];
    record(store, &entries).await;
    let found = async |which: Option<usize>| {
        let which = which.map(callback_id);
        let found = store.answer(&id, which.as_ref()).await;
        let found = found.expect("to read it");
        found.map(|answer| (answer.callback_id, answer.at))
    };
    assert_eq!(found(None).await, Some((callback_id(2), at(5))));
    assert_eq!(found(Some(1)).await, Some((callback_id(1), at(9))));
    // Of another message.
    assert_eq!(found(Some(3)).await, None);
    assert!(
        store
            .answer(&message_id(2), None)
            .await
            .expect("to read it")
            .is_none()
    );
}

pub(crate) async fn the_states_of_messages_are_read_by_their_ids(harness: &impl Harness) {
    let store = &**harness.store();
    let [queued, answered_one, other, unknown] = [0, 1, 2, 3].map(message_id);
    let entries = [
        entry(queued, 0, 0, accepted("1")),
        entry(answered_one, 0, 1, accepted("1")),
        answered(answered_one, 1, 2, whole("1")),
        entry(other, 0, 2, accepted("1")),
    ];
    record(store, &entries).await;
    let found = store.states(&[answered_one, unknown, queued]).await;
    let mut found = found.expect("the states");
    found.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(
        found,
        [(queued, State::Queued), (answered_one, State::Answered)]
    );
    assert_eq!(store.states(&[]).await.expect("the states"), []);
}
