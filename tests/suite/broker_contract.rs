//! The broker's contract on both engines.

use std::sync::Arc;

use roundtrip_broker::{Config, SharedBroker};
use roundtrip_model::SystemClock;

async fn open(config: &Config) -> SharedBroker {
    let opened = roundtrip_broker::open(config, Arc::new(SystemClock)).await;
    opened.unwrap_or_else(|error| panic!("cannot open the broker: {error}"))
}

mod embedded {
    use async_trait::async_trait;
    use roundtrip_broker::{Config, SharedBroker};
    use tempfile::TempDir;

    use crate::contract::broker::{Harness, Tweak, broker_contract, patient};

    /// A folder for each broker, removed with the harness.
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
                ..patient()
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

    broker_contract!(Embedded);
}

mod rabbitmq {
    use async_trait::async_trait;
    use harness::{management::Management, test_namespace::remove_namespace};
    use reqwest::Method;
    use roundtrip_broker::{Config, Policy, SharedBroker, policies};
    use serde_json::Value;
    use uuid::Uuid;

    use crate::contract::broker::{Harness, Tweak, broker_contract, patient};

    const URL: &str = "TEST_AMQP_URL";

    /// A namespace of its own on the server that the environment names.
    #[derive(Default)]
    struct RabbitMq {
        config: Config,
        policy: Option<Policy>,
    }

    impl RabbitMq {
        /// As an operator does it.
        async fn set_max_backlog(&mut self) -> anyhow::Result<()> {
            let [_, backlog] = policies(&self.config);
            let management = Management::from_environment()?;
            let body = serde_json::to_value(&backlog)?;
            management
                .set_policy(&backlog.vhost, &backlog.name, &body)
                .await?;
            self.policy = Some(backlog);
            Ok(())
        }
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
                ..patient()
            };
            tweak(&mut self.config);
            let bounds = |config: &Config| (config.max_backlog, config.max_backlog_bytes);
            if bounds(&self.config) != bounds(&Config::default()) {
                self.set_max_backlog().await.expect("the policy is set");
            }
            super::open(&self.config).await
        }

        async fn reopen(&mut self, broker: SharedBroker) -> SharedBroker {
            broker.close().await;
            super::open(&self.config).await
        }

        async fn close(self) {
            if let Some(policy) = &self.policy {
                let management = Management::from_environment().expect("a management API");
                let path = ["policies", &policy.vhost, &policy.name];
                management
                    .call(Method::DELETE, &path, &Value::Null)
                    .await
                    .expect("the policy is removed");
            }
            // If the namespace was never created, its cause has been reported.
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

    broker_contract!(RabbitMq);
}
