use roundtrip_broker::{Carrier, MAX_NOTE_BYTES};
use roundtrip_model::{
    CallbackId, Clock, Entry, EntryId, Event, MessageKind, SystemClock, journal::KeptAnswer,
};
use serde_json::{json, value::RawValue};

use super::*;
use crate::{Config, tests::Bench};

/// Longer than every wait of these tests.
fn late() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn waiters(bench: &Bench, places: usize) -> Waiters {
    let stopping = CancellationToken::new();
    Waiters::start(places, Arc::clone(&bench.store), None, stopping)
}

/// The waiters of one of several processes, and what carries its notes.
fn with_mailbox(bench: &Bench) -> (Waiters, Carrier) {
    let (mailbox, carrier) = Mailbox::open();
    let stopping = CancellationToken::new();
    let waiters = Waiters::start(1, Arc::clone(&bench.store), Some(mailbox), stopping);
    (waiters, carrier)
}

fn content(json: String) -> KeptAnswer {
    KeptAnswer::ResponseData(RawValue::from_string(json).unwrap())
}

/// An answer, as another process records it.
fn answered(message_id: MessageId) -> Entry {
    answered_with(message_id, "1".to_owned())
}

fn answered_with(message_id: MessageId, json: String) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at: SystemClock.now(),
        event: Event::Answered {
            callback_id: CallbackId::generate(),
            content: Some(content(json)),
        },
    }
}

#[tokio::test]
async fn an_answer_that_another_process_accepted_ends_the_wait() {
    let bench = Bench::new().await;
    let waiters = waiters(&bench, 2);
    let [awaited, other] = [(); 2].map(|()| MessageId::generate());
    let mut waiter = waiters.begin(&Principal::Anybody, awaited).ok().unwrap();
    let mut of_other = waiters.begin(&Principal::Anybody, other).ok().unwrap();
    bench.store.record(&[answered(awaited)]).await.unwrap();
    assert!(matches!(
        waiter.wait(late()).await,
        Waited::Ended(State::Answered)
    ));
    assert!(matches!(
        of_other.wait(Instant::now()).await,
        Waited::InVain
    ));
}

/// What the first process receives when the second one accepts this answer to its message.
async fn noted(bench: &Bench, json: &str) -> Waited {
    let (waiters, carrier) = with_mailbox(bench);
    let (others, mut others_carrier) = with_mailbox(bench);
    let id = waiters.message_id();
    let mut waiter = waiters.begin(&Principal::Anybody, id).ok().unwrap();
    others.answered(&answered_with(id, json.to_owned()));
    let note = others_carrier.unsent.try_recv().unwrap();
    assert_eq!(note.to, carrier.own);
    assert!(note.body.len() <= MAX_NOTE_BYTES);
    carrier.received.send(note.body).await.unwrap();
    waiter.wait(late()).await
}

#[tokio::test]
async fn a_note_brings_the_answer_that_another_process_accepted() {
    let bench = Bench::new().await;
    let waited = noted(&bench, r#"{"n":1.50}"#).await;
    let Waited::Answer(answer) = waited else {
        panic!("{waited:?}")
    };
    let Some(KeptAnswer::ResponseData(data)) = &answer.content else {
        panic!("{answer:?}")
    };
    assert_eq!(data.get(), r#"{"n":1.50}"#);
}

#[tokio::test]
async fn a_note_of_a_long_answer_has_the_store_read_at_once() {
    let bench = Bench::new().await;
    let long = format!(r#""{}""#, "x".repeat(MAX_NOTE_BYTES));
    let waited = noted(&bench, &long).await;
    assert!(
        matches!(waited, Waited::Ended(State::Answered)),
        "{waited:?}"
    );
}

#[tokio::test]
async fn only_the_answer_to_a_message_that_another_process_awaits_is_noted() {
    let bench = Bench::new().await;
    let (waiters, mut carrier) = with_mailbox(&bench);
    let (others, mut others_carrier) = with_mailbox(&bench);
    waiters.answered(&answered(waiters.message_id()));
    waiters.answered(&answered(MessageId::generate()));
    waiters.answered(&answered(others.message_id()));
    assert_eq!(carrier.unsent.try_recv().unwrap().to, others_carrier.own);
    assert!(carrier.unsent.try_recv().is_err() && others_carrier.unsent.try_recv().is_err());
}

#[tokio::test]
async fn a_wait_ends_when_its_message_is_overdue() {
    let bench = Bench::new().await;
    let waiters = waiters(&bench, 1);
    let id = MessageId::generate();
    let mut waiter = waiters.begin(&Principal::Anybody, id).ok().unwrap();
    let overdue = Entry {
        event: Event::Overdue {},
        ..answered(id)
    };
    bench.store.record(&[overdue]).await.unwrap();
    assert!(matches!(
        waiter.wait(late()).await,
        Waited::Ended(State::Overdue)
    ));
}

#[tokio::test]
async fn all_who_wait_for_a_message_get_its_answer() {
    let bench = Bench::new().await;
    let waiters = waiters(&bench, 2);
    let id = MessageId::generate();
    let mut both = [(); 2].map(|()| waiters.begin(&Principal::Anybody, id).ok().unwrap());
    waiters.answered(&answered(id));
    for waiter in &mut both {
        assert!(matches!(waiter.wait(late()).await, Waited::Answer(_)));
    }
}

#[tokio::test]
async fn a_wait_that_ended_leaves_its_place_and_no_state() {
    let bench = Bench::new().await;
    let waiters = waiters(&bench, 1);
    let id = MessageId::generate();
    let waiter = waiters.begin(&Principal::Anybody, id).ok().unwrap();
    let refused = waiters.begin(&Principal::Anybody, id).err().unwrap();
    assert_eq!(refused.status(), 503);
    drop(waiter);
    assert!(waiters.awaited.lock().0.is_empty());
    assert!(waiters.begin(&Principal::Anybody, id).is_ok());
}

#[tokio::test]
async fn nothing_is_enqueued_for_a_producer_that_finds_no_place_to_wait() {
    let limits = Config {
        max_waiting_requests: 1,
        ..Config::default()
    };
    let bench = Bench::with_limits(limits).await;
    let message = json!({"channel_id": "c", "session_id": "s", "message": "hi"}).to_string();
    let send = async || {
        let headers = [("prefer", "wait=60")];
        bench
            .post("/channel/message", &headers, message.clone())
            .await
    };
    let mut first = Box::pin(send());
    // It waits after its message was published.
    while bench.broker.taken().is_empty() {
        assert!(futures::poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
    }
    let second = send().await;
    assert_eq!(second.status, 503, "{}", second.text);
    assert!(second.text.contains("too-many-waiters"), "{}", second.text);
    assert_eq!(bench.broker.taken().len(), 1);
}
