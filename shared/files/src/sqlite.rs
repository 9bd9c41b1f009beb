//! SQLite files: opened, checked and migrated.
//!
//! Invariant: a file of another program, or of a newer version, stays unchanged. A migration is one
//! transaction, so that a crash, or two processes that open a file at once, leave it consistent.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, config::DbConfig};

use crate::private::create_missing;

const STATEMENT_CACHE: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// `PRAGMA application_id`: distinguishes the file from other SQLite files.
    pub application_id: i64,
    /// The migrations: from an empty file to version 1, from 1 to 2, and so on. `PRAGMA
    /// user_version` has the number of those that were applied.
    pub steps: &'static [&'static str],
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} is in use by another process: stop that one, or give this one a file of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// It belongs to another program, or to another part of Roundtrip.
    #[error("{} is not a database of this part of Roundtrip", .0.display())]
    Foreign(PathBuf),
    /// A newer Roundtrip wrote it.
    #[error(
        "{} has the schema version {found}, and this Roundtrip knows versions up to {known}: run \
         the newer Roundtrip that wrote it",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: usize,
    },
    #[error("cannot open {}", path.display())]
    File {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Schema {
    /// Opens the file, and creates it and its folder if they are missing. Waits this long for
    /// locks. `configure` runs before the first access.
    pub fn open(
        &self,
        path: &Path,
        wait: Duration,
        configure: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Connection, OpenError> {
        let failed = |source| OpenError::File {
            path: path.to_owned(),
            source,
        };
        // SQLite gives its other files the permissions of this one.
        create_missing(path).map_err(|error| failed(error.into()))?;
        let opened = connect(path, wait).and_then(|mut connection| {
            configure(&connection)?;
            let migrated = self.migrate(&mut connection)?;
            if let Migrated::Done = migrated {
                connection.pragma_update(None, "journal_mode", "WAL")?;
            }
            Ok((connection, migrated))
        });
        match opened {
            Ok((connection, Migrated::Done)) => {
                // The file's directory entry must be as durable as its content.
                sync_folder(path).map_err(|error| failed(error.into()))?;
                Ok(connection)
            }
            Ok((_, Migrated::Foreign)) => Err(OpenError::Foreign(path.to_owned())),
            Ok((_, Migrated::Newer(found))) => Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: self.steps.len(),
            }),
            Err(error) => Err(match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    OpenError::InUse(path.to_owned())
                }
                Some(ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
                _ => failed(error.into()),
            }),
        }
    }

    fn migrate(&self, connection: &mut Connection) -> rusqlite::Result<Migrated> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let number = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
        let version = number("PRAGMA user_version")?;
        let application = number("PRAGMA application_id")?;
        let newest = i64::try_from(self.steps.len()).unwrap_or(i64::MAX);
        let is_new =
            version == 0 && application == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0;
        let done = usize::try_from(version).ok();
        let done = done.filter(|_| is_new || application == self.application_id);
        let Some(done) = done else {
            return Ok(Migrated::Foreign);
        };
        let Some(missing) = self.steps.get(done..) else {
            return Ok(Migrated::Newer(version));
        };
        for step in missing {
            transaction.execute_batch(step)?;
        }
        if !missing.is_empty() {
            transaction.pragma_update(None, "application_id", self.application_id)?;
            transaction.pragma_update(None, "user_version", newest)?;
        }
        transaction.commit()?;
        Ok(Migrated::Done)
    }
}

enum Migrated {
    Done,
    Foreign,
    Newer(i64),
}

/// Opens a further connection to a file. Its commits are synced before they return.
pub fn connect(path: &Path, wait: Duration) -> rusqlite::Result<Connection> {
    // Without the default URI flag: the text is always a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(wait)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let named = |folder: &&Path| !folder.as_os_str().is_empty();
    let folder = path.parent().filter(named).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);
    const FIRST: &str = "CREATE TABLE one (x INTEGER) STRICT;";
    const SECOND: &str = "ALTER TABLE one ADD COLUMN y INTEGER NOT NULL DEFAULT 5;";

    const fn schema(steps: &'static [&'static str]) -> Schema {
        Schema {
            application_id: 7,
            steps,
        }
    }

    fn open(schema: Schema, path: &Path) -> Result<Connection, OpenError> {
        schema.open(path, WAIT, |_| Ok(()))
    }

    #[test]
    fn an_old_file_gets_the_steps_that_it_lacks_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file.db");
        let old = open(schema(&[FIRST]), &path).unwrap();
        old.execute("INSERT INTO one VALUES (1)", []).unwrap();
        drop(old);
        for _ in 0..2 {
            let new = open(schema(&[FIRST, SECOND]), &path).unwrap();
            let row = new.query_row("SELECT x + y FROM one", [], |row| row.get(0));
            assert_eq!(row, Ok(6));
        }
        let older = open(schema(&[FIRST]), &path);
        assert!(
            matches!(
                older,
                Err(OpenError::Newer {
                    found: 2,
                    known: 1,
                    ..
                })
            ),
            "{older:?}"
        );
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        drop(open(schema(&[FIRST]), &path).unwrap());
        let failed = open(schema(&[FIRST, SECOND, "SELECT * FROM nowhere;"]), &path);
        assert!(matches!(failed, Err(OpenError::File { .. })), "{failed:?}");
        open(schema(&[FIRST, SECOND]), &path).unwrap();
    }

    #[test]
    fn a_file_of_another_kind_is_refused_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(
            &text,
            "no database, but long enough to be one\n".repeat(100),
        )
        .unwrap();
        let database = folder.path().join("other.db");
        let other = Connection::open(&database).unwrap();
        other.execute("CREATE TABLE other (x)", []).unwrap();
        drop(other);
        let application = folder.path().join("application.db");
        let other = Schema {
            application_id: 8,
            steps: &[FIRST],
        };
        drop(open(other, &application).unwrap());
        for path in [text, database, application] {
            let before = fs::read(&path).unwrap();
            let refused = open(schema(&[FIRST]), &path);
            assert!(matches!(refused, Err(OpenError::Foreign(_))), "{refused:?}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn a_locked_file_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        let exclusive = |connection: &Connection| {
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
        };
        let first = schema(&[FIRST]).open(&path, WAIT, exclusive).unwrap();
        let refused = open(schema(&[FIRST]), &path);
        assert!(matches!(refused, Err(OpenError::InUse(_))), "{refused:?}");
        drop(first);
        open(schema(&[FIRST]), &path).unwrap();
    }
}
