//! `roundtrip messages tail`: prints messages as they are accepted.
//!
//! The history lists a message a moment after its acceptance, and not always in order. So each look
//! begins a while before the latest known message, and what was printed is remembered for that long.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;

use super::list::{self, Page};
use crate::{
    api::{Api, Call},
    failure::Failure,
    filters::Filter,
    screen::{Screen, document, note},
    table::{Cell, Table},
    values,
};

/// The interval between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much later than others a message may be listed and is still printed.
const LISTED_WITHIN: time::Duration = time::Duration::seconds(10);
/// The messages of one page, and the most pages of one look.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 20;
/// How many looks in a row may fail.
const MAX_FAILED_LOOKS: u32 = 60;

pub(super) const HEADS: [&str; 5] = ["ACCEPTED", "STATE", "CHANNEL", "SESSION", "ID"];

/// The row of a message.
pub(super) fn row(message: &Value) -> Vec<Cell> {
    vec![
        values::time(&message["accepted_at"]).into(),
        values::state(&message["state"]),
        values::text(&message["channel_id"]).into(),
        values::excerpt(&message["session_id"]).into(),
        values::text(&message["message_id"]).into(),
    ]
}

pub(super) async fn follow(api: &Api, screen: Screen, filter: &Filter) -> Result<(), Failure> {
    let mut seen = Seen::default();
    // What is listed now is known, and not printed.
    let before = list::page(
        api,
        Call::get(&["messages"]).filter(filter),
        "messages",
        1,
        None,
    );
    for item in before.await?.items {
        seen.is_new(&list::value(&item)?);
    }
    look(api, filter, &mut seen, |_| Ok(())).await?;
    let mut patience = Patience::default();
    loop {
        sleep(LOOK_EVERY).await;
        let looked = look(api, filter, &mut seen, |page| {
            // The latest is listed first.
            for item in page.iter().rev() {
                if screen.is_json() {
                    document(item.get())?;
                } else {
                    let mut table = Table::new(&[]);
                    table.add(row(&list::value(item)?));
                    screen.table(&table)?;
                }
            }
            Ok(())
        });
        patience.after(looked.await)?;
    }
}

/// How many looks in a row have failed.
#[derive(Default)]
pub(super) struct Patience {
    failed: u32,
}

impl Patience {
    /// An error that may pass is shown once, and is none until too many looks have failed.
    pub(super) fn after(&mut self, looked: Result<(), Failure>) -> Result<(), Failure> {
        match looked {
            Ok(()) => self.failed = 0,
            Err(failure) if failure.is_temporary() && self.failed < MAX_FAILED_LOOKS => {
                if self.failed == 0 {
                    note(&failure.to_string());
                }
                self.failed += 1;
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

type Items = Vec<Box<serde_json::value::RawValue>>;

/// Hands over the messages that were not seen before.
async fn look(
    api: &Api,
    filter: &Filter,
    seen: &mut Seen,
    print: impl FnOnce(&Items) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let since = seen.since();
    let (mut new, mut cursor) = (Items::new(), None);
    for _ in 0..MAX_PAGES {
        let mut call = Call::get(&["messages"]).filter(filter);
        if let Some(since) = since.clone().filter(|_| !filter.has("since")) {
            call = call.query("since", since);
        }
        let Page { items, next } = list::page(api, call, "messages", PAGE, cursor).await?;
        for item in items {
            if seen.is_new(&list::value(&item)?) {
                new.push(item);
            }
        }
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    if cursor.is_some() {
        note("more messages than can be followed: some are left out");
    }
    seen.forget_old();
    print(&new)
}

/// The latest messages.
#[derive(Default)]
struct Seen {
    ids: BTreeMap<String, OffsetDateTime>,
    latest: Option<OffsetDateTime>,
}

impl Seen {
    fn is_new(&mut self, message: &Value) -> bool {
        let at = values::text(&message["accepted_at"]);
        let Ok(at) = OffsetDateTime::parse(&at, &Rfc3339) else {
            return true;
        };
        self.latest = self.latest.max(Some(at));
        let id = values::text(&message["message_id"]);
        self.ids.insert(id, at).is_none()
    }

    /// The time at which a look begins.
    fn since(&self) -> Option<String> {
        self.begin()?.format(&Rfc3339).ok()
    }

    fn begin(&self) -> Option<OffsetDateTime> {
        self.latest?.checked_sub(LISTED_WITHIN)
    }

    fn forget_old(&mut self) {
        if let Some(begin) = self.begin() {
            self.ids.retain(|_, at| *at >= begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(id: &str, second: u8) -> Value {
        json!({"message_id": id, "accepted_at": format!("2026-11-28T12:00:{second:02}Z")})
    }

    #[test]
    fn a_message_is_new_once_and_remembered_as_long_as_it_is_listed() {
        let mut seen = Seen::default();
        assert_eq!(seen.since(), None);
        assert!(seen.is_new(&message("b", 20)) && !seen.is_new(&message("b", 20)));
        // It was accepted earlier and listed later.
        assert!(seen.is_new(&message("a", 15)));
        assert_eq!(seen.since().unwrap(), "2026-11-28T12:00:10Z");
        assert!(seen.is_new(&message("c", 26)));
        seen.forget_old();
        let left: Vec<_> = seen.ids.keys().map(String::as_str).collect();
        assert_eq!(left, ["b", "c"]);
    }
}
