//! The store's contract on both engines.

use std::{env, path::PathBuf};

use async_trait::async_trait;
use bson::{Document, doc};
use harness::{
    collections::make_collections,
    contents::{database_holds, files_hold},
};
use mongodb::{Client, Collection};
use roundtrip_model::ApiKeyId;
use roundtrip_store::{Config, SharedStore, open};
use rusqlite::{Connection, params};
use serde_json::{Map, Value};
use tempfile::TempDir;
use uuid::Uuid;

use crate::contract::store::{Harness, store_contract};

/// The URL of a MongoDB in which tests may create and drop databases.
pub(crate) fn mongodb_url() -> String {
    env::var("TEST_MONGODB_URL")
        .expect("TEST_MONGODB_URL is not set: run tests/run, or point it to a MongoDB")
}

/// A database name that no other test uses.
pub(crate) fn database_name() -> String {
    format!("test_{}", Uuid::now_v7().simple())
}

fn object(document: Value) -> Map<String, Value> {
    match document {
        Value::Object(object) => object,
        other => panic!("no document: {other}"),
    }
}

mod embedded {
    use super::*;

    struct Embedded {
        folder: TempDir,
        store: SharedStore,
    }

    impl Embedded {
        fn path(folder: &TempDir) -> PathBuf {
            folder.path().join("store.db")
        }

        fn file(&self) -> Connection {
            let file = Connection::open(Self::path(&self.folder)).expect("the file");
            file.busy_timeout(super::PATIENCE).expect("a time limit");
            file
        }

        async fn open(folder: &TempDir) -> SharedStore {
            let config = Config {
                url: format!("sqlite:{}", Self::path(folder).display()),
                timeout: super::PATIENCE,
                ..Config::default()
            };
            open(&config).await.expect("an open store")
        }
    }

    #[async_trait]
    impl Harness for Embedded {
        async fn start() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Self::open(&folder).await;
            Self { folder, store }
        }

        fn store(&self) -> &SharedStore {
            &self.store
        }

        async fn second_store(&self) -> SharedStore {
            Self::open(&self.folder).await
        }

        async fn insert_foreign(&self, document: Value) {
            let insert = "
                INSERT INTO channels (channel_id, channel_name, document, uid)
                VALUES (?1, ?2, ?3, lower(hex(randomblob(16))))";
            let text = |field: &str| document[field].as_str().unwrap_or_default();
            let values = params![
                text("channel_id"),
                text("channel_name"),
                document.to_string()
            ];
            self.file()
                .execute(insert, values)
                .expect("a written document");
        }

        async fn stored(&self, id: &str) -> Value {
            let select = "SELECT document FROM channels WHERE channel_id = ?1";
            let document = self
                .file()
                .query_row(select, [id], |row| row.get::<_, String>(0));
            serde_json::from_str(&document.expect("a document")).expect("JSON")
        }

        async fn copy_key(&self, id: &ApiKeyId, active: u16, ended: u16) {
            let copies = "
                WITH RECURSIVE numbers (n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2 + ?3)
                INSERT INTO api_keys (key_id, name, role, created_at, ends_at, hash)
                SELECT printf('key_%032x', n), name, role, created_at,
                    iif(n > ?2, created_at, NULL), hash
                FROM numbers, api_keys WHERE key_id = ?1";
            let copied = self
                .file()
                .execute(copies, params![id.to_string(), active, ended]);
            assert_eq!(copied.expect("copies"), usize::from(active + ended));
        }

        async fn holds(&self, text: &str) -> bool {
            files_hold(self.folder.path(), text).expect("the files")
        }

        async fn stop(self) {}
    }

    store_contract!(Embedded);
}

mod mongo {
    use super::*;

    struct Mongo {
        database: String,
        store: SharedStore,
        foreign: Collection<Document>,
    }

    impl Mongo {
        async fn open(database: &str) -> SharedStore {
            let config = Config {
                url: mongodb_url(),
                database: database.to_owned(),
                max_counted_waiting: crate::contract::store::MAX_COUNTED,
                timeout: super::PATIENCE,
                ..Config::default()
            };
            open(&config).await.expect("an open store")
        }
    }

    #[async_trait]
    impl Harness for Mongo {
        async fn start() -> Self {
            let database = database_name();
            let client = Client::with_uri_str(mongodb_url()).await.expect("a client");
            let foreign = client.database(&database);
            make_collections(&mongodb_url(), &database)
                .await
                .expect("collections");
            Self {
                store: Self::open(&database).await,
                foreign: foreign.collection("channels"),
                database,
            }
        }

        fn store(&self) -> &SharedStore {
            &self.store
        }

        async fn second_store(&self) -> SharedStore {
            Self::open(&self.database).await
        }

        async fn insert_foreign(&self, document: Value) {
            let document: Document = object(document).try_into().expect("BSON");
            self.foreign
                .insert_one(document)
                .await
                .expect("a written document");
        }

        async fn stored(&self, id: &str) -> Value {
            let found = self.foreign.find_one(doc! { "channel_id": id }).await;
            let mut document = found.expect("an answer").expect("a document");
            document.remove("_id");
            bson::Bson::Document(document).into_relaxed_extjson()
        }

        async fn copy_key(&self, id: &ApiKeyId, active: u16, ended: u16) {
            let database = self.foreign.client().database(&self.database);
            let keys: Collection<Document> = database.collection("api_keys");
            let found = keys.find_one(doc! { "_id": id.to_string() }).await;
            let key = found.expect("an answer").expect("a key");
            let copies = (1..=active + ended).map(|number| {
                let mut copy = key.clone();
                copy.insert("_id", format!("key_{number:032x}"));
                if number > active {
                    copy.insert("ends_at", key["created_at"].clone());
                }
                copy
            });
            let copied = keys.insert_many(copies).await.expect("copies");
            assert_eq!(copied.inserted_ids.len(), usize::from(active + ended));
        }

        async fn holds(&self, text: &str) -> bool {
            let found = database_holds(&mongodb_url(), &self.database, text).await;
            found.expect("the documents")
        }

        async fn stop(self) {
            drop(self.store);
            let database = self.foreign.client().database(&self.database);
            database.drop().await.expect("to drop the database");
        }
    }

    store_contract!(Mongo);
}

/// The time limit of a store call: a busy machine must not fail the test.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
