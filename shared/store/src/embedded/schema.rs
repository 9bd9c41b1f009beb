//! The file's tables, and the migrations from older versions.

use roundtrip_files::sqlite::Schema;

/// "RtSt" identifies a store's file.
pub(super) const SCHEMA: Schema = Schema {
    application_id: 0x5274_5374,
    steps: &[
        CHANNELS,
        LEDGER,
        API_KEYS,
        SECRETS,
        MADE_UNDER,
        UIDS,
        REPLAY_TURNS,
        CHANNEL_TEXTS,
        WAITING,
        HELD_CHANNELS,
        WAITING_COUNTS,
        ANSWERS,
        ANSWERS_DUE,
        ERASURES,
        ANSWERS_TO_REPLAY,
        SESSION_EVENTS,
    ],
};

/// Version 1.
///
/// `channel_name` has a column of its own so that queries can sort by it.
const CHANNELS: &str = "
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

/// Version 8. The texts by which queries find channels: those in their names and
/// tags, or in an array there. Triggers keep them, so that no writer can
/// forget them.
const CHANNEL_TEXTS: &str = r#"
    CREATE TABLE channel_texts (
        field TEXT NOT NULL,
        text TEXT NOT NULL,
        channel_id TEXT NOT NULL,
        channel_name TEXT NOT NULL,
        PRIMARY KEY (field, text, channel_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX channel_texts_by_name
        ON channel_texts (field, text, channel_name, channel_id);
    CREATE INDEX channel_texts_of_channel ON channel_texts (channel_id);
    CREATE VIEW texts_of_channels AS
        SELECT field.value AS field, found.value AS text, channel_id, channel_name
        FROM channels, json_each('["channel_name", "channel_tags"]') AS field,
            json_each(document, '$.' || field.value) AS found
        WHERE found.type = 'text';
    CREATE TRIGGER channel_created AFTER INSERT ON channels BEGIN
        INSERT OR IGNORE INTO channel_texts
            SELECT * FROM texts_of_channels WHERE channel_id = new.channel_id;
    END;
    CREATE TRIGGER channel_deleted AFTER DELETE ON channels BEGIN
        DELETE FROM channel_texts WHERE channel_id = old.channel_id;
    END;
    CREATE TRIGGER channel_updated AFTER UPDATE ON channels BEGIN
        DELETE FROM channel_texts WHERE channel_id = old.channel_id;
        INSERT OR IGNORE INTO channel_texts
            SELECT * FROM texts_of_channels WHERE channel_id = new.channel_id;
    END;
    INSERT OR IGNORE INTO channel_texts SELECT * FROM texts_of_channels;
"#;

/// Version 9. Messages that wait, and the channels that they wait for.
///
/// A body has a table of its own, so that a change of the due time does not rewrite it. What is due
/// later and may be made due at once is found by `waiting_retries`. `look_at` of a leased channel is
/// the end of its lease. `look_again_at` is the earliest time for which a wake has asked since the
/// claim.
const WAITING: &str = "
    CREATE TABLE waiting (
        row_id INTEGER NOT NULL PRIMARY KEY,
        message_id TEXT NOT NULL UNIQUE,
        channel_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        replay_count INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        due_at INTEGER NOT NULL,
        reason TEXT NOT NULL,
        expires_at INTEGER
    ) STRICT;
    CREATE INDEX waiting_by_due_time ON waiting (channel_id, due_at, message_id);
    CREATE INDEX waiting_retries ON waiting (channel_id, due_at, message_id)
        WHERE reason = 'retry';
    CREATE INDEX waiting_by_expiry ON waiting (channel_id, expires_at, message_id)
        WHERE expires_at IS NOT NULL;
    CREATE INDEX waiting_by_reason ON waiting (channel_id, reason, accepted_at);

    CREATE TABLE waiting_bodies (
        row_id INTEGER NOT NULL PRIMARY KEY,
        body BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER waiting_removed AFTER DELETE ON waiting BEGIN
        DELETE FROM waiting_bodies WHERE row_id = old.row_id;
    END;

    CREATE TABLE waiting_channels (
        channel_id TEXT NOT NULL PRIMARY KEY,
        look_at INTEGER NOT NULL,
        look_again_at INTEGER,
        owner TEXT
    ) STRICT;
    CREATE INDEX waiting_channels_by_time ON waiting_channels (look_at, channel_id);
";

/// Version 10. A channel that cannot take messages is held until its `look_at`: messages that become
/// due do not make that earlier.
const HELD_CHANNELS: &str = "
    ALTER TABLE waiting_channels ADD COLUMN is_held INTEGER NOT NULL DEFAULT 0;
";

/// Version 11. How many messages wait for each channel and reason. Triggers keep the counts, so that
/// no writer can forget them.
const WAITING_COUNTS: &str = "
    CREATE TABLE waiting_counts (
        channel_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (channel_id, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER waiting_count_put AFTER INSERT ON waiting BEGIN
        INSERT INTO waiting_counts VALUES (new.channel_id, new.reason, 1)
            ON CONFLICT DO UPDATE SET count = count + 1;
    END;
    CREATE TRIGGER waiting_count_removed AFTER DELETE ON waiting BEGIN
        UPDATE waiting_counts SET count = count - 1
            WHERE channel_id = old.channel_id AND reason = old.reason;
    END;
    CREATE TRIGGER waiting_count_changed AFTER UPDATE OF reason ON waiting
        WHEN new.reason <> old.reason
    BEGIN
        UPDATE waiting_counts SET count = count - 1
            WHERE channel_id = old.channel_id AND reason = old.reason;
        INSERT INTO waiting_counts VALUES (new.channel_id, new.reason, 1)
            ON CONFLICT DO UPDATE SET count = count + 1;
    END;
    CREATE TRIGGER waiting_count_ended AFTER UPDATE ON waiting_counts WHEN new.count = 0 BEGIN
        DELETE FROM waiting_counts
            WHERE channel_id = new.channel_id AND reason = new.reason;
    END;
    INSERT INTO waiting_counts
        SELECT channel_id, reason, count(*) FROM waiting GROUP BY channel_id, reason;
";

/// Version 12. The contents of answers, apart from the entries: a timeline stays short, and the
/// content is in one place. `content` is the JSON of a `KeptAnswer`.
const ANSWERS: &str = "
    CREATE TABLE answers (
        callback_id TEXT NOT NULL PRIMARY KEY,
        message_id TEXT NOT NULL,
        channel_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        content TEXT NOT NULL
    ) STRICT;
    CREATE INDEX answers_of_message ON answers (message_id, at, callback_id);
    CREATE INDEX answers_of_session ON answers (session_id, at, callback_id);
";

/// Version 13. The times by which answers are due. The index holds only the messages that have one:
/// a message loses its time when it is overdue or answered.
const ANSWERS_DUE: &str = "
    ALTER TABLE messages ADD COLUMN answer_by INTEGER;
    CREATE INDEX messages_unanswered ON messages (answer_by, message_id)
        WHERE answer_by IS NOT NULL;
    ALTER TABLE contents ADD COLUMN answer_within_ms INTEGER;
";

/// Version 14. The erasures of sessions, and when contents were erased. A replayed dead letter, which
/// is not read again, keeps no detail.
///
/// The events that hold contents have a table of their own, to which rows are only appended. In
/// `entries`, rows are inserted between others: SQLite then moves rows within their pages, and may
/// leave copies that no deletion overwrites.
const ERASURES: &str = "
    CREATE TABLE erasures (
        session_id TEXT NOT NULL PRIMARY KEY,
        requested_at INTEGER NOT NULL,
        ended_at INTEGER
    ) STRICT;
    CREATE INDEX erasures_unfinished ON erasures (requested_at, session_id) WHERE ended_at IS NULL;
    CREATE INDEX erasures_ended ON erasures (ended_at) WHERE ended_at IS NOT NULL;
    ALTER TABLE messages ADD COLUMN erased_at INTEGER;
    ALTER TABLE answers ADD COLUMN erased_at INTEGER;
    ALTER TABLE dead_letters ADD COLUMN erased_at INTEGER;
    UPDATE dead_letters SET detail = '' WHERE replayed_by IS NOT NULL;
    ALTER TABLE replays ADD COLUMN contents_erased INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE entry_contents (
        entry_id TEXT NOT NULL PRIMARY KEY,
        event TEXT NOT NULL
    ) STRICT;
    CREATE INDEX waiting_by_session ON waiting (session_id, message_id);
";

/// Version 15. Answers without a message, and what became of these: `latest` is an entry as text that
/// begins with its rank and time. Replays read answers by their time and channel, and name what they
/// skip, which
/// says more than the number of those whose contents were erased.
const ANSWERS_TO_REPLAY: &str = "
    CREATE TABLE all_answers (
        callback_id TEXT NOT NULL PRIMARY KEY,
        message_id TEXT,
        channel_id TEXT,
        session_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        content TEXT,
        latest TEXT,
        erased_at INTEGER
    ) STRICT;
    INSERT INTO all_answers (callback_id, message_id, channel_id, session_id, at, content, erased_at)
        SELECT callback_id, message_id, channel_id, session_id, at, content, erased_at FROM answers;
    DROP TABLE answers;
    ALTER TABLE all_answers RENAME TO answers;
    CREATE INDEX answers_of_message ON answers (message_id, at, callback_id)
        WHERE message_id IS NOT NULL;
    CREATE INDEX answers_without_message ON answers (at) WHERE message_id IS NULL;
    CREATE INDEX answers_of_session ON answers (session_id, at, callback_id);
    CREATE INDEX answers_of_channel ON answers (channel_id, at, callback_id)
        WHERE channel_id IS NOT NULL;
    CREATE INDEX answers_by_time ON answers (at, callback_id);
    ALTER TABLE replays ADD COLUMN skips TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE replays DROP COLUMN contents_erased;
";

/// Version 16. The events of sessions, in the order in which they were stored. `AUTOINCREMENT` keeps
/// SQLite from giving the number of a removed event to a new one. The row of an answer tells whether its
/// event is stored, so the index leaves answers out.
const SESSION_EVENTS: &str = "
    CREATE TABLE session_events (
        sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        event_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        channel_id TEXT,
        message_id TEXT,
        type TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX session_events_of_session ON session_events (session_id, sequence);
    CREATE UNIQUE INDEX session_events_by_id ON session_events (event_id) WHERE type <> 'answer';
";
