//! Values that other clients of MongoDB wrote keep their types through each of our writes.

use bson::{Binary, DateTime, Document, Regex, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};
use harness::{
    collections::make_collections,
    gateway::{Plan, Setup},
    scripted::{Reply, ScriptedServer},
    wait,
};
use mongodb::{Client, Collection};
use roundtrip_model::ChannelPatch;
use roundtrip_store::{Config, SealedSecret, SharedStore, open};
use serde_json::{Value, json};

use crate::store_contract::{database_name, mongodb_url};

/// A time limit that a busy machine meets.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

struct Opened {
    store: SharedStore,
    channels: Collection<Document>,
}

impl Opened {
    async fn start() -> anyhow::Result<Self> {
        let database = database_name();
        make_collections(&mongodb_url(), &database).await?;
        let config = Config {
            url: mongodb_url(),
            database: database.clone(),
            timeout: TIMEOUT,
            ..Config::default()
        };
        let client = Client::with_uri_str(mongodb_url()).await?;
        Ok(Self {
            store: open(&config).await?,
            channels: client.database(&database).collection("channels"),
        })
    }

    /// The raw document with its types.
    async fn raw(&self) -> anyhow::Result<Document> {
        let found = self.channels.find_one(doc! { "channel_id": "c" }).await?;
        Ok(found.expect("the document"))
    }

    async fn end(self) -> anyhow::Result<()> {
        let Self { store, channels } = self;
        drop(store);
        let database = channels.client().database(&channels.namespace().db);
        Ok(database.drop().await?)
    }
}

/// A value of each type that JSON lacks.
fn typed() -> anyhow::Result<Document> {
    Ok(doc! {
        "date": DateTime::from_millis(1_764_000_000_123),
        "id": ObjectId::from_bytes([7; 12]),
        "price": "123456789.000000000000000001".parse::<bson::Decimal128>()?,
        "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] },
        "long": 5_i64,
        "pattern": Regex { pattern: "^a".try_into()?, options: "i".try_into()? },
        "stamp": Timestamp { time: 1, increment: 2 },
        "infinite": f64::INFINITY,
        "in": [{ "long": 6_i64, "date": DateTime::from_millis(0) }],
    })
}

fn foreign() -> anyhow::Result<Document> {
    Ok(doc! {
        "owner": typed()?,
        "channel_id": "c",
        "channel_name": "n",
        "channel_metadata": {
            "endpoint_url": "http://h/",
            "delivery": { "timeout": "9s", "max_in_flight": 5_i64, "since": DateTime::from_millis(9) },
            "typed": typed()?,
        },
        "channel_tags": ["slack"],
        "made_at": DateTime::from_millis(7),
    })
}

/// Sets a document's `paused`.
fn pause(document: &mut Document, paused: bool) -> anyhow::Result<()> {
    let metadata = document.get_document_mut("channel_metadata")?;
    let delivery = metadata.get_document_mut("delivery")?;
    delivery.insert("paused", paused);
    Ok(())
}

fn patch(json: Value) -> anyhow::Result<ChannelPatch> {
    Ok(serde_json::from_value(json)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_changes_only_its_fields_and_no_other_type() -> anyhow::Result<()> {
    let opened = Opened::start().await?;
    let (store, id) = (&opened.store, "c".parse()?);
    opened.channels.insert_one(foreign()?).await?;
    let mut expected = opened.raw().await?;

    for paused in [true, false] {
        store.set_paused(&id, None, paused).await?;
        pause(&mut expected, paused)?;
        assert_eq!(opened.raw().await?, expected);
    }

    for (name, is_expected) in [("a", false), ("b", true)] {
        let version = store.get(&id).await?.version;
        let change = patch(json!({ "channel_name": name }))?;
        let version = is_expected.then_some(&version);
        store.update(&id, &change, version).await?;
        expected.insert("channel_name", name);
        assert_eq!(opened.raw().await?, expected);
    }

    let secret = SealedSecret {
        sealed: "v1.key.sealed".to_owned(),
        until_ms: None,
    };
    store.replace_secrets(&id, &[], &[secret]).await?;
    assert_eq!(opened.raw().await?, expected);
    opened.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_back_a_channel_changes_no_type() -> anyhow::Result<()> {
    let opened = Opened::start().await?;
    let (store, id) = (&opened.store, "c".parse()?);
    opened.channels.insert_one(foreign()?).await?;
    let mut expected = opened.raw().await?;

    for is_expected in [false, true] {
        let read = store.get(&id).await?;
        let mut metadata = read.channel.channel_metadata;
        metadata["endpoint_url"] = json!("http://new/");
        metadata["typed"]["in"][0]["long"] = json!(7);
        let change = patch(json!({ "channel_metadata": metadata }))?;
        let version = is_expected.then_some(&read.version);
        store.update(&id, &change, version).await?;

        let metadata = expected.get_document_mut("channel_metadata")?;
        metadata.insert("endpoint_url", "http://new/");
        let list = metadata.get_document_mut("typed")?.get_array_mut("in")?;
        let first = list[0].as_document_mut().expect("a document");
        // The first pass changes it; the second writes the same value.
        first.insert("long", 7_i32);
        assert_eq!(opened.raw().await?, expected);
    }
    opened.end().await
}

/// Writes come from the API and from a 410. A field of another type never stops a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_of_another_clients_types_is_shown_delivered_to_and_paused() -> anyhow::Result<()>
{
    let server = ScriptedServer::start(|request| match request.field("session_id").as_str() {
        "gone" => Reply::status(410),
        _ => Reply::ok(),
    })
    .await?;
    let plan = Plan::new(Setup::Servers)?.env("ROUNDTRIP__STORE__CACHE_TTL", "100ms");
    let gateway = plan.start().await?;
    let channels = gateway.test_namespace()?.channels().await?;
    let mut document = foreign()?;
    document.insert("channel_tags", "slack");
    let metadata = document.get_document_mut("channel_metadata")?;
    metadata.insert("endpoint_url", server.url());
    channels.insert_one(document).await?;
    let raw = async || channels.find_one(doc! { "channel_id": "c" }).await;
    let mut expected = raw().await?.expect("the document");

    let shown = gateway.get("/channel/c").await?.expect(200)?.json();
    assert_eq!(shown["channel_tags"], "slack");
    gateway.send("c", "a").await?;
    server.taken_at_least(1).await?;
    for (call, paused) in [("pause", true), ("resume", false)] {
        let path = format!("/channel/c/{call}");
        gateway.post(&path, "").await?.expect(200)?;
        pause(&mut expected, paused)?;
        assert_eq!(raw().await?.as_ref(), Some(&expected));
    }
    gateway.send("c", "gone").await?;
    pause(&mut expected, true)?;
    wait::until("the channel to be paused", async || {
        (raw().await.ok()? == Some(expected.clone())).then_some(())
    })
    .await?;
    let ended = gateway.finish_unaccounted("a message may wait");
    ended.await.map(drop)
}
