//! Runs each end-to-end case on both setups, so that neither can omit one.

/// Declares each named case, an async function of a `Setup`, as two tests: on the embedded engines,
/// and on RabbitMQ and MongoDB.
macro_rules! on_both_setups {
    ($($case:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() -> anyhow::Result<()> {
                    super::$case(harness::gateway::Setup::Embedded).await.map(drop)
                }
            )+
        }

        mod servers {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() -> anyhow::Result<()> {
                    super::$case(harness::gateway::Setup::Servers).await.map(drop)
                }
            )+
        }
    };
}
