use proptest::{prelude::*, sample::select};
use time::macros::datetime;

use super::*;
use crate::decision::DeadKind;

fn entry(replay_count: u32, event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".parse().ok(),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count,
        at: datetime!(2026-11-23 12:00 UTC),
        event,
    }
}

fn attempt(attempt: u32, next: After) -> Box<Attempt> {
    Box::new(Attempt {
        attempt,
        status: Some(200),
        error: None,
        location: None,
        excerpt: String::new(),
        duration_ms: 1,
        next,
        answer_by: None,
    })
}

/// A delivery whose answer is due so many seconds after noon.
fn delivered(seconds: Option<i64>) -> Event {
    let answer_by =
        seconds.map(|seconds| datetime!(2026-11-23 12:00 UTC) + time::Duration::seconds(seconds));
    let attempt = *attempt(1, After::Arrived);
    Event::Attempted(Box::new(attempt.answer_by(answer_by)))
}

fn accepted() -> Event {
    Event::Accepted(Some(Box::new(Content {
        message: serde_json::from_str("\"m\"").unwrap(),
        response_url: "http://h/".to_owned(),
        answer_within_ms: None,
    })))
}

fn reason() -> DeadReason {
    DeadReason::new(DeadKind::Refused, "answered 400")
}

fn forward(number: u32, next: After) -> Event {
    Event::ForwardAttempted {
        callback_id: CallbackId::generate(),
        attempt: attempt(number, next),
    }
}

/// A message, or an answer to it, was put back.
fn replayed(callback_id: Option<CallbackId>) -> Event {
    Event::Replayed {
        replay_id: ReplayId::generate(),
        callback_id,
    }
}

/// A message, or an answer to it, waits.
fn waiting(callback_id: Option<CallbackId>, attempts: u32) -> Event {
    Event::Waiting {
        callback_id,
        attempts,
        reason: WaitReason::EndpointFailing,
        until: Some(datetime!(2026-11-23 12:00 UTC)),
    }
}

fn answered() -> Event {
    Event::Answered {
        callback_id: CallbackId::generate(),
        content: None,
    }
}

/// Applies these events to a message and checks the state after each.
fn walk(steps: Vec<(u32, Event, State)>) {
    let mut entries = Vec::new();
    for (replay_count, event, state) in steps {
        entries.push(entry(replay_count, event));
        assert_eq!(State::of(&entries), Some(state), "{entries:#?}");
    }
}

#[test]
fn a_message_that_arrives_walks_to_forwarded() {
    walk(vec![
        (0, accepted(), State::Queued),
        (0, waiting(None, 0), State::Waiting),
        (0, Event::Delivering { attempt: 1 }, State::Delivering),
        (
            0,
            Event::Attempted(attempt(1, After::Retry { wait_ms: 1 })),
            State::Retrying,
        ),
        (0, waiting(None, 1), State::Waiting),
        (0, Event::Delivering { attempt: 2 }, State::Delivering),
        (
            0,
            Event::Attempted(attempt(2, After::Arrived)),
            State::Delivered,
        ),
        (0, answered(), State::Answered),
        (0, waiting(Some(CallbackId::generate()), 0), State::Answered),
        (0, forward(1, After::Retry { wait_ms: 1 }), State::Answered),
        (0, waiting(Some(CallbackId::generate()), 1), State::Answered),
        (0, forward(2, After::Arrived), State::Forwarded),
    ]);
}

#[test]
fn an_overdue_message_walks_on_with_a_late_answer() {
    walk(vec![
        (0, delivered(Some(2)), State::Delivered),
        (0, Event::Overdue {}, State::Overdue),
        // Delivered again, because the ack of the first delivery was lost.
        (0, delivered(Some(5)), State::Overdue),
        (0, answered(), State::Answered),
        (0, Event::Overdue {}, State::Answered),
        (0, forward(1, After::Arrived), State::Forwarded),
        (1, replayed(None), State::Replayed),
        (0, Event::Overdue {}, State::Replayed),
        (1, delivered(Some(9)), State::Delivered),
        (1, Event::Overdue {}, State::Overdue),
    ]);
}

/// Whatever the order: only a delivery that nothing has followed has a time for its answer.
#[test]
fn an_answer_is_due_only_while_its_message_is_delivered() {
    let later = datetime!(2026-11-23 12:00:07 UTC);
    let retried = Event::Attempted(attempt(1, After::Retry { wait_ms: 1 }));
    let cases = [
        (vec![], Some(later)),
        (vec![(0, accepted()), (0, retried)], Some(later)),
        (
            vec![(0, delivered(Some(3))), (0, delivered(None))],
            Some(later),
        ),
        (vec![(0, Event::Overdue {})], None),
        (vec![(0, answered())], None),
        (vec![(0, forward(1, After::Arrived))], None),
        (vec![(1, replayed(None))], None),
        (vec![(1, delivered(None))], None),
    ];
    for (others, answer_by) in cases {
        let mut entries = vec![entry(0, delivered(Some(7)))];
        entries.extend(others.into_iter().map(|(count, event)| entry(count, event)));
        for _ in 0..entries.len() {
            entries.rotate_left(1);
            let greatest = entries.iter().map(Entry::position).max();
            let due = greatest.and_then(|position| position.answer_by);
            assert_eq!(due, answer_by, "{entries:#?}");
        }
    }
}

#[test]
fn a_failed_attempt_gives_no_time_for_an_answer() {
    let failed = attempt(1, After::Retry { wait_ms: 1 });
    let at = datetime!(2026-11-23 12:00 UTC);
    assert_eq!(failed.answer_by(Some(at)).answer_by, None);
}

/// Two recorders, or one after a crash, may make the entry.
#[test]
fn an_overdue_entry_is_the_same_each_time() {
    let overdue = |message: &str, replay_count| {
        Entry::overdue(
            message.parse().unwrap(),
            "c".parse().unwrap(),
            "s".parse().unwrap(),
            replay_count,
            datetime!(2026-11-23 12:00 UTC),
        )
    };
    let (one, other) = (
        "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f",
        "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4eff",
    );
    let id = |message, replay_count| overdue(message, replay_count).entry_id;
    assert_eq!(id(one, 1), id(one, 1));
    assert_eq!(overdue(one, 1).at, datetime!(2026-11-23 12:00 UTC));
    assert_ne!(id(one, 0), id(one, 1));
    assert_ne!(id(one, 0), id(other, 0));
}

#[test]
fn a_cancelled_message_is_delivered_only_by_an_attempt_that_had_begun() {
    walk(vec![
        (0, accepted(), State::Queued),
        (0, waiting(None, 0), State::Waiting),
        (0, Event::Cancelled {}, State::Cancelled),
        (0, Event::Delivering { attempt: 1 }, State::Cancelled),
        (
            0,
            Event::Attempted(attempt(1, After::Retry { wait_ms: 1 })),
            State::Cancelled,
        ),
        (
            0,
            Event::Attempted(attempt(2, After::Arrived)),
            State::Delivered,
        ),
    ]);
}

#[test]
fn a_replayed_dead_letter_starts_again() {
    walk(vec![
        (0, accepted(), State::Queued),
        (
            0,
            Event::Attempted(attempt(1, After::Dead(reason()))),
            State::Dead,
        ),
        (0, Event::Dead(reason()), State::Dead),
        (1, replayed(None), State::Replayed),
        (1, Event::Delivering { attempt: 1 }, State::Delivering),
        (
            1,
            Event::Attempted(attempt(1, After::Arrived)),
            State::Delivered,
        ),
    ]);
}

#[test]
fn an_undeliverable_answer_is_dead_until_it_is_replayed() {
    walk(vec![
        (0, answered(), State::Answered),
        (0, forward(1, After::Dead(reason())), State::Dead),
        (1, replayed(Some(CallbackId::generate())), State::Answered),
        (1, forward(1, After::Arrived), State::Forwarded),
    ]);
}

#[test]
fn a_states_name_parses_to_the_state() {
    for state in State::ALL {
        assert_eq!(State::named(state.as_str()), Some(state));
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let next = select(vec![
        After::Arrived,
        After::Retry { wait_ms: 1 },
        After::Dead(reason()),
    ]);
    let event = (0..12_u8, 1_u32.., next).prop_map(|(kind, number, next)| match kind {
        0 => accepted(),
        1 => Event::Delivering { attempt: number },
        2 => Event::Attempted(attempt(number, next)),
        3 => answered(),
        4 => forward(number, next),
        5 => Event::Dead(reason()),
        6 => Event::AnswerDead {
            callback_id: CallbackId::generate(),
            reason: reason(),
        },
        7 => waiting(None, number),
        8 => Event::Cancelled {},
        9 => Event::Overdue {},
        10 => delivered(Some(i64::from(number % 10))),
        _ => replayed(None),
    });
    (0_u32..4, event).prop_map(|(replay_count, event)| entry(replay_count, event))
}

proptest! {
    #[test]
    fn order_and_repetition_change_nothing(
        entries in proptest::collection::vec(any_entry(), 1..20),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        seed: u64,
    ) {
        use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
        let mut other = entries.clone();
        other.extend(again.iter().map(|index| index.get(&entries).clone()));
        other.shuffle(&mut SmallRng::seed_from_u64(seed));
        prop_assert_eq!(State::of(&entries), State::of(&other));
        let greatest = |entries: &[Entry]| entries.iter().map(Entry::position).max();
        prop_assert_eq!(greatest(&entries), greatest(&other));
    }

    #[test]
    fn a_rank_has_one_state(one in any_entry(), other in any_entry()) {
        let (one, other) = (one.position(), other.position());
        prop_assert!(one.rank >= 0);
        prop_assert!(one.rank != other.rank || one.state == other.state);
    }

    #[test]
    fn a_later_round_outranks_every_earlier_one(early in any_entry(), late in any_entry()) {
        prop_assume!(early.replay_count < late.replay_count);
        prop_assert!(early.position() < late.position());
    }

    #[test]
    fn an_entry_reads_back_unchanged(entry in any_entry()) {
        let json = serde_json::to_string(&entry).unwrap();
        let read: Entry = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), json);
        prop_assert_eq!(read.position(), entry.position());
    }
}

#[test]
fn a_long_answer_is_kept_up_to_the_limit_and_marked() {
    let kept = |json: &str, max_bytes| {
        let json = RawValue::from_string(json.to_owned()).unwrap();
        serde_json::to_string(&KeptAnswer::of(&json, max_bytes)).unwrap()
    };
    let whole = r#"{"response_data":{"n":1.10}}"#;
    assert_eq!(kept(r#"{"n":1.10}"#, 10), whole);
    let cut = r#"{"truncated_response_data":{"head":"{\"n\":1.10","bytes":10}}"#;
    assert_eq!(kept(r#"{"n":1.10}"#, 9), cut);
    // Before the character that does not fit.
    let cut = r#"{"truncated_response_data":{"head":"\"a","bytes":5}}"#;
    assert_eq!(kept("\"a\u{e9}\"", 3), cut);
    let nothing = r#"{"truncated_response_data":{"head":"","bytes":4}}"#;
    assert_eq!(kept("null", 0), nothing);
}

#[test]
fn an_answer_of_an_earlier_version_has_no_content() {
    let id = "cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    let read = |json: String| match serde_json::from_str(&json).unwrap() {
        Event::Answered { content, .. } => content,
        event => panic!("{event:?}"),
    };
    let old = read(format!(r#"{{"answered":{{"callback_id":"{id}"}}}}"#));
    assert!(old.is_none(), "{old:?}");
    let new = r#"{"response_data":[1.0,1e400]}"#;
    let read = read(format!(
        r#"{{"answered":{{"callback_id":"{id}","content":{new}}}}}"#
    ));
    assert_eq!(serde_json::to_string(&read).unwrap(), new);
}

/// An entry of an inbound message.
fn inbound(replay_count: u32, event: Event) -> Entry {
    Entry {
        kind: MessageKind::Inbound,
        ..entry(replay_count, event)
    }
}

#[test]
fn an_inbound_message_is_forwarded_or_dead() {
    let data = RawValue::from_string("1".to_owned()).unwrap();
    let received = Event::Received(Some(Box::new(KeptAnswer::of(&data, 10))));
    let retry = After::Retry { wait_ms: 1000 };
    let life = [
        (inbound(0, received), State::Queued),
        (
            inbound(0, Event::Attempted(attempt(1, retry))),
            State::Retrying,
        ),
        (inbound(0, waiting(None, 1)), State::Waiting),
        (inbound(0, Event::Dead(reason())), State::Dead),
        (inbound(1, replayed(None)), State::Replayed),
        (
            inbound(1, Event::Attempted(attempt(1, After::Arrived))),
            State::Forwarded,
        ),
    ];
    let mut greatest = None;
    for (entry, state) in life {
        let position = entry.position();
        assert_eq!(position.state, state);
        assert!(greatest < Some(position), "{state:?}");
        assert_eq!(MessageKind::of_rank(position.rank), MessageKind::Inbound);
        greatest = Some(position);
    }
}

/// Other versions read the same queues.
#[test]
fn an_outbound_entry_is_queued_as_before() {
    let stored = serde_json::to_string(&entry(0, replayed(None))).unwrap();
    assert!(!stored.contains("kind"), "{stored}");
    let read: Entry = serde_json::from_str(&stored).unwrap();
    assert_eq!(read.kind, MessageKind::Outbound);
    let stored = serde_json::to_string(&inbound(0, replayed(None))).unwrap();
    let read: Entry = serde_json::from_str(&stored).unwrap();
    assert_eq!(read.kind, MessageKind::Inbound);
}
