//! The queries run: how long the first page of a query takes with many channels.
//!
//! Invariant: the channels are put into the database directly, so that only queries are measured.

use std::time::{Duration, Instant};

use anyhow::Context;
use bson::Document;
use harness::{
    collections::make_collections,
    servers::{Kind, Server},
};
use mongodb::{Client, Collection};
use roundtrip_store::{Config, Direction, Filter, PageRequest, SharedStore, Sort, SortField, open};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::options::Queries;

/// The time limit for the preparation, and the default of `store.timeout`.
const PATIENCE: Duration = Duration::from_mins(2);
const TIMEOUT: Duration = Duration::from_secs(2);

const DATABASE: &str = "queries";

/// Measures the chosen engines, and prints a line for each query.
pub(crate) async fn run(options: &Queries) -> anyhow::Result<()> {
    if options.common.engine.embedded() {
        embedded(options).await?;
    }
    if options.common.engine.rabbitmq() {
        mongodb(options).await?;
    }
    Ok(())
}

/// Every second channel has the tag `even`, ten have the tag `rare`.
fn channel(at: usize, channels: usize) -> Value {
    let mut tags = vec!["all".to_owned(), format!("team-{}", at % 1000)];
    if at.is_multiple_of(2) {
        tags.push("even".to_owned());
    }
    if at.is_multiple_of((channels / 10).max(1)) {
        tags.push("rare".to_owned());
    }
    json!({
        "channel_id": format!("channel-{at:06}"),
        // In another order than the ids.
        "channel_name": format!("Channel {:06}", at * 7919 % channels),
        "channel_description": "Sends messages to a chat, as every other channel does",
        "channel_metadata": {
            "endpoint_url": format!("http://channel-{at}.example/incoming"),
            "delivery": {"timeout": "10s", "max_in_flight": 20},
            "owner": {"team": format!("team-{}", at % 1000), "number": at},
        },
        "channel_tags": tags,
    })
}

fn config(url: &str, timeout: Duration) -> Config {
    Config {
        url: url.to_owned(),
        database: DATABASE.to_owned(),
        timeout,
        ..Config::default()
    }
}

async fn measure(engine: &str, store: &SharedStore, options: &Queries) -> anyhow::Result<()> {
    let (first, middle, last) = (0, options.channels / 2, options.channels.saturating_sub(1));
    let by_name = Sort {
        field: SortField::ChannelName,
        direction: Direction::Ascending,
    };
    for (filter, sort) in [
        (json!({}), Sort::default()),
        (
            json!({"channel_id": format!("channel-{middle:06}")}),
            Sort::default(),
        ),
        (
            json!({"channel_id": {"$gte": format!("channel-{middle:06}")}}),
            Sort::default(),
        ),
        (
            json!({"channel_name": format!("Channel {middle:06}")}),
            Sort::default(),
        ),
        (
            json!({"channel_name": format!("Channel {middle:06}")}),
            by_name,
        ),
        (json!({"channel_tags": "rare"}), Sort::default()),
        (json!({"channel_tags": "rare"}), by_name),
        (
            json!({"channel_tags": {"$in": ["team-7", "rare"]}}),
            Sort::default(),
        ),
        (json!({"channel_tags": "even"}), Sort::default()),
        (json!({"channel_tags": "even"}), by_name),
        (
            json!({"channel_tags": "rare", "channel_metadata.owner.number": first}),
            Sort::default(),
        ),
        (
            json!({"channel_metadata.owner.number": {"$gt": middle}}),
            Sort::default(),
        ),
        (
            json!({"channel_metadata.owner.number": last}),
            Sort::default(),
        ),
        (
            json!({"channel_description": {"$regex": "nowhere"}}),
            Sort::default(),
        ),
    ] {
        let parsed = Filter::parse(&filter)?;
        let mut times = Vec::new();
        let mut outcome = String::new();
        for _ in 0..options.repeat.max(1) {
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
        let median = times[times.len() / 2].as_secs_f64() * 1e3;
        let by = if sort == by_name { " by name" } else { "" };
        println!("{engine:8} {median:8.1} ms  {outcome:20} {filter}{by}");
    }
    Ok(())
}

async fn embedded(options: &Queries) -> anyhow::Result<()> {
    let path = options.common.folder.join("queries.db");
    let url = format!("sqlite:{}", path.display());
    let store = open(&config(&url, TIMEOUT)).await?;
    let mut file = Connection::open(&path)?;
    let transaction = file.transaction()?;
    for at in 0..options.channels {
        let document = channel(at, options.channels);
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
    measure("embedded", &store, options).await?;
    store.close().await;
    Ok(())
}

async fn mongodb(options: &Queries) -> anyhow::Result<()> {
    let server = Server::start(Kind::Mongodb, &options.common.folder.join("mongodb")).await?;
    make_collections(server.url(), DATABASE).await?;
    let client = Client::with_uri_str(server.url()).await?;
    let channels: Collection<Document> = client.database(DATABASE).collection("channels");
    let mut documents = (0..options.channels).map(|at| {
        let channel = channel(at, options.channels);
        let channel = channel.as_object().context("a channel is an object")?;
        anyhow::Ok(Document::try_from(channel.clone())?)
    });
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
    let store = open(&config(server.url(), PATIENCE)).await?;
    harness::wait::until("the indexes", async || {
        let names = channels.list_index_names().await.ok()?;
        let of_tags = |name: &String| name.contains("channel_tags");
        names.iter().any(of_tags).then_some(())
    })
    .await?;
    store.close().await;
    let store = open(&config(server.url(), TIMEOUT)).await?;
    measure("MongoDB", &store, options).await?;
    store.close().await;
    Ok(())
}
