//! How long queries of 100,000 channels take, on both engines. A measurement, and no test:
//!
//! ```sh
//! tests/run -E 'test(queries_of_many_channels)' --run-ignored only --no-capture
//! ```

use std::time::{Duration, Instant};

use bson::Document;
use harness::collections::make_collections;
use mongodb::{Client, Collection};
use roundtrip_store::{Config, Direction, Filter, PageRequest, SharedStore, Sort, SortField, open};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::store_contract::{database_name, mongodb_url};

const CHANNELS: usize = 100_000;
/// The times are the medians of so many queries.
const REPEATS: usize = 7;
/// The time limit for the preparation, and the default of `store.timeout`.
const PATIENCE: Duration = Duration::from_mins(2);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Every second channel has the tag `even`, ten have the tag `rare`.
fn channel(at: usize) -> Value {
    let mut tags = vec!["all".to_owned(), format!("team-{}", at % 1000)];
    if at.is_multiple_of(2) {
        tags.push("even".to_owned());
    }
    if at % (CHANNELS / 10) == 7 {
        tags.push("rare".to_owned());
    }
    json!({
        "channel_id": format!("channel-{at:06}"),
        // In another order than the ids.
        "channel_name": format!("Channel {:06}", at * 7919 % CHANNELS),
        "channel_description": "Sends messages to a chat, as every other channel does",
        "channel_metadata": {
            "endpoint_url": format!("http://channel-{at}.example/incoming"),
            "delivery": {"timeout": "10s", "max_in_flight": 20},
            "owner": {"team": format!("team-{}", at % 1000), "number": at},
        },
        "channel_tags": tags,
    })
}

fn config(url: String, database: &str, timeout: Duration) -> Config {
    Config {
        url,
        database: database.to_owned(),
        timeout,
        ..Config::default()
    }
}

async fn measure(engine: &str, store: &SharedStore) {
    let by_name = Sort {
        field: SortField::ChannelName,
        direction: Direction::Ascending,
    };
    for (filter, sort) in [
        (json!({}), Sort::default()),
        (json!({"channel_id": "channel-050000"}), Sort::default()),
        (
            json!({"channel_id": {"$gte": "channel-099000"}}),
            Sort::default(),
        ),
        (json!({"channel_name": "Channel 050000"}), Sort::default()),
        (json!({"channel_name": "Channel 050000"}), by_name),
        (json!({"channel_tags": "rare"}), Sort::default()),
        (json!({"channel_tags": "rare"}), by_name),
        (
            json!({"channel_tags": {"$in": ["team-7", "rare"]}}),
            Sort::default(),
        ),
        (json!({"channel_tags": "even"}), Sort::default()),
        (json!({"channel_tags": "even"}), by_name),
        (
            json!({"channel_tags": "rare", "channel_metadata.owner.team": "team-7"}),
            Sort::default(),
        ),
        (
            json!({"channel_metadata.owner.number": {"$gt": 50_000}}),
            Sort::default(),
        ),
        (
            json!({"channel_metadata.owner.number": 99_999}),
            Sort::default(),
        ),
        (
            json!({"channel_description": {"$regex": "nowhere"}}),
            Sort::default(),
        ),
    ] {
        let parsed = Filter::parse(&filter).expect("a filter");
        let mut times = Vec::new();
        let mut outcome = String::new();
        for _ in 0..REPEATS {
            let mut request = PageRequest {
                sort,
                ..PageRequest::default()
            };
            let start = Instant::now();
            let first = store.query(&parsed, &request).await;
            times.push(start.elapsed());
            let mut pages = 1;
            let mut page = first;
            outcome = loop {
                match page {
                    Err(error) => break format!("page {pages}: {error}"),
                    Ok(found) if !found.channels.is_empty() || found.next.is_none() => {
                        break format!("{} on page {pages}", found.channels.len());
                    }
                    Ok(found) => {
                        request.cursor = found.next;
                        page = store.query(&parsed, &request).await;
                        pages += 1;
                    }
                }
            };
        }
        times.sort();
        let median = times[REPEATS / 2].as_secs_f64() * 1e3;
        let by = if sort == by_name { " by name" } else { "" };
        println!("{engine:8} {median:8.1} ms  {outcome:20} {filter}{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn queries_of_many_channels() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    let url = format!("sqlite:{}", path.display());
    let store = open(&config(url, "", TIMEOUT)).await?;
    let mut file = Connection::open(&path)?;
    let transaction = file.transaction()?;
    for at in 0..CHANNELS {
        let document = channel(at);
        let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        transaction
            .prepare_cached(
                "INSERT INTO channels (channel_id, channel_name, document, uid)
                 VALUES (?1, ?2, ?3, ?1)",
            )?
            .execute(params![
                field("channel_id"),
                field("channel_name"),
                document.to_string()
            ])?;
    }
    transaction.commit()?;
    measure("embedded", &store).await;
    store.close().await;

    let database = database_name();
    make_collections(&mongodb_url(), &database).await?;
    let client = Client::with_uri_str(mongodb_url()).await?;
    let channels: Collection<Document> = client.database(&database).collection("channels");
    let mut documents = (0..CHANNELS)
        .map(|at| Document::try_from(channel(at).as_object().expect("an object").clone()));
    loop {
        let some = documents
            .by_ref()
            .take(5_000)
            .collect::<Result<Vec<_>, _>>()?;
        if some.is_empty() {
            break;
        }
        channels.insert_many(some).ordered(false).await?;
    }
    // It makes its indexes over the channels that are there.
    let store = open(&config(mongodb_url(), &database, PATIENCE)).await?;
    harness::wait::until("the indexes", async || {
        let names = channels.list_index_names().await.ok()?;
        names
            .iter()
            .any(|name| name.contains("channel_tags"))
            .then_some(())
    })
    .await?;
    store.close().await;
    let store = open(&config(mongodb_url(), &database, TIMEOUT)).await?;
    measure("MongoDB", &store).await;
    store.close().await;
    client.database(&database).drop().await?;
    Ok(())
}
