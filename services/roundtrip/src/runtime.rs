//! The runtime of a command.

use std::process::ExitCode;

use roundtrip_model::redacted;

use crate::config::Problem;

/// Runs a command to its end. An error goes to standard error.
pub(crate) fn run(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    // Before any connection: otherwise each TLS client chooses its own provider.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("roundtrip: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("roundtrip: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        command.await.unwrap_or_else(|error| {
            if let Some(problem) = error.downcast_ref::<Problem>() {
                return problem.exit();
            }
            eprintln!("{}", redacted(&format!("roundtrip: {error:#}")));
            ExitCode::FAILURE
        })
    })
}
