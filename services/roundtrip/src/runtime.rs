//! The runtime of a command.

use std::process::ExitCode;

use roundtrip_model::{WrongSetting, WrongSettings, redacted};

use crate::config::refuse;

pub(crate) fn run(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("roundtrip: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        command.await.unwrap_or_else(|error| {
            if let Some(wrong) = error.downcast_ref::<WrongSettings>() {
                return refuse(wrong);
            }
            if let Some(wrong) = error.downcast_ref::<WrongSetting>() {
                return refuse(&wrong.clone().into());
            }
            eprintln!("{}", redacted(&format!("roundtrip: {error:#}")));
            ExitCode::FAILURE
        })
    })
}
