//! The events that the followers of a session get.

use roundtrip_model::{
    CallbackId, ChannelId, Clock, Entry, Event, MessageId, MessageKind, SessionId, State,
    SystemClock, decision::DeadKind, journal::KeptAnswer,
};
use roundtrip_store::{EventCursor, SessionEvent, SessionEventKind, SharedStore};
use serde_json::value::RawValue;

use super::{
    Harness,
    ledger_erasures::{erase, request},
    samples::{accepted, delivered, entry, message_id, reason, record},
};

fn session() -> SessionId {
    "s".parse().expect("a session id")
}

fn kept(json: &str) -> KeptAnswer {
    KeptAnswer::ResponseData(RawValue::from_string(json.to_owned()).expect("JSON"))
}

fn answered(of: MessageId, id: CallbackId, millis: i64) -> Entry {
    let content = Some(kept("\"yes\""));
    let event = Event::Answered {
        callback_id: id,
        content,
    };
    entry(of, 0, millis, event)
}

fn inbound(id: MessageId, millis: i64) -> Entry {
    let event = Event::Received(Some(Box::new(kept("\"hello\""))));
    Entry {
        kind: MessageKind::Inbound,
        ..entry(id, 0, millis, event)
    }
}

/// The events after the cursor, on pages of one event.
async fn events(
    store: &SharedStore,
    channels: Option<&[ChannelId]>,
    mut after: Option<EventCursor>,
) -> Vec<SessionEvent> {
    let session = session();
    let mut all = Vec::new();
    loop {
        let page = store.session_events(&session, channels, after.as_ref(), 1);
        let page = page.await.expect("a page of events");
        assert!(page.len() <= 1);
        let Some(event) = page.into_iter().next() else {
            return all;
        };
        assert!(after.is_none_or(|after| after < event.cursor));
        after = Some(event.cursor.clone());
        all.push(event);
    }
}

fn kinds(events: &[SessionEvent]) -> Vec<SessionEventKind> {
    events.iter().map(|event| event.kind).collect()
}

/// Answers with and without a message, inbound messages, and each end. Nothing else is an event.
pub(crate) async fn answers_inbound_messages_and_ends_are_events(harness: &impl Harness) {
    let store = harness.store();
    let sent = message_id(0);
    let (first, second) = (CallbackId::generate(), CallbackId::generate());
    let tokenless = Entry {
        message_id: None,
        channel_id: None,
        ..answered(sent, second, 4)
    };
    let ended = SessionEventKind::Ended;
    let steps = [
        (entry(sent, 0, 0, accepted("1")), None),
        (entry(sent, 0, 1, delivered(Some(2))), None),
        (
            entry(sent, 0, 2, Event::Overdue {}),
            Some(ended(State::Overdue)),
        ),
        (
            answered(sent, first, 3),
            Some(SessionEventKind::Answer(first)),
        ),
        (tokenless, Some(SessionEventKind::Answer(second))),
        (inbound(message_id(5), 5), Some(SessionEventKind::Inbound)),
        (
            entry(sent, 1, 6, Event::Dead(reason(DeadKind::Refused))),
            Some(ended(State::Dead)),
        ),
        (
            entry(sent, 2, 7, Event::Cancelled {}),
            Some(ended(State::Cancelled)),
        ),
    ];
    for (entry, _) in &steps {
        record(&**store, std::slice::from_ref(entry)).await;
    }
    let mut seen = events(store, None, None).await;
    seen.sort_by_key(|event| event.at);
    let shown: Vec<_> = seen
        .iter()
        .map(|event| {
            (
                event.at,
                event.message_id,
                event.channel_id.clone(),
                event.kind,
            )
        })
        .collect();
    let expected: Vec<_> = steps
        .into_iter()
        .filter_map(|(entry, kind)| Some((entry.at, entry.message_id, entry.channel_id, kind?)))
        .collect();
    assert_eq!(shown, expected);
    for event in seen {
        let has_content = !matches!(event.kind, SessionEventKind::Ended(_));
        assert_eq!(event.content.is_some(), has_content, "{event:?}");
        assert!(event.contents_erased_at.is_none());
    }
}

/// A recorder that was stopped stores an answer after later ones.
pub(crate) async fn an_event_that_is_stored_late_is_found_by_continuing(harness: &impl Harness) {
    let store = harness.store();
    let (early, late) = (CallbackId::generate(), CallbackId::generate());
    record(&**store, &[answered(message_id(0), late, 3_600_000)]).await;
    let seen = events(store, None, None).await;
    let last = seen.last().expect("an event").cursor.clone();
    record(&**store, &[answered(message_id(0), early, 1)]).await;
    let continued = store.continued(last, SystemClock.now());
    let new = events(store, None, Some(continued)).await;
    assert!(
        kinds(&new).contains(&SessionEventKind::Answer(early)),
        "{new:?}"
    );
}

/// A queue delivers an entry again, and a channel repeats its answer.
pub(crate) async fn an_event_that_is_stored_again_keeps_its_place(harness: &impl Harness) {
    let store = harness.store();
    let entries = [
        answered(message_id(0), CallbackId::generate(), 1),
        entry(message_id(0), 0, 2, Event::Dead(reason(DeadKind::Refused))),
        inbound(message_id(3), 3),
    ];
    record(&**store, &entries).await;
    let cursors = |events: &[SessionEvent]| -> Vec<EventCursor> {
        events.iter().map(|event| event.cursor.clone()).collect()
    };
    let before = cursors(&events(store, None, None).await);
    assert_eq!(before.len(), 3);
    for each in entries {
        record(&**store, &[each]).await;
    }
    assert_eq!(cursors(&events(store, None, None).await), before);
}

pub(crate) async fn a_follower_gets_only_the_callers_channels(harness: &impl Harness) {
    let store = harness.store();
    let own = CallbackId::generate();
    let others = Entry {
        channel_id: Some("other".parse().expect("a channel id")),
        ..answered(message_id(0), CallbackId::generate(), 1)
    };
    let without = Entry {
        message_id: None,
        channel_id: None,
        ..answered(message_id(0), CallbackId::generate(), 2)
    };
    let mine = answered(message_id(3), own, 3);
    let channels = [mine.channel_id.clone().expect("a channel")];
    record(&**store, &[others, without, mine]).await;
    let seen = events(store, Some(&channels), None).await;
    assert_eq!(kinds(&seen), [SessionEventKind::Answer(own)]);
}

pub(crate) async fn an_event_of_erased_contents_says_so(harness: &impl Harness) {
    let store = harness.store();
    record(
        &**store,
        &[
            answered(message_id(0), CallbackId::generate(), 1),
            inbound(message_id(2), 2),
        ],
    )
    .await;
    request(store, "s", 1_000).await;
    erase(store).await;
    for event in events(store, None, None).await {
        assert!(
            event.content.is_none() && event.contents_erased_at.is_some(),
            "{event:?}"
        );
    }
}
