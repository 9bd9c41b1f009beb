//! `roundtrip`: one binary; an argument selects the roles of the process.

mod cli;
mod config;
mod descriptors;
mod development;
mod key_file;
mod keys;
mod lifecycle;
mod listener;
mod operations;
mod rabbitmq_policies;
mod runtime;
mod serve;
mod start;
mod telemetry;
mod workers;

use std::{borrow::Cow, process::ExitCode};

use roundtrip_model::redacted;

use crate::{
    cli::{Cli, Command},
    config::EXIT_USAGE,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            print(&error);
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match cli.command.unwrap_or_default() {
        Command::Serve(arguments) => match config::load(cli.config.as_deref()) {
            Ok(config) => serve::run(config, arguments.roles()),
            Err(error) => error.exit(),
        },
        Command::Keys { command } => match config::read(cli.config.as_deref()) {
            Ok(config) => keys::run(config.store, command),
            Err(error) => error.exit(),
        },
        Command::Config => {
            print!("{}", config::DEFAULT_FILE);
            ExitCode::SUCCESS
        }
        Command::RabbitmqPolicies { definitions } => match config::read(cli.config.as_deref()) {
            Ok(config) => {
                print!("{}", rabbitmq_policies::print(&config.broker, definitions));
                ExitCode::SUCCESS
            }
            Err(error) => error.exit(),
        },
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
