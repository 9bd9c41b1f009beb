//! The file's tables, and the migrations from older versions.
//!
//! Invariant: a migration is one transaction. Two processes that open the file at once, or a crash,
//! leave it consistent.

use rusqlite::{Connection, TransactionBehavior};

/// `PRAGMA application_id`: "RtSt". It distinguishes the file from other SQLite files.
pub(super) const APPLICATION_ID: i64 = 0x5274_5374;
/// `PRAGMA user_version`: how many of [`STEPS`] were applied to the file.
pub(super) const SCHEMA_VERSION: i64 = 7;

/// The migrations: from an empty file to version 1, from 1 to 2, and so on.
const STEPS: [&str; 7] = [
    CHANNELS,
    LEDGER,
    API_KEYS,
    SECRETS,
    MADE_UNDER,
    UIDS,
    REPLAY_TURNS,
];

/// Version 1.
///
/// `channel_name` has a column of its own so that queries can sort by it.
pub(super) const CHANNELS: &str = "
    CREATE TABLE channels (
        channel_id TEXT NOT NULL PRIMARY KEY,
        channel_name TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX channels_by_name ON channels (channel_name, channel_id);
";

/// Version 2. Times are milliseconds since 1970.
///
/// A message's content has a table of its own, so that a change of state does not rewrite it. An
/// entry's time is part of its primary key, so that a timeline is stored together and in order.
///
/// The indexes of dead letters omit replayed ones, because queries never return them. A time range
/// is found by walking the index of ids, which includes the times.
const LEDGER: &str = "
    CREATE TABLE messages (
        message_id TEXT NOT NULL PRIMARY KEY,
        channel_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        state TEXT NOT NULL,
        position INTEGER NOT NULL,
        round INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX messages_by_session ON messages (session_id, message_id);
    CREATE INDEX messages_by_channel ON messages (channel_id, message_id);
    CREATE INDEX messages_by_state ON messages (state, message_id);
    CREATE INDEX messages_by_channel_and_state ON messages (channel_id, state, message_id);

    CREATE TABLE contents (
        message_id TEXT NOT NULL PRIMARY KEY,
        message TEXT NOT NULL,
        response_url TEXT NOT NULL
    ) STRICT;

    CREATE TABLE entries (
        message_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        entry_id TEXT NOT NULL,
        round INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (message_id, at, entry_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE dead_letters (
        dead_id TEXT NOT NULL PRIMARY KEY,
        queue TEXT NOT NULL,
        parcel_id TEXT NOT NULL,
        message_id TEXT,
        channel_id TEXT,
        session_id TEXT,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        tries INTEGER NOT NULL,
        round INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        dead_at INTEGER NOT NULL,
        body BLOB NOT NULL,
        replayed_by TEXT
    ) STRICT;
    CREATE INDEX dead_letters_by_id ON dead_letters (dead_id, dead_at) WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_parcel ON dead_letters (parcel_id) WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_queue ON dead_letters (queue, dead_id) WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_channel ON dead_letters (channel_id, dead_id)
        WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_session ON dead_letters (session_id, dead_id)
        WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_reason ON dead_letters (reason, dead_id)
        WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_by_time ON dead_letters (dead_at) WHERE replayed_by IS NULL;
    CREATE INDEX dead_letters_replayed ON dead_letters (dead_at) WHERE replayed_by IS NOT NULL;

    CREATE TABLE replays (
        replay_id TEXT NOT NULL PRIMARY KEY,
        source TEXT NOT NULL,
        rate_per_second INTEGER,
        status TEXT NOT NULL,
        matched INTEGER NOT NULL,
        replayed INTEGER NOT NULL,
        skipped INTEGER NOT NULL,
        cursor TEXT,
        created_at INTEGER NOT NULL,
        ended_at INTEGER,
        owner TEXT,
        lease_until INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX replays_running ON replays (replay_id) WHERE status = 'running';
    CREATE INDEX replays_ended ON replays (ended_at) WHERE ended_at IS NOT NULL;

    CREATE TABLE idempotency (
        key TEXT NOT NULL PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        message_id TEXT NOT NULL,
        done INTEGER NOT NULL,
        taken_at INTEGER NOT NULL,
        lease_until INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX idempotency_by_time ON idempotency (taken_at);
";

/// Version 3. `ends_at` is the earlier of `expires_at` and `revoked_at`.
const API_KEYS: &str = "
    CREATE TABLE api_keys (
        key_id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        role TEXT NOT NULL,
        channels TEXT,
        rate_per_second INTEGER,
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        revoked_at INTEGER,
        ends_at INTEGER,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX api_keys_ended ON api_keys (ends_at) WHERE ends_at IS NOT NULL;
";

/// Version 4. A channel's encrypted signing secrets, the newest first.
const SECRETS: &str = "
    CREATE TABLE channel_secrets (
        channel_id TEXT NOT NULL PRIMARY KEY,
        secrets TEXT NOT NULL
    ) STRICT;
";

/// Version 5. The limited key that a key counts under. Existing keys count under none.
const MADE_UNDER: &str = "
    ALTER TABLE api_keys ADD COLUMN made_under TEXT;
    CREATE INDEX api_keys_made_under ON api_keys (made_under) WHERE made_under IS NOT NULL;
";

/// Version 6. The channel's uid. SQLite may reuse a `rowid`, so it cannot serve as one.
const UIDS: &str = "
    ALTER TABLE channels ADD COLUMN uid TEXT NOT NULL DEFAULT '';
    UPDATE channels SET uid = lower(hex(randomblob(16)));
";

/// Version 7. Running replays take turns, count for a key, and are listed by their channels.
/// Replays of an older version count for no key, and are listed for keys of all channels.
const REPLAY_TURNS: &str = "
    ALTER TABLE replays ADD COLUMN requested_by TEXT NOT NULL DEFAULT '';
    ALTER TABLE replays ADD COLUMN channels TEXT;
    DROP INDEX replays_running;
    CREATE INDEX replays_turns ON replays (lease_until, replay_id) WHERE status = 'running';
    CREATE INDEX replays_of_key ON replays (requested_by) WHERE status = 'running';
";

/// Why a file cannot be opened.
pub(super) enum Refused {
    Sqlite(rusqlite::Error),
    /// It belongs to another program, or to another part of Roundtrip.
    Foreign,
    /// It has this newer schema version.
    Newer(i64),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Creates the tables, or applies the missing migrations.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), Refused> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let done = match (application, version) {
        (0, 0) if tables == 0 => 0,
        (APPLICATION_ID, version) => usize::try_from(version).map_err(|_| Refused::Foreign)?,
        _ => return Err(Refused::Foreign),
    };
    let missing = STEPS.get(done..).ok_or(Refused::Newer(version))?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}
