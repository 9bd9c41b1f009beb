//! Every filter of the ledger has an index: no query scans a whole table. A query of channels sorts
//! none, and if it is limited to some channels it reads no others.

use std::{collections::BTreeSet, ops::Bound};

use roundtrip_model::{CallbackId, MessageId, State, SystemClock, decision::DeadKind};
use rstest::rstest;
use time::macros::datetime;

use super::*;
use crate::{
    AnswerFilter, ApiKeys, Cursor, DeadFilter, DeadQueue, Direction, MessageFilter, Sort,
    SortField, StateFilter, filter::Candidates,
};

/// For calls that must time out.
const SHORT: Duration = Duration::from_millis(400);

/// SQLite's query plan, one line for each table.
async fn plan(sql: String, values: Vec<rusqlite::types::Value>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(path, TIMEOUT).await.unwrap();
    let explained = store.run::<_, _, Unavailable>(move |connection| {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        let values = rusqlite::params_from_iter(&values);
        let steps = statement.query_map(values, |row| row.get::<_, String>("detail"))?;
        let steps: rusqlite::Result<Vec<_>> = steps.collect();
        Ok::<_, rusqlite::Error>(steps?.join("\n"))
    });
    explained.await.unwrap()
}

fn messages() -> MessageFilter {
    MessageFilter::default()
}

#[rstest]
#[case::session(MessageFilter { session: "s".parse().ok(), ..messages() }, "messages_by_session")]
#[case::channel(MessageFilter { channel: "c".parse().ok(), ..messages() }, "messages_by_channel")]
#[case::state(MessageFilter { state: Some(StateFilter::Is(State::Dead)), ..messages() }, "messages_by_state")]
#[case::both(
    MessageFilter { channel: "c".parse().ok(), state: Some(StateFilter::Is(State::Dead)), ..messages() },
    "messages_by_channel_and_state"
)]
#[case::ids(MessageFilter { message_ids: Some(vec![MessageId::generate()]), ..messages() }, "autoindex_messages")]
#[case::time(MessageFilter { since: Some(datetime!(2026-01-01 0:00 UTC)), ..messages() }, "autoindex_messages")]
#[tokio::test]
async fn messages_are_found_by_an_index(#[case] filter: MessageFilter, #[case] index: &str) {
    let conditions = journal::conditions(&filter);
    let plan = plan(conditions.ids_sql(100), conditions.values).await;
    assert!(plan.contains(index), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

#[tokio::test]
async fn unanswered_messages_are_found_by_an_index() {
    let values = vec![0.into(), 100.into()];
    let plan = plan(journal::UNANSWERED.to_owned(), values).await;
    assert!(plan.contains("messages_unanswered"), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

fn kept() -> AnswerFilter {
    AnswerFilter::default()
}

#[rstest]
#[case::session(AnswerFilter { session: "s".parse().ok(), ..kept() }, "answers_of_session")]
#[case::channel(AnswerFilter { channel: "c".parse().ok(), ..kept() }, "answers_of_channel")]
#[case::channels(AnswerFilter { channels: Some(own()), ..kept() }, "answers_of_channel")]
#[case::ids(AnswerFilter { callback_ids: Some(vec![CallbackId::generate()]), ..kept() }, "autoindex_answers")]
#[case::time(AnswerFilter { since: Some(datetime!(2026-01-01 0:00 UTC)), ..kept() }, "answers_by_time")]
#[case::all(kept(), "answers_by_time")]
#[tokio::test]
async fn answers_are_found_by_an_index(#[case] filter: AnswerFilter, #[case] index: &str) {
    let conditions = answers::conditions(&filter);
    let plan = plan(conditions.ids_sql(100), conditions.values).await;
    assert!(plan.contains(index), "{plan}");
}

#[tokio::test]
async fn the_answers_of_some_time_of_a_channel_are_found_in_order() {
    let filter = AnswerFilter {
        channel: "c".parse().ok(),
        since: Some(datetime!(2026-01-01 0:00 UTC)),
        ..kept()
    };
    let conditions = answers::conditions(&filter);
    let plan = plan(conditions.ids_sql(100), conditions.values).await;
    assert!(
        plan.contains("answers_of_channel (channel_id=? AND at>?"),
        "{plan}"
    );
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
    let plan = plan(conditions.ids_sql(100), conditions.values).await;
    assert!(plan.contains(index), "{plan}");
}

#[tokio::test]
async fn dead_letters_of_some_time_are_counted_by_an_index() {
    let filter = DeadFilter {
        since: Some(datetime!(2026-01-01 0:00 UTC)),
        ..letters()
    };
    let conditions = dead_letters::conditions(&filter);
    let plan = plan(conditions.count_sql(), conditions.values).await;
    assert!(plan.contains("dead_letters_by_time"), "{plan}");
}

/// The plans of the ids of these candidates, in every order, from the first page and from a cursor.
async fn plans_of_channels(candidates: Candidates) -> Vec<String> {
    let last = Cursor {
        value: "a".to_owned(),
        channel_id: "b".to_owned(),
    };
    let mut plans = Vec::new();
    for field in [SortField::ChannelId, SortField::ChannelName] {
        for direction in [Direction::Ascending, Direction::Descending] {
            for cursor in [None, Some(last.clone())] {
                let request = PageRequest {
                    sort: Sort { field, direction },
                    cursor,
                    ..PageRequest::default()
                };
                let scan::Ids { sql, values } = scan::Ids::of(&candidates, &request);
                let values = values.into_iter().map(Into::into).collect();
                plans.push(plan(sql, values).await);
            }
        }
    }
    plans
}

#[tokio::test]
async fn of_channels_only_those_that_a_query_is_limited_to_are_read() {
    let own = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    for plan in plans_of_channels(Candidates::Ids(own)).await {
        let by_id = "INDEX sqlite_autoindex_channels_1 (channel_id=?)";
        assert!(plan.contains(by_id), "{plan}");
        assert!(!plan.contains("SCAN channels"), "{plan}");
    }
}

#[rstest]
#[case::one_text(&["a"])]
#[case::some_texts(&["a", "b", "c"])]
#[tokio::test]
async fn channels_are_found_by_their_texts_in_order_and_without_sorting(#[case] texts: &[&str]) {
    for field in ["channel_name", "channel_tags"] {
        let texts = texts.iter().map(ToString::to_string).collect();
        for plan in plans_of_channels(Candidates::Texts(field, texts)).await {
            assert!(plan.contains("(field=? AND text=?"), "{plan}");
            assert!(!plan.contains("SCAN"), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}

#[tokio::test]
async fn all_channels_are_walked_in_order_and_without_sorting() {
    let all = Candidates::Range(Bound::Unbounded, Bound::Unbounded);
    for plan in plans_of_channels(all).await {
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}

fn own() -> Vec<ChannelId> {
    ["b", "a"].map(|id| id.parse().unwrap()).into()
}

#[rstest]
#[case::all(MessageFilter { channels: Some(own()), ..messages() })]
#[case::state(MessageFilter { channels: Some(own()), state: Some(StateFilter::Is(State::Dead)), ..messages() })]
#[case::time(MessageFilter { channels: Some(own()), since: Some(datetime!(2026-01-01 0:00 UTC)), ..messages() })]
#[tokio::test]
async fn of_messages_only_those_of_own_channels_are_looked_at(#[case] filter: MessageFilter) {
    let by_channel = "(channel_id=?";
    let conditions = journal::conditions(&filter);
    for sql in [conditions.ids_sql(100), conditions.count_sql()] {
        let plan = plan(sql, conditions.values.clone()).await;
        assert!(plan.contains("SEARCH messages USING"), "{plan}");
        assert!(plan.contains(by_channel), "{plan}");
        assert!(!plan.contains("SCAN messages"), "{plan}");
    }
}

#[rstest]
#[case::all(DeadFilter { channels: Some(own()), ..letters() })]
#[case::queue(DeadFilter { channels: Some(own()), queue: Some(DeadQueue::Callbacks), ..letters() })]
#[case::reason(DeadFilter { channels: Some(own()), reason: Some(DeadKind::TooOld), ..letters() })]
#[case::time(DeadFilter { channels: Some(own()), since: Some(datetime!(2026-01-01 0:00 UTC)), ..letters() })]
#[tokio::test]
async fn of_dead_letters_only_those_of_own_channels_are_looked_at(#[case] filter: DeadFilter) {
    let conditions = dead_letters::conditions(&filter);
    for sql in [conditions.ids_sql(100), conditions.count_sql()] {
        let plan = plan(sql, conditions.values.clone()).await;
        let by_channel = "INDEX dead_letters_by_channel (channel_id=?";
        assert!(plan.contains(by_channel), "{plan}");
        assert!(!plan.contains("SCAN dead_letters"), "{plan}");
    }
}

/// With a million messages for one channel, and a million channels.
#[rstest]
#[case::due(waiting::DUE.to_owned(), 5, "INDEX waiting_by_due_time (channel_id=? AND")]
#[case::next_due(waiting::NEXT_DUE.to_owned(), 1, "COVERING INDEX waiting_by_due_time (channel_id=?)")]
#[case::expired(waiting::EXPIRED.to_owned(), 3, "INDEX waiting_by_expiry (channel_id=? AND expires_at<?)")]
#[case::next_expiry(waiting::NEXT_EXPIRY.to_owned(), 1, "COVERING INDEX waiting_by_expiry (channel_id=?")]
#[case::made_due(waiting::MAKE_CHANNEL_DUE.to_owned(), 3, "COVERING INDEX waiting_retries (channel_id=? AND due_at>?)")]
#[case::counts(waiting::COUNTS.to_owned(), 1, "SEARCH waiting_counts USING PRIMARY KEY (channel_id=?)")]
#[case::oldest(waiting::COUNTS.to_owned(), 1, "COVERING INDEX waiting_by_reason (channel_id=? AND reason=?)")]
#[case::deferred(waiting::DEFER.to_owned(), 6, "INDEX sqlite_autoindex_waiting_1 (message_id=?)")]
#[case::removed(waiting::REMOVE_SETTLED.to_owned(), 3, "INDEX sqlite_autoindex_waiting_1 (message_id=?)")]
#[case::one_made_due(waiting::MAKE_MESSAGE_DUE.to_owned(), 2, "INDEX sqlite_autoindex_waiting_1 (message_id=?)")]
#[case::claimable(waiting::channels::CLAIMABLE.to_owned(), 2, "COVERING INDEX waiting_channels_by_time (look_at<?)")]
#[tokio::test]
async fn what_waits_is_read_by_an_index_and_without_sorting(
    #[case] sql: String,
    #[case] parameters: usize,
    #[case] index: &str,
) {
    let plan = plan(sql, vec![1.into(); parameters]).await;
    assert!(plan.contains(index), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

/// Occupies a query connection until it is interrupted.
fn occupied(store: &SqliteStore) -> impl Future<Output = Result<(), QueryError>> + use<> {
    let store = store.clone();
    async move {
        let until_interrupted =
            "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT n FROM endless)
             SELECT count(*) FROM endless";
        store
            .run_query(move |connection, _| connection.query_row(until_interrupted, [], |_| Ok(())))
            .await
    }
}

#[tokio::test]
async fn neither_reads_nor_writes_wait_for_queries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(path, TIMEOUT).await.unwrap();
    store.create(&channel("c")).await.unwrap();
    let queries: Vec<_> = (0..20).map(|_| tokio::spawn(occupied(&store))).collect();
    let some = store.get(&"c".parse().unwrap()).await;
    assert!(some.is_ok(), "{some:?}");
    store.ping().await.unwrap();
    store.create(&channel("d")).await.unwrap();
    store.active_keys(SystemClock.now()).await.unwrap();
    assert!(queries.iter().all(|query| !query.is_finished()));
    for query in queries {
        query.abort();
    }
}

/// Whenever its caller goes: also before the query's thread, or its statement, has begun.
#[tokio::test]
async fn a_query_without_a_caller_frees_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("store.db"), TIMEOUT);
    let store = store.await.unwrap();
    for _ in 0..100 {
        let mut query = Box::pin(occupied(&store));
        assert!(futures::poll!(&mut query).is_pending());
    }
    let read =
        |connection: &mut Connection, _| connection.query_row("SELECT 1", [], |row| row.get(0));
    let read: Result<i64, QueryError> = store.run_query(read).await;
    assert!(read.is_ok(), "{read:?}");
}

#[tokio::test]
async fn a_query_over_its_time_limit_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(path, SHORT).await.unwrap();
    // Repeated, to check that an interrupted query frees its connection.
    for _ in 0..3 {
        let both = tokio::join!(occupied(&store), occupied(&store));
        for ended in [both.0, both.1] {
            assert!(matches!(ended, Err(QueryError::TooCostly)), "{ended:?}");
        }
    }
    let third = tokio::join!(occupied(&store), occupied(&store), occupied(&store)).2;
    assert!(matches!(third, Err(QueryError::TooBusy)), "{third:?}");
}
