//! Between values and columns, and the conditions of a query.
//!
//! Invariant: whatever a caller hands in is a parameter, never a part of the SQL.

use std::str::FromStr;

use roundtrip_model::millis;
use rusqlite::{
    Connection, Params, Row,
    types::{Type, Value},
};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

/// A count as it is stored.
pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What a `SELECT count(*)` has counted.
pub(super) fn counted(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(sql)?;
    let counted: i64 = select.query_row(values, |row| row.get(0))?;
    Ok(counted.unsigned_abs())
}

/// The name that a variant has in JSON, as it is stored.
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

    /// An id, or another value that is written as its text.
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

    /// A variant by its name in JSON.
    pub(super) fn named<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        let name = serde_json::Value::String(self.get(column)?);
        serde_json::from_value(name).map_err(unreadable)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        let text = self.0.get_ref(column)?.as_str().map_err(unreadable)?;
        serde_json::from_str(text).map_err(unreadable)
    }
}

fn time(millis: i64) -> rusqlite::Result<OffsetDateTime> {
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
}

impl Conditions {
    /// A condition without a parameter.
    pub(super) fn plain(&mut self, sql: &'static str) {
        self.sql.push(sql);
    }

    /// A condition with this value for each `?` in it.
    pub(super) fn with(&mut self, sql: &'static str, value: impl Into<Value>) {
        let value = value.into();
        for _ in 0..sql.matches('?').count() {
            self.values.push(value.clone());
        }
        self.sql.push(sql);
    }

    /// A condition, where a value is asked for.
    pub(super) fn maybe(&mut self, sql: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.with(sql, value);
        }
    }

    /// A condition with a list for each `?`, to be read with `json_each`; where a list is asked for.
    pub(super) fn ids<T: Serialize>(&mut self, sql: &'static str, ids: Option<&[T]>) {
        self.maybe(sql, ids.map(|ids| serde_json::json!(ids).to_string()));
    }

    /// `WHERE …`, or nothing.
    pub(super) fn sql(&self) -> String {
        if self.sql.is_empty() {
            return String::new();
        }
        format!("WHERE {}", self.sql.join(" AND "))
    }
}
