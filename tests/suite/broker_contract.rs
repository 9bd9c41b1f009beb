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
    use harness::realm::remove_namespace;
    use roundtrip_broker::{
        Config, SharedBroker,
        contract::{Harness, Tweak},
    };
    use uuid::Uuid;

    const URL: &str = "TEST_AMQP_URL";

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
                let Config {
                    url,
                    namespace,
                    outbound_shards,
                    ..
                } = &self.config;
                remove_namespace(url, namespace, *outbound_shards)
                    .await
                    .expect("the namespace is removed");
            }
        }
    }

    roundtrip_broker::broker_contract!(RabbitMq);
}
