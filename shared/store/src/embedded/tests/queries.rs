//! Every filter has an index: no query of the ledger walks a whole table, and none that is limited to
//! channels walks others'.

use roundtrip_model::{MessageId, State, decision::DeadKind};
use rstest::rstest;
use time::macros::datetime;

use super::*;
use crate::{Cursor, DeadFilter, DeadQueue, Detail, Direction, MessageFilter, Sort, SortField};

/// How SQLite would look for it, a line for each table.
async fn plan(sql: String, conditions: rows::Conditions) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(path, TIMEOUT).await.unwrap();
    let explained = store.file.run(move |connection, _| {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .map_err(away)?;
        let steps = statement
            .query_map(rusqlite::params_from_iter(&conditions.values), |row| {
                row.get::<_, String>("detail")
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .map_err(away)?;
        Ok(steps.join("\n"))
    });
    explained.await.unwrap()
}

fn messages() -> MessageFilter {
    MessageFilter::default()
}

#[rstest]
#[case::session(MessageFilter { session: "s".parse().ok(), ..messages() }, "messages_by_session")]
#[case::channel(MessageFilter { channel: "c".parse().ok(), ..messages() }, "messages_by_channel")]
#[case::state(MessageFilter { state: Some(State::Dead), ..messages() }, "messages_by_state")]
#[case::both(
    MessageFilter { channel: "c".parse().ok(), state: Some(State::Dead), ..messages() },
    "messages_by_channel_and_state"
)]
#[case::ids(MessageFilter { message_ids: Some(vec![MessageId::generate()]), ..messages() }, "autoindex_messages")]
#[case::time(MessageFilter { since: Some(datetime!(2026-01-01 0:00 UTC)), ..messages() }, "autoindex_messages")]
#[tokio::test]
async fn messages_are_found_by_an_index(#[case] filter: MessageFilter, #[case] index: &str) {
    let conditions = journal::conditions(&filter);
    let plan = plan(
        journal::page_sql(&conditions, 100, Detail::Outline),
        conditions,
    )
    .await;
    assert!(plan.contains(index), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

fn letters() -> DeadFilter {
    DeadFilter::default()
}

#[rstest]
#[case::session(DeadFilter { session: "s".parse().ok(), ..letters() }, "dead_letters_by_session")]
#[case::channel(DeadFilter { channel: "c".parse().ok(), ..letters() }, "dead_letters_by_channel")]
#[case::queue(DeadFilter { queue: Some(DeadQueue::Callbacks), ..letters() }, "dead_letters_by_queue")]
#[case::reason(DeadFilter { reason: Some(DeadKind::TooOld), ..letters() }, "dead_letters_by_reason")]
#[case::time(DeadFilter { since: Some(datetime!(2026-01-01 0:00 UTC)), ..letters() }, "dead_letters_by_id")]
#[case::all(letters(), "dead_letters_by_id")]
#[tokio::test]
async fn dead_letters_are_found_by_an_index(#[case] filter: DeadFilter, #[case] index: &str) {
    let conditions = dead_letters::conditions(&filter);
    let plan = plan(dead_letters::page_sql(&conditions, 100), conditions).await;
    assert!(plan.contains(index), "{plan}");
}

#[tokio::test]
async fn dead_letters_of_some_time_are_counted_by_an_index() {
    let filter = DeadFilter {
        since: Some(datetime!(2026-01-01 0:00 UTC)),
        ..letters()
    };
    let conditions = dead_letters::conditions(&filter);
    let plan = plan(dead_letters::count_sql(&conditions), conditions).await;
    assert!(plan.contains("dead_letters_by_time"), "{plan}");
}

#[rstest]
#[case::by_id(SortField::ChannelId)]
#[case::by_name(SortField::ChannelName)]
#[tokio::test]
async fn of_channels_only_those_that_a_query_is_limited_to_are_read(#[case] field: SortField) {
    let direction = Direction::Ascending;
    let cursor = Cursor {
        value: "a".to_owned(),
        channel_id: "b".to_owned(),
    };
    for cursor in [None, Some(cursor)] {
        let request = PageRequest {
            sort: Sort { field, direction },
            cursor,
            ..PageRequest::default()
        };
        let sql = scan::own_sql(&request);
        let mut conditions = rows::Conditions::default();
        let parameters = sql.matches('?').map(|_| "[]".to_owned().into());
        conditions.values.extend(parameters);
        let plan = plan(sql, conditions).await;
        let by_id = "INDEX sqlite_autoindex_channels_1 (channel_id=?)";
        assert!(plan.contains(by_id), "{plan}");
        assert!(!plan.contains("SCAN channels"), "{plan}");
    }
}
