//! `roundtrip`: one binary, and the process's role is an argument.

mod cli;
mod config;
mod development;
mod lifecycle;
mod operations;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or_default() {
        Command::Serve(arguments) => match config::load(cli.config.as_deref()) {
            Ok(config) => serve::run(config, arguments.roles()),
            Err(error) => error.exit(),
        },
        Command::Config => {
            print!("{}", config::DEFAULT_FILE);
            ExitCode::SUCCESS
        }
    }
}
