//! The broker's contract, over both engines.

use std::sync::Arc;

use roundtrip_broker::{Config, SharedBroker};
use roundtrip_model::SystemClock;

async fn open(config: &Config) -> SharedBroker {
    let opened = roundtrip_broker::open(config, Arc::new(SystemClock)).await;
    opened.unwrap_or_else(|error| panic!("cannot open the broker: {error}"))
}

mod embedded {
    use async_trait::async_trait;
    use roundtrip_broker::{
        Config, SharedBroker,
        contract::{Harness, Tweak},
    };
    use tempfile::TempDir;

    /// A folder for each broker, which goes with the harness.
    #[derive(Default)]
    struct Embedded {
        config: Config,
        folders: Vec<TempDir>,
    }

    #[async_trait]
    impl Harness for Embedded {
        async fn make(&mut self, tweak: Tweak) -> SharedBroker {
            let folder = TempDir::new().expect("a folder for the broker's file");
            let file = folder.path().join("made/on/the/way/broker.db");
            self.config = Config {
                url: format!("sqlite:{}", file.display()),
                ..Config::default()
            };
            tweak(&mut self.config);
            self.folders.push(folder);
            super::open(&self.config).await
        }

        async fn reopen(&mut self, broker: SharedBroker) -> SharedBroker {
            broker.close().await;
            super::open(&self.config).await
        }

        async fn close(self) {}
    }

    roundtrip_broker::broker_contract!(Embedded);
}

mod rabbitmq {
    use async_trait::async_trait;
    use lapin::{
        Connection, ConnectionProperties,
        options::{ExchangeDeleteOptions, QueueDeleteOptions},
    };
    use roundtrip_broker::{
        Config, SharedBroker,
        contract::{Harness, Tweak},
    };
    use uuid::Uuid;

    const URL: &str = "TEST_AMQP_URL";

    const TIERS: [&str; 8] = ["1s", "5s", "30s", "2m", "10m", "30m", "2h", "6h"];

    /// A namespace of its own, on the server that the environment names.
    #[derive(Default)]
    struct RabbitMq {
        config: Config,
    }

    #[async_trait]
    impl Harness for RabbitMq {
        async fn make(&mut self, tweak: Tweak) -> SharedBroker {
            let url = std::env::var(URL).unwrap_or_else(|_| {
                panic!("{URL} is not set: run tests/run, or point it to a RabbitMQ")
            });
            let namespace = format!("t-{}", Uuid::now_v7().as_simple());
            self.config = Config {
                url,
                namespace,
                ..Config::default()
            };
            tweak(&mut self.config);
            super::open(&self.config).await
        }

        async fn reopen(&mut self, broker: SharedBroker) -> SharedBroker {
            broker.close().await;
            super::open(&self.config).await
        }

        async fn close(self) {
            // Where it was never made its cause is told already.
            if self.config != Config::default() {
                remove(&self.config)
                    .await
                    .expect("the namespace is removed");
            }
        }
    }

    async fn remove(config: &Config) -> lapin::Result<()> {
        let namespace = &config.namespace;
        let connection = Connection::connect(&config.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let shards = (0..config.outbound_shards).map(|shard| format!("outbound.{shard}"));
        let tiers = TIERS.map(|tier| format!("delay.{tier}"));
        let others = [
            "outbound.retry",
            "callbacks",
            "journal",
            "outbound.dead",
            "callbacks.dead",
            "journal.dead",
        ]
        .map(str::to_owned);
        for queue in shards.chain(tiers.clone()).chain(others) {
            let name = format!("{namespace}.{queue}").into();
            channel
                .queue_delete(name, QueueDeleteOptions::default())
                .await?;
        }
        for exchange in tiers.into_iter().chain(["direct".to_owned()]) {
            let name = format!("{namespace}.{exchange}").into();
            channel
                .exchange_delete(name, ExchangeDeleteOptions::default())
                .await?;
        }
        connection.close(200, "done".into()).await
    }

    roundtrip_broker::broker_contract!(RabbitMq);
}
