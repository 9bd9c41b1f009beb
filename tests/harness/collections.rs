//! The store's collections, made before a gateway comes to them.
//!
//! Invariant: what is made here is empty and without an index; the gateway makes its own indexes.

use mongodb::Client;

/// Every collection of the store.
const COLLECTIONS: [&str; 12] = [
    "answers",
    "api_keys",
    "channel_secrets",
    "channels",
    "dead_letters",
    "entries",
    "erasures",
    "idempotency",
    "messages",
    "replays",
    "waiting",
    "waiting_channels",
];

/// Makes them in a database that does not have them yet.
///
/// A gateway does not need this. The tests' stand-in, secantusdb 0.7.0b3, hangs forever if an
/// insert and the creation of an index meet on a missing collection.
pub async fn make_collections(url: &str, database: &str) -> mongodb::error::Result<()> {
    let database = Client::with_uri_str(url).await?.database(database);
    for collection in COLLECTIONS {
        database.create_collection(collection).await?;
    }
    Ok(())
}
