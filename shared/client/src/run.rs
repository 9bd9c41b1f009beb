//! Runs a command to its exit status.

use std::{net::SocketAddr, process::ExitCode};

use roundtrip_model::redacted;

use crate::{
    api::Api,
    arguments::{Command, Common, HealthcheckArguments},
    commands::{
        answers, api_keys, channels, dead_letters, health, messages, openapi, replays, send,
        sessions,
    },
    connection::Connection,
    failure::{Exit, Failure},
    screen::{self, Screen},
};

/// Runs a command of the API.
pub fn run(command: Command) -> ExitCode {
    ended(block_on(call(command)))
}

/// Asks a process whether it is ready. `listens` is where this configuration has its operations port.
pub fn healthcheck(arguments: &HealthcheckArguments, listens: SocketAddr) -> ExitCode {
    match block_on(health::ask(arguments.url.as_deref(), listens)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            // Docker knows only success and 1.
            ExitCode::from(Exit::Failed as u8)
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

fn ended(done: Result<(), Failure>) -> ExitCode {
    let exit = match done {
        Ok(()) | Err(Failure::OutputClosed) => Exit::Done,
        Err(failure) => {
            complain(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn complain(failure: &Failure) {
    // A server may quote a key that it was sent.
    screen::complain(&format!("roundtrip: {}", redacted(&failure.to_string())));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn opened(common: &Common) -> Result<(Api, Screen), Failure> {
    let api = Api::open(&Connection::of(common, variable)?)?;
    Ok((api, Screen::of(common, variable)))
}

async fn call(command: Command) -> Result<(), Failure> {
    match command {
        Command::Channels(with) => {
            let (api, screen) = opened(&with.common)?;
            channels::run(&api, screen, with.command).await
        }
        Command::Send(arguments) => {
            let (api, screen) = opened(&arguments.common)?;
            send::run(&api, screen, arguments).await
        }
        Command::Messages(with) => {
            let (api, screen) = opened(&with.common)?;
            messages::run(&api, screen, with.command).await
        }
        Command::Sessions(with) => {
            let (api, screen) = opened(&with.common)?;
            sessions::run(&api, screen, with.command).await
        }
        Command::Answers(with) => {
            let (api, screen) = opened(&with.common)?;
            answers::run(&api, screen, with.command).await
        }
        Command::DeadLetters(with) => {
            let (api, screen) = opened(&with.common)?;
            dead_letters::run(&api, screen, with.command).await
        }
        Command::Replays(with) => {
            let (api, screen) = opened(&with.common)?;
            replays::run(&api, screen, with.command).await
        }
        Command::ApiKeys(with) => {
            let (api, screen) = opened(&with.common)?;
            api_keys::run(&api, screen, with.command).await
        }
        Command::Openapi(common) => {
            let (api, _) = opened(&common)?;
            openapi::run(&api).await
        }
    }
}
