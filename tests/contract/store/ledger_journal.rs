//! Recording and reading a message's history.

use roundtrip_model::{Entry, Event, State, decision::DeadKind, journal::After};

use super::{
    Harness,
    samples::{
        accepted, at, content, entry, found, life, message_id, reason, record, state, texts, tried,
    },
};
use roundtrip_store::{FIRST_ENTRIES, MAX_ENTRIES};

/// Every kind of entry reads back as it was recorded, in the order of time.
pub(crate) async fn a_timeline_is_what_was_recorded(harness: &impl Harness) {
    let store = &**harness.store();
    let id = message_id(0);
    let entries = life(id, 0);
    record(store, &entries).await;

    let (message, timeline) = found(store, &id).await;
    assert_eq!(texts(&timeline), texts(&entries));
    assert_eq!(message.message_id, id);
    assert_eq!(message.channel_id.as_str(), "c");
    assert_eq!(message.session_id.as_str(), "s");
    assert_eq!(message.state, State::Forwarded);
    assert_eq!(message.replay_count, 1);
    assert_eq!(message.updated_at, entries[entries.len() - 1].at);
}

/// In any order, in any number of calls, and with repeated entries.
pub(crate) async fn entries_in_any_order_and_twice_lead_to_the_same(harness: &impl Harness) {
    let store = &**harness.store();
    for (number, (stride, call)) in [(1, 1), (2, 3), (3, 2), (4, 11), (5, 4), (7, 5), (10, 1)]
        .into_iter()
        .enumerate()
    {
        let beginning = 1000 * i64::try_from(number).expect("a few");
        let id = message_id(beginning);
        let entries = life(id, beginning);
        // Their number is a prime, so every stride visits all of them.
        let order = (1..=entries.len()).map(|index| index * stride % entries.len());
        let mixed: Vec<Entry> = order.map(|index| entries[index].clone()).collect();
        for some in mixed.chunks(call) {
            record(store, some).await;
        }
        record(store, &mixed[3..8]).await;
        let twice: Vec<Entry> = mixed.iter().rev().chain(&mixed).cloned().collect();
        record(store, &twice).await;

        let (message, timeline) = found(store, &id).await;
        assert_eq!(texts(&timeline), texts(&entries), "{stride} {call}");
        assert_eq!(message.state, State::Forwarded, "{stride} {call}");
        assert_eq!(message.replay_count, 1, "{stride} {call}");
        let last = entries[entries.len() - 1].at;
        assert_eq!(message.updated_at, last, "{stride} {call}");
        assert!(message.content.is_some(), "{stride} {call}");
    }
}

/// At every point of a message's life, and after a late entry.
pub(crate) async fn the_state_is_the_greatest_position(harness: &impl Harness) {
    let store = &**harness.store();
    let id = message_id(0);
    let mut so_far = Vec::new();
    for entry in life(id, 0) {
        record(store, std::slice::from_ref(&entry)).await;
        so_far.push(entry);
        assert_eq!(Some(state(store, &id).await), State::of(&so_far));
    }

    // Later by the clock, but from before the replay.
    let retry = After::Retry { wait_ms: 5000 };
    record(store, &[entry(id, 0, 60_000, tried(9, retry))]).await;
    let (message, _) = found(store, &id).await;
    assert_eq!(message.state, State::Forwarded);
    assert_eq!(message.updated_at, at(60_000));
}

/// Several recorders may write the same entries concurrently.
pub(crate) async fn of_many_records_of_the_same_entries_one_counts(harness: &impl Harness) {
    let (one, other) = (harness.store(), harness.second_store().await);
    let id = message_id(0);
    let entries = life(id, 0);
    let mut backwards = entries.clone();
    backwards.reverse();
    tokio::join!(
        record(&**one, &entries),
        record(&*other, &backwards),
        record(&**one, &backwards),
        record(&*other, &entries),
    );
    for store in [one, &other] {
        let (message, timeline) = found(&**store, &id).await;
        assert_eq!(texts(&timeline), texts(&entries));
        assert_eq!(message.state, State::Forwarded);
    }
}

/// As a recorder writes them: entries of many messages, mixed, in one call.
pub(crate) async fn entries_of_many_messages_are_recorded_in_one_call(harness: &impl Harness) {
    let store = &**harness.store();
    record(store, &[]).await;
    let messages: Vec<_> = (0..100).map(message_id).collect();
    let mut entries = Vec::new();
    for event in 0..5 {
        for (millis, id) in (0..).zip(&messages) {
            // Each message stops at a different point.
            let life = life(*id, millis);
            let last = usize::try_from(millis).expect("a few") % 5;
            entries.extend(life.into_iter().nth(event).filter(|_| event <= last));
        }
    }
    record(store, &entries).await;

    for (millis, id) in (0..).zip(&messages) {
        let (message, timeline) = found(store, id).await;
        let own = |entry: &&Entry| entry.message_id == Some(*id);
        let expected: Vec<Entry> = entries.iter().filter(own).cloned().collect();
        assert_eq!(texts(&timeline), texts(&expected));
        assert_eq!(Some(message.state), State::of(&expected));
        assert_eq!(message.updated_at, at(millis + millis % 5));
    }
}

/// Entries of the same millisecond are in the order of their ids.
pub(crate) async fn entries_of_one_time_stand_by_their_ids(harness: &impl Harness) {
    let store = &**harness.store();
    let id = message_id(0);
    let delivering = |attempt| entry(id, 0, 5, Event::Delivering { attempt });
    let mut entries: Vec<Entry> = (1..20).map(delivering).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.entry_id));
    record(store, &entries).await;
    entries.reverse();
    assert_eq!(texts(&found(store, &id).await.1), texts(&entries));
}

/// A timeline of any length is bounded, and shows its beginning and its end.
pub(crate) async fn a_long_timeline_shows_its_beginning_and_its_end(harness: &impl Harness) {
    let store = &**harness.store();
    let id = message_id(0);
    let mut entries = vec![entry(id, 0, 0, accepted("1"))];
    let retry = || After::Retry { wait_ms: 1 };
    let attempts = u32::try_from(MAX_ENTRIES).expect("a few") + 50;
    entries.extend((1..=attempts).map(|number| {
        let attempted = tried(number, retry());
        entry(id, 0, i64::from(number), attempted)
    }));
    for some in entries.chunks(500) {
        record(store, some).await;
    }
    let (message, timeline) = found(store, &id).await;
    let latest = entries.len() - (MAX_ENTRIES - FIRST_ENTRIES);
    let (first, latest) = (&entries[..FIRST_ENTRIES], &entries[latest..]);
    assert_eq!(texts(&timeline), [texts(first), texts(latest)].concat());
    assert_eq!(message.state, State::Retrying);
    assert!(message.content.is_some());
}

/// Also if it arrives after everything else. The JSON is kept byte by byte.
pub(crate) async fn content_that_arrives_last_is_stored(harness: &impl Harness) {
    let store = &**harness.store();
    let long = format!("\"{}\"", "long ".repeat(100_000));
    for (millis, json) in (0..).zip([
        r#"{"b": 1.0, "a" :123456789012345678901234567890, "a":"\u0000\ud83d\ude80 é🚀" , "$x.y": null}"#,
        "[1e400]",
        "false",
        &long,
    ]) {
        let id = message_id(millis);
        let attempted = tried(1, After::Arrived);
        record(store, &[entry(id, 0, millis + 10, attempted)]).await;
        assert!(found(store, &id).await.0.content.is_none());

        record(store, &[entry(id, 0, millis, accepted(json))]).await;
        let (message, timeline) = found(store, &id).await;
        assert_eq!(message.state, State::Delivered);
        assert_eq!(message.updated_at, at(millis + 10));
        let content = content(&message);
        assert_eq!(content.message.get(), json);
        assert_eq!(content.response_url, "http://gateway/webhook-response");
        let Event::Accepted(Some(content)) = &timeline[0].event else {
            panic!("{timeline:?}");
        };
        assert_eq!(content.message.get(), json);
    }
}

/// A message without entries does not exist.
pub(crate) async fn an_unknown_message_has_no_record(harness: &impl Harness) {
    let store = &**harness.store();
    let dead = Event::Dead(reason(DeadKind::TooOld));
    record(store, &[entry(message_id(0), 0, 0, dead)]).await;
    let unknown = store.message(&message_id(1)).await.expect("an answer");
    assert!(unknown.is_none(), "{unknown:?}");
    assert_eq!(state(store, &message_id(0)).await, State::Dead);
}
