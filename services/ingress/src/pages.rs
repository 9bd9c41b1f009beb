//! Lists with pages.
//!
//! Invariant: a page has a cursor exactly if another page follows. To find out, a list reads one
//! row more than the page holds and drops it.

use roundtrip_store::MAX_PAGE;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{json::not_within, problem::Problem};

const DEFAULT_PAGE: u16 = 100;

/// The page size that the parameter `limit` asks for. It is taken as text, so that an error states
/// the bounds.
pub(crate) fn page_size(limit: Option<&str>) -> Result<u16, Problem> {
    limit
        .map_or(Some(DEFAULT_PAGE), |text| text.parse().ok())
        .filter(|limit| (1..=MAX_PAGE).contains(limit))
        .ok_or_else(|| Problem::invalid_field("limit", not_within(MAX_PAGE)))
}

/// The rows of a list under this name, and the cursor of the last one if another page follows.
pub(crate) struct Page<T, C> {
    name: &'static str,
    rows: Vec<T>,
    next_cursor: Option<C>,
}

impl<T, C> Page<T, C> {
    /// A page of rows that were read with a limit of one more.
    pub(crate) fn of(
        name: &'static str,
        mut rows: Vec<T>,
        limit: u16,
        cursor: impl Fn(&T) -> C,
    ) -> Self {
        let limit = usize::from(limit);
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        Self {
            name,
            next_cursor: rows.last().filter(|_| !is_last).map(cursor),
            rows,
        }
    }
}

impl<T: Serialize, C: Serialize> Serialize for Page<T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut page = serializer.serialize_map(Some(2))?;
        page.serialize_entry(self.name, &self.rows)?;
        page.serialize_entry("next_cursor", &self.next_cursor)?;
        page.end()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use bytes::Bytes;
    use roundtrip_model::{
        Clock, DeadReason, Entry, EntryId, Event, MessageId, MessageKind, SystemClock,
        decision::DeadKind, journal::Content,
    };
    use roundtrip_store::{DeadLetter, DeadQueue};
    use serde_json::{Value, json, value::RawValue};
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    use super::MAX_PAGE;
    use crate::tests::Bench;

    /// A bench with this many messages and a dead letter for each; returns the messages' ids.
    async fn bench_of(messages: u16) -> (Bench, Vec<MessageId>) {
        let bench = Bench::new().await;
        let ids: Vec<_> = (0..messages).map(|_| MessageId::generate()).collect();
        let entry = |id: &MessageId| Entry {
            entry_id: EntryId::generate(),
            message_id: Some(*id),
            channel_id: "c".parse().ok(),
            session_id: "s".parse().unwrap(),
            kind: MessageKind::Outbound,
            replay_count: 0,
            at: SystemClock.now(),
            event: Event::Accepted(Some(Box::new(Content {
                message: RawValue::from_string("1".to_owned()).unwrap(),
                response_url: "http://h/".to_owned(),
                answer_within_ms: None,
            }))),
        };
        let entries: Vec<_> = ids.iter().map(entry).collect();
        bench.store.record(&entries).await.unwrap();
        let letter = |id: &MessageId| DeadLetter {
            dead_id: format!("{id}:0"),
            queue: DeadQueue::Outbound,
            webhook_id: id.to_string(),
            message_id: Some(*id),
            channel_id: Some("c".parse().unwrap()),
            session_id: Some("s".parse().unwrap()),
            reason: DeadReason::new(DeadKind::Refused, "no"),
            attempts: 1,
            replay_count: 0,
            accepted_at: SystemClock.now(),
            dead_at: SystemClock.now(),
            body: Bytes::new(),
            contents_erased_at: None,
        };
        let letters: Vec<_> = ids.iter().map(letter).collect();
        bench.store.insert(&letters).await.unwrap();
        (bench, ids)
    }

    async fn page(bench: &Bench, method: Method, path: &str) -> Value {
        let answer = bench.request(method, path, &[], "{}").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    #[tokio::test]
    async fn a_full_last_page_has_no_cursor() {
        let (bench, _) = bench_of(4).await;
        for number in 1..4 {
            bench.add_channel(&format!("c{number}")).await;
        }
        for name in ["a", "b", "c", "d"] {
            let key = json!({"name": name, "role": "viewer"}).to_string();
            assert_eq!(bench.post("/api-keys", &[], key).await.status, 201);
        }
        for (method, path, list) in [
            (Method::GET, "/messages", "messages"),
            (Method::GET, "/dead-letters", "dead_letters"),
            (Method::GET, "/api-keys", "api_keys"),
            (Method::POST, "/channels", "channels"),
        ] {
            let first = page(&bench, method.clone(), &format!("{path}?limit=2")).await;
            assert_eq!(first[list].as_array().unwrap().len(), 2, "{path}");
            let cursor = first["next_cursor"].as_str().unwrap();
            let path = format!("{path}?limit=2&cursor={cursor}");
            let last = page(&bench, method, &path).await;
            assert_eq!(last[list].as_array().unwrap().len(), 2, "{path}");
            assert_eq!(last["next_cursor"], Value::Null, "{path}");
        }
    }

    #[tokio::test]
    async fn the_longest_page_has_a_cursor_where_another_follows() {
        let (bench, _) = bench_of(MAX_PAGE + 1).await;
        for (path, list) in [("/messages", "messages"), ("/dead-letters", "dead_letters")] {
            let path = format!("{path}?limit={MAX_PAGE}");
            let first = page(&bench, Method::GET, &path).await;
            assert_eq!(first[list].as_array().unwrap().len(), usize::from(MAX_PAGE));
            let cursor = first["next_cursor"].as_str().unwrap();
            let last = page(&bench, Method::GET, &format!("{path}&cursor={cursor}")).await;
            assert_eq!(last[list].as_array().unwrap().len(), 1);
            assert_eq!(last["next_cursor"], Value::Null);
        }
    }

    #[tokio::test]
    async fn messages_are_listed_by_the_time_that_they_show() {
        let (bench, ids) = bench_of(3).await;
        let listed = page(&bench, Method::GET, "/messages").await["messages"].clone();
        let times: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|message| {
                let at = message["accepted_at"].as_str().unwrap();
                OffsetDateTime::parse(at, &Rfc3339).unwrap()
            })
            .collect();
        assert!(
            times.is_sorted_by(|earlier, later| earlier >= later),
            "{times:?}"
        );
        let path = format!("/channel/message/{}", ids[2]);
        let one = page(&bench, Method::GET, &path).await;
        assert_eq!(one["accepted_at"], listed[0]["accepted_at"]);
    }

    #[tokio::test]
    async fn a_replay_of_unknown_ids_is_404() {
        let (bench, _) = bench_of(1).await;
        let unknown = MessageId::generate();
        for path in ["/messages/replay", "/dead-letters/replay"] {
            let refused = bench.post(path, &[], json!({"ids": [unknown]}).to_string());
            let refused = refused.await;
            assert_eq!(refused.status, 404, "{path}: {}", refused.text);
            assert_eq!(refused.json()["type"], "urn:roundtrip:problem:unknown-ids");
            let asked = json!({"ids": [unknown], "dry_run": true});
            let asked = bench.post(path, &[], asked.to_string()).await;
            assert_eq!(asked.json()["matched"], 0);
            assert_eq!(asked.json()["unknown_ids"], json!([unknown]));
        }
    }

    #[tokio::test]
    async fn a_new_replay_shows_its_unknown_ids_and_the_time_that_is_stored() {
        let (bench, ids) = bench_of(1).await;
        let unknown = MessageId::generate();
        for path in ["/messages/replay", "/dead-letters/replay"] {
            let some = json!({"ids": [unknown, ids[0], unknown]}).to_string();
            let created = bench.post(path, &[], some).await;
            assert_eq!(created.status, 202, "{path}");
            let created = created.json();
            assert_eq!(created["matched"], 1, "{path}");
            assert_eq!(created["unknown_ids"], json!([unknown]), "{path}");
            let id = created["replay_id"].as_str().unwrap();
            let read = page(&bench, Method::GET, &format!("/replays/{id}")).await;
            assert_eq!(read["created_at"], created["created_at"]);
            let known = json!({"ids": ids}).to_string();
            let created = bench.post(path, &[], known).await.json();
            assert_eq!(created["unknown_ids"], json!([]), "{path}");
            let all = json!({"channel_id": "c"}).to_string();
            let created = bench.post(path, &[], all).await.json();
            assert_eq!(created["unknown_ids"], Value::Null, "{path}");
        }
    }
}
