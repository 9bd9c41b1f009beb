//! Each end-to-end case over both setups, so that neither can skip one.

/// Declares the named cases, each a plain async function of a `Setup`, as a test on the embedded
/// engines and as one on RabbitMQ and MongoDB.
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
