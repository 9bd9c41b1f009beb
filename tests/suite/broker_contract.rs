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
    use roundtrip_broker::{Config, SharedBroker, contract::{Harness, Tweak}};
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
