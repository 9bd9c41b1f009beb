//! A query's page of channels.
//!
//! Invariant: no document is read but those of the filter's candidates. If the filter is limited to
//! some channels, the duration reveals nothing about others.

use std::{ops::Bound, time::Instant};

use rusqlite::{Connection, params_from_iter};
use serde_json::json;

use super::{DOCUMENT, parse};
use crate::{
    ChannelPage, Direction, Filter, PageRequest, QueryError, SortField, document,
    filter::Candidates, search::Search,
};

pub(super) fn page(
    connection: &mut Connection,
    deadline: Instant,
    filter: &Filter,
    request: &PageRequest,
) -> Result<ChannelPage, QueryError> {
    let mut search = Search::new(filter, request, deadline);
    fill(connection, &mut search, &filter.candidates(), request)?;
    search.page()
}

fn fill(
    connection: &mut Connection,
    search: &mut Search,
    candidates: &Candidates,
    request: &PageRequest,
) -> rusqlite::Result<()> {
    // One snapshot for all reads.
    let snapshot = connection.transaction()?;
    let Ids { sql, values } = Ids::of(candidates, request);
    let mut ids = snapshot.prepare_cached(&sql)?;
    let mut ids = ids.query(params_from_iter(values))?;
    let mut documents = snapshot.prepare_cached(DOCUMENT)?;
    while let Some(row) = ids.next()? {
        let id = row.get_ref(0)?.as_str()?;
        let mut found = documents.query([id])?;
        let Some(row) = found.next()? else { continue };
        let text = row.get_ref(0)?.as_str()?;
        let Some(document) = document::readable(parse(id, text)) else {
            continue;
        };
        if search.add(text.len(), document).is_break() {
            break;
        }
    }
    Ok(())
}

/// Selects the candidates' ids after the page's cursor, in the page's order. SQLite reads them from
/// an index one by one; it sorts only lists of ids.
pub(super) struct Ids {
    pub(super) sql: String,
    pub(super) values: Vec<String>,
}

impl Ids {
    pub(super) fn of(candidates: &Candidates, request: &PageRequest) -> Self {
        let (beyond, direction) = match request.sort.direction {
            Direction::Ascending => (">", "ASC"),
            Direction::Descending => ("<", "DESC"),
        };
        let (columns, order, after) = match request.sort.field {
            SortField::ChannelId => (
                "channel_id",
                format!("channel_id {direction}"),
                format!("channel_id {beyond} ?"),
            ),
            SortField::ChannelName => (
                "channel_id, channel_name",
                format!("channel_name {direction}, channel_id {direction}"),
                format!("(channel_name, channel_id) {beyond} (?, ?)"),
            ),
        };
        let (after, last) = match (&request.cursor, request.sort.field) {
            (None, _) => ("true".to_owned(), Vec::new()),
            (Some(last), SortField::ChannelId) => (after, vec![last.channel_id.clone()]),
            (Some(last), SortField::ChannelName) => {
                (after, vec![last.value.clone(), last.channel_id.clone()])
            }
        };
        let mut values = Vec::new();
        let found = match candidates {
            Candidates::Ids(ids) => {
                values.push(json!(ids).to_string());
                values.extend(last);
                // `CROSS JOIN` keeps SQLite to the order of the tables: a lookup for each id of the
                // list, and no scan of all channels.
                format!(
                    "SELECT channel_id FROM json_each(?) AS own
                     CROSS JOIN channels ON channels.channel_id = own.value WHERE {after}"
                )
            }
            Candidates::Texts(field, texts) => {
                for text in texts {
                    values.push(text.clone());
                    values.extend(last.iter().cloned());
                }
                let of_one = format!(
                    "SELECT {columns} FROM channel_texts
                     WHERE field = '{field}' AND text = ? AND {after}"
                );
                // SQLite merges the ordered rows of the texts.
                vec![of_one; texts.len()].join(" UNION ")
            }
            Candidates::Range(from, to) => {
                let bounds = bound(from, '>', &mut values) + &bound(to, '<', &mut values);
                values.extend(last);
                format!("SELECT channel_id FROM channels WHERE {bounds} {after}")
            }
        };
        Self {
            sql: format!("{found} ORDER BY {order}"),
            values,
        }
    }
}

fn bound(bound: &Bound<String>, beyond: char, values: &mut Vec<String>) -> String {
    let (id, equal) = match bound {
        Bound::Unbounded => return String::new(),
        Bound::Included(id) => (id, "="),
        Bound::Excluded(id) => (id, ""),
    };
    values.push(id.clone());
    format!("channel_id {beyond}{equal} ? AND ")
}
