//! `roundtrip`: one binary; an argument selects the roles of the process.

mod cli;
mod config;
mod descriptors;
mod development;
mod key_file;
mod keys;
mod lifecycle;
mod listener;
mod metrics;
mod operations;
mod rabbitmq_policies;
mod runtime;
mod serve;
mod start;
mod telemetry;
mod workers;

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use roundtrip_client::Exit;
use roundtrip_model::redacted;

use crate::cli::{Cli, Command, ConfigCommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            print(&error);
            let is_wrong = error.use_stderr();
            return ExitCode::from(if is_wrong { Exit::Usage } else { Exit::Done } as u8);
        }
    };
    // Before any connection: otherwise each TLS client chooses its own provider.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("roundtrip: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let file = cli.config.as_deref();
    let done = match cli.command.unwrap_or_default() {
        Command::Serve(arguments) => {
            let roles = arguments.roles();
            config::load(file, &roles).map(|config| serve::run(config, roles))
        }
        Command::Keys { command } => {
            config::read(file).map(|config| keys::run(config.store, command))
        }
        Command::Config { command: None } => Ok(show(config::DEFAULT_FILE)),
        Command::Config {
            command: Some(ConfigCommand::Check { arguments, output }),
        } => config::effective(file, &arguments.roles())
            .map(|settings| show(config::shown(&settings, output))),
        Command::RabbitmqPolicies { definitions } => config::read(file)
            .map(|config| show(rabbitmq_policies::print(&config.broker, definitions))),
        Command::Client(command) => Ok(roundtrip_client::run(*command)),
        Command::Healthcheck(arguments) => config::read(file)
            .map(|config| roundtrip_client::healthcheck(&arguments, config.operations.listen)),
        Command::Completions { shell } => Ok(show(cli::completions(shell))),
        Command::Man { command } => Ok(match cli::manual(&command) {
            Ok(page) => show(page),
            Err(problem) => {
                eprintln!("roundtrip: {}", roundtrip_client::safe(&problem));
                ExitCode::from(Exit::Usage as u8)
            }
        }),
    };
    done.unwrap_or_else(|wrong| config::refuse(&wrong))
}

/// Writes a text to standard output. `print!` would panic if the reader has closed it.
fn show(text: impl AsRef<[u8]>) -> ExitCode {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "roundtrip: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints help to standard output and errors to standard error; a failed write is ignored. An error
/// quotes its argument, which may be a key.
fn print(error: &clap::Error) {
    let text = error.to_string();
    match redacted(&text) {
        Cow::Borrowed(_) => {
            let _ = error.print();
        }
        Cow::Owned(text) => eprint!("{text}"),
    }
}
