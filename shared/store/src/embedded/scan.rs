//! A query's page of channels.
//!
//! Invariant: if the filter is limited to some channels, no other channel's document is read. The
//! duration would reveal that it exists.

use std::{collections::BTreeSet, time::Instant};

use roundtrip_model::{ChannelId, StoredChannel};
use rusqlite::{Connection, OptionalExtension, Transaction, params_from_iter};
use serde_json::json;

use super::{parse, unavailable};
use crate::{
    ChannelPage, Cursor, Direction, Filter, PageRequest, Sort, SortField, StoreError, document,
    filter::QueryBudget, page::PageBudget,
};

/// The document of a channel that the page is limited to.
const DOCUMENT: &str = "SELECT document FROM channels WHERE channel_id = ?1";

/// The matching channels from the page's cursor on, until the page is full.
pub(super) fn page(
    connection: &mut Connection,
    deadline: Instant,
    filter: &Filter,
    request: &PageRequest,
) -> Result<ChannelPage, StoreError> {
    // One snapshot for all reads.
    let snapshot = connection.transaction().map_err(unavailable)?;
    let query_budget = QueryBudget::until(deadline);
    let page = Page::new(request, filter, &query_budget);
    match filter.own() {
        None => walk(&snapshot, page),
        Some(own) => visit(&snapshot, page, own),
    }
}

/// Scans the table in the page's order.
fn walk(snapshot: &Transaction<'_>, mut page: Page<'_>) -> Result<ChannelPage, StoreError> {
    let Order { after, order } = Order::of(page.request);
    let mut statement = snapshot
        .prepare_cached(&format!(
            "SELECT channel_id, document FROM channels WHERE {after} ORDER BY {order}"
        ))
        .map_err(unavailable)?;
    let cursor = cursor(page.request);
    let mut rows = statement
        .query(params_from_iter(cursor))
        .map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let id = row
            .get_ref(0)
            .map_err(unavailable)?
            .as_str()
            .map_err(text)?;
        let document = row
            .get_ref(1)
            .map_err(unavailable)?
            .as_str()
            .map_err(text)?;
        if let Taken::Full = page.take(id, document)? {
            return Ok(page.with_next());
        }
    }
    Ok(page.last())
}

/// Reads only the channels that the page is limited to: first which of them exist, in the page's
/// order, then one document at a time.
fn visit(
    snapshot: &Transaction<'_>,
    mut page: Page<'_>,
    own: &BTreeSet<ChannelId>,
) -> Result<ChannelPage, StoreError> {
    let ids: Vec<String> = snapshot
        .prepare_cached(&own_sql(page.request))
        .and_then(|mut statement| {
            let own = json!(own).to_string();
            let values = std::iter::once(own.as_str()).chain(cursor(page.request));
            statement
                .query_map(params_from_iter(values), |row| row.get(0))?
                .collect()
        })
        .map_err(unavailable)?;
    let mut statement = snapshot.prepare_cached(DOCUMENT).map_err(unavailable)?;
    for id in &ids {
        let document: Option<String> = statement
            .query_row([id], |row| row.get(0))
            .optional()
            .map_err(unavailable)?;
        let Some(document) = document else { continue };
        if let Taken::Full = page.take(id, &document)? {
            return Ok(page.with_next());
        }
    }
    Ok(page.last())
}

/// Finds the existing channels of a list. `CROSS JOIN` keeps SQLite to the order of the tables: a
/// lookup for each id of the list, and no scan of all channels.
pub(super) fn own_sql(request: &PageRequest) -> String {
    let Order { after, order } = Order::of(request);
    format!(
        "SELECT channel_id FROM json_each(?) AS own
         CROSS JOIN channels ON channels.channel_id = own.value
         WHERE {after} ORDER BY {order}"
    )
}

/// A page's order, and the rows after its cursor, in SQL.
struct Order {
    after: String,
    order: String,
}

impl Order {
    fn of(request: &PageRequest) -> Self {
        let Sort { field, direction } = request.sort;
        let (beyond, direction) = match direction {
            Direction::Ascending => (">", "ASC"),
            Direction::Descending => ("<", "DESC"),
        };
        let (key, order) = match field {
            SortField::ChannelId => ("channel_id", format!("channel_id {direction}")),
            SortField::ChannelName => (
                "channel_name",
                format!("channel_name {direction}, channel_id {direction}"),
            ),
        };
        let after = match request.cursor {
            Some(_) => format!("({key}, channel_id) {beyond} (?, ?)"),
            None => "true".to_owned(),
        };
        Self { after, order }
    }
}

/// The parameters of [`Order::after`].
fn cursor(request: &PageRequest) -> impl Iterator<Item = &str> {
    let cursor = request.cursor.iter();
    cursor.flat_map(|cursor| [cursor.value.as_str(), cursor.channel_id.as_str()])
}

fn text(error: rusqlite::types::FromSqlError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

/// A page that is being filled.
struct Page<'a> {
    request: &'a PageRequest,
    filter: &'a Filter,
    query_budget: &'a QueryBudget,
    budget: PageBudget,
    channels: Vec<StoredChannel>,
}

/// Whether a channel fits on the page.
enum Taken {
    /// It fits, or it does not match.
    Done,
    /// It does not fit. It begins the next page.
    Full,
}

impl<'a> Page<'a> {
    fn new(request: &'a PageRequest, filter: &'a Filter, query_budget: &'a QueryBudget) -> Self {
        Self {
            request,
            filter,
            query_budget,
            budget: PageBudget::of(request.limit),
            channels: Vec::new(),
        }
    }

    /// Adds a matching channel if it fits.
    fn take(&mut self, id: &str, text: &str) -> Result<Taken, StoreError> {
        self.query_budget.read(text)?;
        let Some(document) = document::readable(parse(id, text)) else {
            return Ok(Taken::Done);
        };
        if !self.filter.matches_document(&document, self.query_budget)? {
            return Ok(Taken::Done);
        }
        let Some(found) = document::readable(document::channel(document)) else {
            return Ok(Taken::Done);
        };
        // One more channel than fits: there is a next page.
        if !self.budget.take(text.len()) {
            return Ok(Taken::Full);
        }
        self.channels.push(found);
        Ok(Taken::Done)
    }

    /// The page, with a cursor to the next one.
    fn with_next(self) -> ChannelPage {
        let last = self.channels.last();
        ChannelPage {
            next: last.map(|last| Cursor::after(last, self.request.sort)),
            channels: self.channels,
        }
    }

    /// The last page.
    fn last(self) -> ChannelPage {
        ChannelPage {
            channels: self.channels,
            next: None,
        }
    }
}
