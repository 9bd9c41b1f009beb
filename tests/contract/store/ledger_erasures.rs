//! The erasure of contents: of sessions, of messages and of dead letters.

use bytes::Bytes;
use roundtrip_model::{
    CallbackId, DeadReason, Entry, Event, MessageId, SessionId, State,
    decision::DeadKind,
    journal::{After, KeptAnswer},
};
use roundtrip_store::{
    DeadFilter, DeadLetter, Detail, MAX_ERASED_AT_ONCE, Settlement, SharedStore, Turn,
    WaitingMessage,
};
use serde_json::value::RawValue;

use super::{
    Harness,
    ledger_waiting::{put, waiting},
    samples::{accepted, at, attempt, dead_letter, entry, found, message_id, record, state},
};

/// Longer than a page of SQLite, so that it is stored in more than one place.
const LONG: usize = 6_000;

/// A text that is found nowhere else.
pub(super) fn secret(of: &str) -> String {
    format!("the-text-of-{of}-{}", "x".repeat(LONG))
}

pub(super) fn session(id: &str) -> SessionId {
    id.parse().expect("a session id")
}

fn answer_id(millis: i64) -> CallbackId {
    let id = format!("cb_{millis:032x}");
    id.parse().expect("a callback id")
}

/// The entries of a message of this session with contents of every kind.
pub(super) fn entries(of: &str, millis: i64) -> Vec<Entry> {
    let id = message_id(millis);
    let text = secret(of);
    let reason = || DeadReason::new(DeadKind::Refused, format!("answered 400: {text}"));
    let mut attempt = attempt(1, After::Dead(reason()));
    attempt.excerpt.clone_from(&text);
    attempt.error = Some(text.clone());
    attempt.location = Some(format!("http://h/{text}"));
    let json = RawValue::from_string(format!("\"{text}\"")).expect("JSON");
    let events = [
        accepted(json.get()),
        Event::Attempted(Box::new(attempt.clone())),
        Event::Answered {
            callback_id: answer_id(millis),
            content: Some(KeptAnswer::ResponseData(json)),
        },
        Event::ForwardAttempted {
            callback_id: answer_id(millis),
            attempt: Box::new(attempt),
        },
        Event::Dead(reason()),
        Event::AnswerDead {
            callback_id: answer_id(millis),
            reason: reason(),
        },
    ];
    let entries = (millis..).zip(events);
    entries
        .map(|(millis, event)| Entry {
            session_id: session(of),
            ..entry(id, 0, millis, event)
        })
        .collect()
}

pub(super) fn letter(of: &str, millis: i64) -> DeadLetter {
    DeadLetter {
        session_id: Some(session(of)),
        reason: DeadReason::new(DeadKind::Refused, secret(of)),
        body: Bytes::from(secret(of)),
        ..dead_letter(millis)
    }
}

fn waiting_message(of: &str, millis: i64) -> WaitingMessage {
    WaitingMessage {
        session_id: session(of),
        body: Bytes::from(secret(of)),
        ..waiting(millis, "c")
    }
}

/// Stores contents of every kind: three messages, the second one dead, the third one waiting.
async fn fill(store: &SharedStore, of: &str, millis: i64) {
    record(&**store, &entries(of, millis)).await;
    let letters = [letter(of, millis + 10)];
    store.insert(&letters).await.expect("to insert");
    put(&**store, &[waiting_message(of, millis + 20)]).await;
}

pub(super) async fn letters(store: &SharedStore, of: &str) -> Vec<DeadLetter> {
    let filter = DeadFilter {
        session: Some(session(of)),
        ..DeadFilter::default()
    };
    let letters = store.dead_letters(&filter, None, 10, Detail::Whole).await;
    letters.expect("the dead letters")
}

pub(super) async fn request(store: &SharedStore, of: &str, millis: i64) {
    let requested = store.request_erasure(&session(of), at(millis)).await;
    requested.expect("to request the erasure");
}

/// Erases every session whose erasure has not ended.
pub(super) async fn erase(store: &SharedStore) {
    let unfinished = store.unfinished_erasures(10).await.expect("erasures");
    for erasure in unfinished {
        let erased = store.erase_session(&erasure, at(5000)).await;
        erased.expect("to erase the session");
    }
}

pub(crate) async fn an_erased_session_leaves_no_byte_of_its_contents(harness: &impl Harness) {
    let store = harness.store();
    fill(store, "anna", 0).await;
    fill(store, "bert", 1).await;
    assert!(harness.holds("the-text-of-anna").await && harness.holds("the-text-of-bert").await);

    request(store, "anna", 100).await;
    erase(store).await;
    assert!(!harness.holds("the-text-of-anna").await);
    assert!(harness.holds("the-text-of-bert").await);
    let erasure = store.erasure(&session("anna")).await.expect("an erasure");
    let erasure = erasure.expect("the erasure");
    assert_eq!(erasure.requested_at, at(100));
    assert_eq!(erasure.ended_at, Some(at(5000)));
    assert_eq!(store.unfinished_erasures(10).await.expect("none"), []);
    assert_eq!(store.erasure(&session("bert")).await.expect("none"), None);
}

pub(crate) async fn an_erased_session_keeps_its_ids_and_states(harness: &impl Harness) {
    let store = harness.store();
    fill(store, "anna", 0).await;
    fill(store, "bert", 1).await;
    let before = found(&**store, &message_id(0)).await;
    request(store, "anna", 100).await;
    erase(store).await;

    let (message, timeline) = found(&**store, &message_id(0)).await;
    assert_eq!(message.state, before.0.state);
    assert_eq!(message.contents_erased_at, Some(at(100)));
    assert!(message.content.is_none());
    let kinds = |entries: &[Entry]| -> Vec<_> {
        let kind = |entry: &Entry| (entry.entry_id, std::mem::discriminant(&entry.event));
        entries.iter().map(kind).collect()
    };
    assert_eq!(kinds(&timeline), kinds(&before.1));
    let page = store.conversation(&session("anna"), None, None, 10).await;
    let turns = page.expect("the conversation").turns;
    let marks = turns.iter().map(|turn| match turn {
        Turn::Message(message) => message.contents_erased_at,
        Turn::Answer(answer) => {
            assert!(answer.content.is_none());
            answer.contents_erased_at
        }
    });
    assert_eq!(marks.collect::<Vec<_>>(), [Some(at(100)); 3]);
    let [letter] = &letters(store, "anna").await[..] else {
        panic!("not one dead letter");
    };
    assert_eq!(letter.contents_erased_at, Some(at(100)));
    assert_eq!(letter.reason.kind, DeadKind::Refused);
    assert!(letter.body.is_empty());
    // What waited is cancelled.
    assert_eq!(state(&**store, &message_id(20)).await, State::Cancelled);
    let waiting = store.waiting_message(&message_id(20).to_string()).await;
    assert_eq!(waiting.expect("none"), None);

    let (message, _) = found(&**store, &message_id(1)).await;
    assert!(message.content.is_some() && message.contents_erased_at.is_none());
    let waiting = store.waiting_message(&message_id(21).to_string()).await;
    assert!(waiting.expect("one").is_some());
    assert_eq!(letters(store, "bert").await, [self::letter("bert", 11)]);
}

pub(crate) async fn what_is_recorded_after_an_erasure_has_no_contents(harness: &impl Harness) {
    let store = harness.store();
    request(store, "anna", 100).await;
    for _ in 0..2 {
        fill(store, "anna", 0).await;
        assert!(!harness.holds("the-text-of-anna").await);
        erase(store).await;
    }
    let (message, _) = found(&**store, &message_id(0)).await;
    assert_eq!(message.contents_erased_at, Some(at(100)));
    let answers = store.answers(&message_id(0)).await.expect("answers");
    assert_eq!(answers.answers.len(), 1);
    assert_eq!(state(&**store, &message_id(20)).await, State::Cancelled);
    assert_eq!(letters(store, "anna").await.len(), 1);

    // A message that was accepted later is another one.
    fill(store, "anna", 101).await;
    assert!(found(&**store, &message_id(101)).await.0.content.is_some());
    assert!(harness.holds("the-text-of-anna").await);
    let waiting = store.waiting_message(&message_id(121).to_string()).await;
    assert!(waiting.expect("one").is_some());
    // Until the session is erased again.
    request(store, "anna", 200).await;
    erase(store).await;
    assert!(!harness.holds("the-text-of-anna").await);
}

/// The process dies somewhere in the middle; another one does the rest.
pub(crate) async fn an_erasure_that_was_interrupted_is_finished_by_another_process(
    harness: &impl Harness,
) {
    let store = harness.store();
    let messages = i64::from(MAX_ERASED_AT_ONCE) * 2 + 1;
    let said = |millis| Entry {
        session_id: session("anna"),
        ..entry(
            message_id(millis),
            0,
            millis,
            accepted("\"the-text-of-anna\""),
        )
    };
    let said: Vec<Entry> = (0..messages).map(said).collect();
    record(&**store, &said).await;
    request(store, "anna", messages).await;
    let unfinished = store.unfinished_erasures(1).await.expect("one");
    let erased = |id: MessageId| async move {
        let (message, _) = found(&**store, &id).await;
        message.contents_erased_at.is_some()
    };
    tokio::select! {
        // The first step is done.
        () = async { while !erased(message_id(0)).await {} } => {}
        done = store.erase_session(&unfinished[0], at(5000)) => done.expect("to erase"),
    }
    let second = harness.second_store().await;
    erase(&second).await;
    assert!(!harness.holds("the-text-of-anna").await);
    assert_eq!(second.unfinished_erasures(1).await.expect("none"), []);
    assert!(erased(message_id(messages - 1)).await);
}

pub(crate) async fn a_request_during_an_erasure_is_not_forgotten(harness: &impl Harness) {
    let store = harness.store();
    request(store, "anna", 100).await;
    let earlier = store.unfinished_erasures(1).await.expect("one").remove(0);
    request(store, "anna", 200).await;
    let erased = store.erase_session(&earlier, at(5000)).await;
    erased.expect("to erase");
    let unfinished = store.unfinished_erasures(1).await.expect("one");
    assert_eq!(unfinished[0].requested_at, at(200));
    // An earlier one changes nothing.
    request(store, "anna", 150).await;
    assert_eq!(store.unfinished_erasures(1).await.expect("one"), unfinished);
}

pub(crate) async fn contents_of_messages_and_dead_letters_are_erased_by_their_ids(
    harness: &impl Harness,
) {
    let store = harness.store();
    fill(store, "anna", 0).await;
    fill(store, "bert", 1).await;
    let erased = store.erase_messages(&[message_id(0)], at(300)).await;
    erased.expect("to erase the message");
    let (message, _) = found(&**store, &message_id(0)).await;
    assert_eq!(message.contents_erased_at, Some(at(300)));
    let waiting = store.waiting_message(&message_id(20).to_string()).await;
    assert!(waiting.expect("one").is_some());
    let dead_ids = [letter("anna", 10).dead_id];
    let erased = store.erase_dead_letters(&dead_ids, at(300)).await;
    erased.expect("to erase the dead letter");
    assert_eq!(letters(store, "anna").await[0].body, Bytes::new());
    // What is recorded late has no contents either.
    record(&**store, &entries("anna", 0)).await;
    let (message, _) = found(&**store, &message_id(0)).await;
    assert!(message.content.is_none());
    let removed = waiting_message("anna", 20).settled(Settlement::Removed);
    let settled = store.settle_waiting(&[removed]).await;
    settled.expect("to settle");
    store.overwrite_erased().await.expect("to overwrite");
    assert!(!harness.holds("the-text-of-anna").await);
    assert!(harness.holds("the-text-of-bert").await);
}
