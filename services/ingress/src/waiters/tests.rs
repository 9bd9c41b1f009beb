use roundtrip_model::{CallbackId, Clock, Entry, EntryId, Event, SystemClock, journal::KeptAnswer};
use roundtrip_store::AnswerRecord;
use serde_json::{json, value::RawValue};

use super::*;
use crate::{Config, tests::Bench};

/// Longer than every wait of these tests.
fn late() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn waiters(bench: &Bench, places: usize) -> Waiters {
    Waiters::start(places, Arc::clone(&bench.store), CancellationToken::new())
}

fn content() -> KeptAnswer {
    KeptAnswer::ResponseData(RawValue::from_string("1".to_owned()).unwrap())
}

/// An answer, as another process records it.
fn answered(message_id: MessageId) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id,
        channel_id: "c".parse().unwrap(),
        session_id: "s".parse().unwrap(),
        replay_count: 0,
        at: SystemClock.now(),
        event: Event::Answered {
            callback_id: CallbackId::generate(),
            content: Some(content()),
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
    waiters.answered(&id, || AnswerRecord {
        callback_id: CallbackId::generate(),
        at: SystemClock.now(),
        content: content(),
    });
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
    let waiting = waiters.waiting.lock();
    assert!(waiting.messages.is_empty() && waiting.principals.is_empty());
    drop(waiting);
    assert!(waiters.begin(&Principal::Anybody, id).is_ok());
}

#[tokio::test]
async fn a_principal_with_a_key_leaves_places_to_others() {
    let bench = Bench::new().await;
    let waiters = waiters(&bench, 4);
    let begin = |principal| waiters.begin(principal, MessageId::generate());
    let own = [(); 2].map(|()| begin(&Principal::Configured).ok().unwrap());
    assert!(begin(&Principal::Configured).is_err());
    let others = [(); 2].map(|()| begin(&Principal::Anybody).ok().unwrap());
    assert!(begin(&Principal::Anybody).is_err());
    drop(own);
    assert!(begin(&Principal::Configured).is_ok());
    drop(others);
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
