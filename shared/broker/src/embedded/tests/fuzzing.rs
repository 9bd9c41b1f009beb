//! Arbitrary bytes as a row of the file, which may have been edited or damaged.

use rusqlite::{Connection, params};

use super::{
    schema,
    table::{Table, code},
};
use crate::{Message, Queue};

/// The message in such a row; `None` if SQLite returns no row.
///
/// # Panics
/// If SQLite cannot keep a table in memory.
pub fn row(input: &[u8]) -> Option<Message> {
    let (numbers, rest) = input.split_first_chunk::<16>()?;
    let (id_len, rest) = rest.split_first()?;
    let (id, rest) = rest.split_at(rest.len().min((*id_len).into()));
    let (dead_len, rest) = rest.split_first()?;
    let (dead, body) = rest.split_at(rest.len().min((*dead_len).into()));
    let number = |at: usize| -> i64 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&numbers[at..at + 4]);
        i32::from_be_bytes(bytes).into()
    };
    let connection = Connection::open_in_memory().expect("a table in memory");
    for step in schema::SCHEMA.steps {
        connection.execute_batch(step).expect("a table");
    }
    let inserted = connection.execute(
        "INSERT INTO parcel (seq, queue, due, delay, tries, accepted_at, id, dead, body, round)
         VALUES (1, ?1, 0, 0, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            code(Queue::OutboundDead),
            number(0),
            // Includes values far beyond the valid years of a time of day.
            number(4).saturating_mul(number(8)),
            String::from_utf8_lossy(id),
            String::from_utf8_lossy(dead),
            body,
            number(12),
        ],
    );
    inserted.expect("a row");
    let (_, message) = Table::new(connection).read_one(1).ok()??;
    Some(message)
}
