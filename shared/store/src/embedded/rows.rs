//! Converts between values and columns, and builds a query's conditions.
//!
//! Invariant: a caller's values are always parameters, and never part of the SQL.

use std::{collections::BTreeSet, str::FromStr};

use roundtrip_model::{ChannelId, SessionId, millis};
use rusqlite::{
    Connection, OptionalExtension, Params, Row, params_from_iter,
    types::{Type, Value},
};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use crate::{ledger::MAX_ROWS, page::PageBudget};

pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn counted(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(sql)?;
    let counted: i64 = select.query_row(values, |row| row.get(0))?;
    Ok(counted.unsigned_abs())
}

pub(super) fn name(variant: impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

pub(super) struct Columns<'a>(pub(super) &'a Row<'a>);

impl Columns<'_> {
    pub(super) fn get<T: rusqlite::types::FromSql>(&self, column: &str) -> rusqlite::Result<T> {
        self.0.get(column)
    }

    pub(super) fn time(&self, column: &str) -> rusqlite::Result<OffsetDateTime> {
        time(self.get(column)?)
    }

    pub(super) fn optional_time(&self, column: &str) -> rusqlite::Result<Option<OffsetDateTime>> {
        self.get::<Option<i64>>(column)?.map(time).transpose()
    }

    pub(super) fn parsed<T: FromStr>(&self, column: &str) -> rusqlite::Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.get::<String>(column)?.parse().map_err(unreadable)
    }

    pub(super) fn optional<T: FromStr>(&self, column: &str) -> rusqlite::Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.get::<Option<String>>(column)?
            .map(|text| text.parse().map_err(unreadable))
            .transpose()
    }

    pub(super) fn named<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        let name = serde_json::Value::String(self.get(column)?);
        serde_json::from_value(name).map_err(unreadable)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        let text = self.0.get_ref(column)?.as_str().map_err(unreadable)?;
        serde_json::from_str(text).map_err(unreadable)
    }
}

pub(super) fn time(millis: i64) -> rusqlite::Result<OffsetDateTime> {
    millis::time(millis).map_err(unreadable)
}

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
    /// The columns by which pages are sorted.
    pub(super) order: &'static str,
}

pub(super) fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// The conditions of a query of a table, all of which must hold.
#[derive(Debug)]
pub(super) struct Conditions {
    table: &'static Table,
    sql: Vec<&'static str>,
    pub(super) values: Vec<Value>,
    /// Whether the first parameter is a list of channels, and the query reads one channel at a
    /// time.
    by_channel: bool,
}

/// What the filters on messages, answers and dead letters have in common.
pub(super) struct Selection<'a, I> {
    /// The condition on the ids, with a list for each `?`.
    pub(super) with_ids: &'static str,
    pub(super) ids: Option<&'a [I]>,
    pub(super) session: Option<&'a SessionId>,
    pub(super) channel: Option<&'a ChannelId>,
    /// The channels that the caller is limited to.
    pub(super) channels: Option<&'a [ChannelId]>,
}

impl Conditions {
    /// For a caller limited to channels, every condition reads only the rows of these channels. The
    /// exception is a named session or id, which an index finds.
    pub(super) fn selected<I: Serialize>(
        table: &'static Table,
        selection: &Selection<'_, I>,
    ) -> Self {
        let Selection {
            with_ids,
            ids,
            session,
            channel,
            channels,
        } = *selection;
        let own = channels.filter(|_| ids.is_none() && session.is_none());
        let mut conditions =
            own.map_or_else(|| Self::of(table), |own| Self::of_channels(table, own));
        conditions.ids(with_ids, ids);
        conditions.maybe("session_id = ?", session.map(ToString::to_string));
        conditions.maybe("channel_id = ?", channel.map(ToString::to_string));
        if own.is_none() {
            conditions.ids("channel_id IN (SELECT value FROM json_each(?))", channels);
        }
        conditions
    }

    /// Whether the query reads one channel at a time.
    pub(super) const fn is_by_channel(&self) -> bool {
        self.by_channel
    }

    pub(super) fn of(table: &'static Table) -> Self {
        Self {
            table,
            sql: Vec::new(),
            values: Vec::new(),
            by_channel: false,
        }
    }

    /// Limits the rows to these channels, and reads one channel at a time. No other channel's row
    /// is read, because the duration would reveal that it exists. The table needs an index by
    /// channel and id.
    fn of_channels(table: &'static Table, channels: &[ChannelId]) -> Self {
        let once: BTreeSet<&ChannelId> = channels.iter().collect();
        Self {
            table,
            sql: vec!["channel_id = own.value"],
            values: vec![serde_json::json!(once).to_string().into()],
            by_channel: true,
        }
    }

    pub(super) fn plain(&mut self, sql: &'static str) {
        self.sql.push(sql);
    }

    pub(super) fn with(&mut self, sql: &'static str, value: impl Into<Value>) {
        let value = value.into();
        for _ in 0..sql.matches('?').count() {
            self.values.push(value.clone());
        }
        self.sql.push(sql);
    }

    /// A condition with two values.
    pub(super) fn with_both(
        &mut self,
        sql: &'static str,
        (first, second): (impl Into<Value>, impl Into<Value>),
    ) {
        self.values.extend([first.into(), second.into()]);
        self.sql.push(sql);
    }

    /// A condition, if the filter has a value for it.
    pub(super) fn maybe(&mut self, sql: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.with(sql, value);
        }
    }

    /// A condition with a list for each of its `?`, to be read with `json_each`, if there is a
    /// list.
    pub(super) fn ids<T: Serialize>(&mut self, sql: &'static str, ids: Option<&[T]>) {
        self.maybe(sql, ids.map(|ids| serde_json::json!(ids).to_string()));
    }

    pub(super) fn ids_sql(&self, limit: u16) -> String {
        let Table { name, id, order } = self.table;
        let (conditions, limit) = (self.sql(), limit.min(MAX_ROWS));
        let page = format!("SELECT {id} FROM {name} {conditions} ORDER BY {order} LIMIT {limit}");
        if !self.by_channel {
            return page;
        }
        // The first rows of each channel, and the first among those. `CROSS JOIN` keeps SQLite to
        // this order of the tables.
        format!(
            "SELECT found.{id} FROM json_each(?) AS own
             CROSS JOIN {name} AS found ON found.{id} IN ({page})
             ORDER BY {order} LIMIT {limit}"
        )
    }

    pub(super) fn count_sql(&self) -> String {
        format!("SELECT count(*) FROM {} {}", self.from(), self.sql())
    }

    pub(super) fn count(&self, connection: &Connection) -> rusqlite::Result<u64> {
        counted(
            connection,
            &self.count_sql(),
            params_from_iter(&self.values),
        )
    }

    pub(super) fn rows_sql(&self, limit: usize) -> String {
        let (name, from) = (self.table.name, self.from());
        format!(
            "SELECT {name}.rowid FROM {from} {} LIMIT {limit}",
            self.sql()
        )
    }

    fn from(&self) -> String {
        let name = self.table.name;
        if self.by_channel {
            format!("json_each(?) AS own CROSS JOIN {name}")
        } else {
            name.to_owned()
        }
    }

    fn sql(&self) -> String {
        if self.sql.is_empty() {
            return String::new();
        }
        format!("WHERE {}", self.sql.join(" AND "))
    }
}

/// Reads the first matching rows with this statement for one id, until the page is full. `read`
/// also returns a row's size in bytes.
pub(super) fn page<T>(
    connection: &mut Connection,
    conditions: &Conditions,
    limit: u16,
    sql: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<(T, usize)>,
) -> rusqlite::Result<Vec<T>> {
    // One snapshot for all reads.
    let snapshot = connection.transaction()?;
    let mut ids = snapshot.prepare_cached(&conditions.ids_sql(limit))?;
    let values = params_from_iter(&conditions.values);
    let ids = ids.query_map(values, |row| row.get::<_, String>(0))?;
    let mut statement = snapshot.prepare_cached(sql)?;
    let mut budget = PageBudget::of(u16::MAX);
    let mut page = Vec::new();
    for id in ids {
        let Some((one, bytes)) = statement.query_row([id?], &read).optional()? else {
            continue;
        };
        if !budget.take(bytes) {
            break;
        }
        page.push(one);
    }
    Ok(page)
}
