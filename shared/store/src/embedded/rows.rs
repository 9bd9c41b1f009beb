//! Converts between values and columns, and builds a query's conditions.
//!
//! Invariant: a caller's values are always parameters, and never part of the SQL.

use std::{collections::BTreeSet, str::FromStr};

use roundtrip_model::{ChannelId, millis};
use rusqlite::{
    Connection, OptionalExtension, Params, Row, Transaction, params_from_iter,
    types::{Type, Value},
};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use crate::page::PageBudget;

/// A count in its stored form.
pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The result of a `SELECT count(*)`.
pub(super) fn counted(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(sql)?;
    let counted: i64 = select.query_row(values, |row| row.get(0))?;
    Ok(counted.unsigned_abs())
}

/// The JSON name of a variant, as it is stored.
pub(super) fn name(variant: impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// Reads columns of a row by their names.
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

    /// An id, or another value that is stored as text.
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

    /// A variant by its JSON name.
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

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

/// The conditions of a query, all of which must hold.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    sql: Vec<&'static str>,
    pub(super) values: Vec<Value>,
    /// Whether the first parameter is a list of channels, and the query reads one channel at a
    /// time.
    by_channel: bool,
}

/// A table of rows that belong to channels, with an index by channel and id.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
}

impl Conditions {
    /// Limits the rows to these channels, and reads one channel at a time. No other channel's row
    /// is read, because the duration would reveal that it exists. Must come before any other
    /// condition.
    pub(super) fn of_channels(channels: &[ChannelId]) -> Self {
        let once: BTreeSet<&ChannelId> = channels.iter().collect();
        Self {
            sql: vec!["channel_id = own.value"],
            values: vec![serde_json::json!(once).to_string().into()],
            by_channel: true,
        }
    }

    /// A condition without a parameter.
    pub(super) fn plain(&mut self, sql: &'static str) {
        self.sql.push(sql);
    }

    /// A condition with this value for each of its `?`.
    pub(super) fn with(&mut self, sql: &'static str, value: impl Into<Value>) {
        let value = value.into();
        for _ in 0..sql.matches('?').count() {
            self.values.push(value.clone());
        }
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

    /// The ids of the first matching rows, in this order.
    pub(super) fn ids_sql(&self, table: &Table, order: &str, limit: u16) -> String {
        let Table { name, id } = table;
        let conditions = self.sql();
        let page =
            format!("SELECT {id} FROM {name} {conditions} ORDER BY {id} {order} LIMIT {limit}");
        if !self.by_channel {
            return page;
        }
        // The first rows of each channel, and the first among those. `CROSS JOIN` keeps SQLite to
        // this order of the tables.
        format!(
            "SELECT found.{id} FROM json_each(?) AS own
             CROSS JOIN {name} AS found ON found.{id} IN ({page})
             ORDER BY found.{id} {order} LIMIT {limit}"
        )
    }

    /// The number of matching rows.
    pub(super) fn count_sql(&self, table: &Table) -> String {
        format!("SELECT count(*) FROM {} {}", self.from(table), self.sql())
    }

    /// The row numbers of matching rows, up to the limit.
    pub(super) fn rows_sql(&self, table: &Table, limit: usize) -> String {
        let (name, from) = (table.name, self.from(table));
        format!(
            "SELECT {name}.rowid FROM {from} {} LIMIT {limit}",
            self.sql()
        )
    }

    /// The first matching rows in this order, with all columns.
    pub(super) fn rows_in_order_sql(&self, name: &str, order: &str, limit: u16) -> String {
        let conditions = self.sql();
        format!("SELECT * FROM {name} {conditions} ORDER BY {order} LIMIT {limit}")
    }

    fn from(&self, table: &Table) -> String {
        let name = table.name;
        if self.by_channel {
            format!("json_each(?) AS own CROSS JOIN {name}")
        } else {
            name.to_owned()
        }
    }

    /// `WHERE …`, or an empty text.
    fn sql(&self) -> String {
        if self.sql.is_empty() {
            return String::new();
        }
        format!("WHERE {}", self.sql.join(" AND "))
    }
}

/// Reads the ids of the matching rows.
pub(super) fn ids(
    snapshot: &Transaction<'_>,
    sql: &str,
    conditions: &Conditions,
) -> rusqlite::Result<Vec<String>> {
    let mut statement = snapshot.prepare_cached(sql)?;
    let values = params_from_iter(&conditions.values);
    statement.query_map(values, |row| row.get(0))?.collect()
}

/// Reads the rows with these ids, in the same order, until the page is full. `read` also returns
/// a row's size in bytes.
pub(super) fn page<T>(
    snapshot: &Transaction<'_>,
    sql: &str,
    ids: &[String],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<(T, usize)>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = snapshot.prepare_cached(sql)?;
    let mut budget = PageBudget::of(u16::MAX);
    let mut page = Vec::new();
    for id in ids {
        let Some((one, bytes)) = statement.query_row([id], &read).optional()? else {
            continue;
        };
        if !budget.take(bytes) {
            break;
        }
        page.push(one);
    }
    Ok(page)
}
