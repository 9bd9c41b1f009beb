//! Lists of the API, page by page.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};

use crate::{
    api::{Api, Call, not_ours},
    arguments::Rows,
    failure::Failure,
    screen::{Screen, document, note},
    table::{Cell, Table},
};

/// The rows of one page, below the API's most (1000).
const PAGE: u32 = 500;

pub(crate) struct Page {
    pub(crate) items: Vec<Box<RawValue>>,
    pub(crate) next: Option<String>,
}

/// A page of the list with this name in the response.
pub(crate) async fn page(
    api: &Api,
    call: Call,
    name: &str,
    limit: u32,
    cursor: Option<String>,
) -> Result<Page, Failure> {
    let mut call = call.query("limit", limit.min(PAGE).to_string());
    if let Some(cursor) = cursor {
        call = call.query("cursor", cursor);
    }
    let reply = api.call(call).await?;
    let read = || -> Option<Page> {
        let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(&reply.body).ok()?;
        Some(Page {
            items: serde_json::from_str(fields.get(name)?.get()).ok()?,
            next: match fields.get("next_cursor") {
                Some(next) => serde_json::from_str(next.get()).ok()?,
                None => None,
            },
        })
    };
    read().ok_or_else(not_ours)
}

pub(crate) fn value(item: &RawValue) -> Result<Value, Failure> {
    serde_json::from_str(item.get()).map_err(|_error| not_ours())
}

/// Prints a list as a table, or as JSON with one item a line.
pub(crate) async fn print(
    api: &Api,
    screen: Screen,
    name: &str,
    rows: Rows,
    call: impl Fn() -> Call,
    mut table: Table,
    row: impl Fn(&Value) -> Vec<Cell>,
) -> Result<(), Failure> {
    let (mut left, mut cursor) = (rows.limit, None);
    let has_more = loop {
        let Page { items, next } = page(api, call(), name, left, cursor).await?;
        left = left.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
        for item in items {
            if screen.is_json() {
                document(item.get())?;
            } else {
                table.add(row(&value(&item)?));
            }
        }
        cursor = next;
        if cursor.is_none() || left == 0 {
            break cursor.is_some();
        }
    };
    if !screen.is_json() {
        if table.is_empty() {
            note("none");
        } else {
            screen.table(&table)?;
        }
    }
    if has_more {
        note(&format!(
            "there are more than {}; --limit prints more",
            rows.limit
        ));
    }
    Ok(())
}
