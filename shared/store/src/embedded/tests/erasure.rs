//! Nothing of an erased session stays in the file, wherever SQLite has moved its rows.

use bytes::Bytes;
use roundtrip_model::{
    DeadReason, Entry, EntryId, Event, MessageId, MessageKind, decision::DeadKind, millis,
    waiting::WaitReason,
};
use serde_json::json;
use time::{OffsetDateTime, macros::datetime};

use super::*;
use crate::{
    AnswerFilter, DeadLetter, DeadLetters, DeadQueue, Erasures, Journal, KeptAnswers,
    WaitingMessage, WaitingRoom,
};

const BEGINNING: OffsetDateTime = datetime!(2026-03-01 0:00 UTC);
const SESSIONS: u32 = 40;
const MESSAGES: u32 = 25;

/// The session's own text, in as many copies as it takes to find any part of it.
fn text(session: u32, number: u32) -> String {
    let copies = (session * 7919 + number * 104_729) % 500 + 1;
    mark(session).repeat(copies as usize)
}

fn mark(session: u32) -> String {
    format!("[{session:03}]")
}

fn message_id(session: u32, number: u32) -> MessageId {
    let millis = millis::of(BEGINNING) + i64::from(number);
    let id = format!("msg_{millis:012x}700080000000{session:08x}");
    id.parse().unwrap()
}

/// The entries of a message, and of an answer without a message.
fn entries(session: u32, number: u32) -> [Entry; 8] {
    let text = text(session, number);
    let callback_id = format!("cb_{:032x}", session * MESSAGES + number);
    let alone_id = message_id(session, number).to_string();
    let alone_id = alone_id.replace("msg_", "cb_");
    let attempted = |attempt: u32| {
        json!({
            "attempt": attempt, "status": 503, "excerpt": text.repeat(attempt as usize),
            "duration_ms": 1, "next": {"retry": {"wait_ms": 1}}
        })
    };
    let of_answer = |attempt: u32| {
        let attempt = attempted(attempt);
        json!({"forward_attempted": {"callback_id": alone_id, "attempt": attempt}})
    };
    let entry = |is_alone: bool, event| Entry {
        entry_id: EntryId::generate(),
        message_id: (!is_alone).then(|| message_id(session, number)),
        channel_id: "c".parse().ok().filter(|_| !is_alone),
        session_id: format!("session {session}").parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at: BEGINNING,
        event: serde_json::from_value::<Event>(event).unwrap(),
    };
    let answered =
        |id: &str| json!({"answered": {"callback_id": id, "content": {"response_data": text}}});
    [
        entry(true, of_answer(1)),
        entry(
            false,
            json!({"accepted": {"message": text, "response_url": "http://h/"}}),
        ),
        entry(true, answered(&alone_id)),
        entry(false, json!({"attempted": attempted(1)})),
        entry(true, of_answer(2)),
        entry(false, answered(&callback_id)),
        entry(true, of_answer(3)),
        entry(false, json!({"dead": {"kind": "refused", "detail": text}})),
    ]
}

fn holds(folder: &tempfile::TempDir, session: u32) -> bool {
    let mark = mark(session).into_bytes();
    let files = std::fs::read_dir(folder.path()).unwrap();
    files.into_iter().any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes.windows(mark.len()).any(|part| part == mark)
    })
}

#[tokio::test]
async fn no_part_of_an_erased_session_stays_among_the_rows_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("store.db"), TIMEOUT)
        .await
        .unwrap();
    let all = || (0..MESSAGES).flat_map(|number| (0..SESSIONS).map(move |one| (one, number)));
    // The entries of a message come in several calls, so that they are inserted between others.
    let entries: Vec<[Entry; 8]> = all().map(|(one, number)| entries(one, number)).collect();
    for kind in 0..8 {
        for some in entries.chunks(100) {
            let some: Vec<Entry> = some.iter().map(|entries| entries[kind].clone()).collect();
            store.record(&some).await.unwrap();
        }
    }
    for session in 0..SESSIONS {
        let id = message_id(session, MESSAGES);
        let (at, body) = (BEGINNING, Bytes::from(text(session, 1)));
        let letter = DeadLetter {
            dead_id: format!("{id}.0"),
            queue: DeadQueue::Outbound,
            webhook_id: id.to_string(),
            message_id: Some(id),
            channel_id: Some("c".parse().unwrap()),
            session_id: Some(format!("session {session}").parse().unwrap()),
            reason: DeadReason::new(DeadKind::Refused, text(session, 2)),
            attempts: 1,
            replay_count: 0,
            accepted_at: at,
            dead_at: at,
            body: body.clone(),
            contents_erased_at: None,
        };
        store.insert(&[letter]).await.unwrap();
        let waiting = WaitingMessage {
            id: id.to_string(),
            channel_id: "c".parse().unwrap(),
            session_id: format!("session {session}").parse().unwrap(),
            replay_count: 0,
            attempts: 0,
            accepted_at: at,
            due_at: at,
            reason: WaitReason::Scheduled,
            expires_at: None,
            body,
        };
        store.put_waiting(&[waiting]).await.unwrap();
    }
    // In an order that leaves rows of others between the erased ones.
    for step in 0..SESSIONS {
        let session = step * 7 % SESSIONS;
        assert!(holds(&folder, session), "{session}");
        let id = format!("session {session}").parse().unwrap();
        store.request_erasure(&id, NOW).await.unwrap();
        for erasure in store.unfinished_erasures(1).await.unwrap() {
            store.erase_session(&erasure, NOW).await.unwrap();
        }
        assert!(!holds(&folder, session), "{session}");
    }
}

/// Such a file has the mark, and no column for what became of an answer.
#[tokio::test]
async fn a_file_of_version_14_keeps_its_answers_and_their_marks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let connection = Connection::open(&path).unwrap();
    for step in &SCHEMA.steps[..14] {
        connection.execute_batch(step).unwrap();
    }
    let pragma = |name, value| connection.pragma_update(None, name, value).unwrap();
    pragma("application_id", SCHEMA.application_id);
    pragma("user_version", 14);
    let row = "INSERT INTO answers (callback_id, message_id, channel_id, session_id, at, content,
            erased_at)
        VALUES (?1, ?2, 'c', 's', 0, ?3, ?4)";
    let message = message_id(0, 0).to_string();
    let ids = [1, 2].map(|number| format!("cb_{number:032x}"));
    let values = [(r#"{"response_data":1}"#, None), ("", Some(5))];
    for (id, (content, erased_at)) in ids.iter().zip(values) {
        let values = (id, &message, content, erased_at);
        connection.execute(row, values).unwrap();
    }
    drop(connection);
    let store = SqliteStore::open(path, TIMEOUT).await.unwrap();
    let all = AnswerFilter::default();
    let answers = store.kept_answers(&all, None, 10).await.unwrap();
    let found = answers.iter().map(|one| {
        (
            one.content.is_some(),
            one.contents_erased_at.map(millis::of),
        )
    });
    assert_eq!(found.collect::<Vec<_>>(), [(true, None), (false, Some(5))]);
}

const NOW: OffsetDateTime = datetime!(2026-03-02 0:00 UTC);
