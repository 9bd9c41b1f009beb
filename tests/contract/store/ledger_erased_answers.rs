//! The erasure of answers without a message.

use roundtrip_model::{
    CallbackId, Entry, Event,
    journal::{After, KeptAnswer},
};
use roundtrip_store::{AnswerFilter, DeadLetter, DeadQueue, SharedStore, StoredAnswer};
use serde_json::value::RawValue;

use super::{
    Harness,
    ledger_erasures::{entries, erase, letter, letters, request, secret, session},
    samples::{at, attempt, entry, message_id, record},
};

/// The id of an answer without a message, accepted this many milliseconds after the beginning.
fn made_answer_id(millis: i64) -> CallbackId {
    let id = message_id(millis).to_string().replace("msg_", "cb_");
    id.parse().expect("a callback id")
}

/// The entries of an answer without a message. What became of it comes before and after its content.
fn entries_of_answer(of: &str, millis: i64) -> Vec<Entry> {
    let (callback_id, text) = (made_answer_id(millis), secret(of));
    let attempted = |number| {
        let mut attempt = attempt(number, After::Retry { wait_ms: 1 });
        attempt.excerpt.clone_from(&text);
        attempt.error = Some(text.clone());
        Event::ForwardAttempted {
            callback_id,
            attempt: Box::new(attempt),
        }
    };
    let json = RawValue::from_string(format!("\"{text}\"")).expect("JSON");
    let events = [
        attempted(1),
        Event::Answered {
            callback_id,
            content: Some(KeptAnswer::ResponseData(json)),
        },
        attempted(2),
    ];
    let entries = events.map(|event| Entry {
        message_id: None,
        channel_id: None,
        session_id: session(of),
        ..entry(message_id(millis), 0, millis, event)
    });
    entries.into()
}

async fn kept_answer(store: &SharedStore, id: CallbackId) -> StoredAnswer {
    let filter = AnswerFilter {
        callback_ids: Some(vec![id]),
        ..AnswerFilter::default()
    };
    let page = store.kept_answers(&filter, None, 10).await;
    let mut page = page.expect("a page of answers");
    assert_eq!(page.len(), 1);
    page.remove(0)
}

/// Its id, its time and what became of it stay. What is recorded again, or late, brings nothing back.
pub(crate) async fn an_erased_answer_without_a_message_leaves_no_byte_of_its_contents(
    harness: &impl Harness,
) {
    let store = harness.store();
    let (of_anna, of_bert) = (entries_of_answer("anna", 0), entries_of_answer("bert", 1));
    record(&**store, &of_anna).await;
    record(&**store, &of_bert).await;
    // Accepted before the erasure, and recorded after it.
    let late = entries_of_answer("anna", 50);
    request(store, "anna", 100).await;
    erase(store).await;
    for again in [&of_anna, &late] {
        for entry in again {
            assert!(!harness.holds("the-text-of-anna").await);
            record(&**store, std::slice::from_ref(entry)).await;
        }
    }
    store.overwrite_erased().await.expect("to overwrite");
    assert!(!harness.holds("the-text-of-anna").await);
    for millis in [0, 50] {
        let answer = kept_answer(store, made_answer_id(millis)).await;
        assert_eq!(answer.contents_erased_at, Some(at(100)));
        assert!(answer.content.is_none());
        let latest = answer.latest.expect("what became of it").event;
        let Event::ForwardAttempted { attempt, .. } = latest else {
            panic!("{latest:?}")
        };
        assert_eq!((attempt.attempt, &*attempt.excerpt), (2, ""));
        let ids = AnswerFilter {
            callback_ids: Some(vec![made_answer_id(millis)]),
            without_message: true,
            ..AnswerFilter::default()
        };
        let ids = store.kept_answer_ids(&ids).await.expect("the id");
        assert_eq!(ids, [(made_answer_id(millis), Some(at(100)))]);
    }

    // Answers of other sessions, and those accepted later, are kept.
    record(&**store, &entries_of_answer("anna", 101)).await;
    for kept in [1, 101] {
        let answer = kept_answer(store, made_answer_id(kept)).await;
        assert!(answer.content.is_some() && answer.contents_erased_at.is_none());
    }
}

/// Includes answers of which only the content, or only the forward, is recorded. Answers of a message
/// are erased with it.
pub(crate) async fn contents_of_answers_without_a_message_are_erased_by_their_ids(
    harness: &impl Harness,
) {
    let store = harness.store();
    record(&**store, &entries("bert", 0)).await;
    record(&**store, &entries_of_answer("anna", 1)).await;
    record(&**store, &entries_of_answer("anna", 2)[..1]).await;
    record(&**store, &entries_of_answer("anna", 3)[1..2]).await;
    let filter = AnswerFilter {
        without_message: true,
        until: Some(at(4)),
        ..AnswerFilter::default()
    };
    let found = store.kept_answers(&filter, None, 10).await;
    let ids: Vec<_> = found
        .expect("a page")
        .iter()
        .map(|one| one.callback_id)
        .collect();
    assert_eq!(ids, [1, 2, 3].map(made_answer_id));
    store.erase_answers(&ids, at(300)).await.expect("to erase");
    store.overwrite_erased().await.expect("to overwrite");
    assert!(!harness.holds("the-text-of-anna").await);
    for id in ids {
        let answer = kept_answer(store, id).await;
        assert!(answer.content.is_none());
        assert_eq!(answer.contents_erased_at, Some(at(300)));
    }
    assert!(harness.holds("the-text-of-bert").await);
}

/// A replay publishes an answer with a later time, and it may die again before its session is erased.
pub(crate) async fn a_dead_letter_of_a_replayed_answer_is_erased_by_the_answers_own_time(
    harness: &impl Harness,
) {
    let store = harness.store();
    let of_answer = |millis, replayed_at| DeadLetter {
        queue: DeadQueue::Callbacks,
        webhook_id: made_answer_id(millis).to_string(),
        dead_id: format!("{}.1", made_answer_id(millis)),
        message_id: None,
        channel_id: None,
        accepted_at: at(replayed_at),
        ..letter("anna", replayed_at)
    };
    let before = [of_answer(10, 150), of_answer(101, 151)];
    store.insert(&before).await.expect("to insert");
    request(store, "anna", 100).await;
    erase(store).await;
    let after = [of_answer(11, 160)];
    store.insert(&after).await.expect("to insert");
    let mut erased: Vec<_> = letters(store, "anna").await;
    erased.sort_by(|one, other| one.webhook_id.cmp(&other.webhook_id));
    let erased: Vec<_> = erased.iter().map(|letter| letter.body.is_empty()).collect();
    assert_eq!(erased, [true, true, false]);
}
