//! The command line.

use std::{collections::BTreeSet, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A channel-webhook gateway: posts messages to channels, and carries their answers back.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// The configuration file [default: roundtrip.toml, where there is one]
    #[arg(long, global = true, env = "ROUNDTRIP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway; what runs where no command is named
    Serve(ServeArguments),
    /// Print the default configuration, every key with its comment
    Config,
}

impl Default for Command {
    fn default() -> Self {
        Self::Serve(ServeArguments::default())
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServeArguments {
    /// A role for this process; may be repeated [default: every role]
    #[arg(long = "role", value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
}

impl ServeArguments {
    /// The roles of this process; all where none is named.
    pub(crate) fn roles(self) -> BTreeSet<Role> {
        if self.roles.is_empty() {
            Role::value_variants().iter().copied().collect()
        } else {
            self.roles.into_iter().collect()
        }
    }
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    /// The HTTP API
    Ingress,
    /// Posts messages to channels
    Dispatcher,
    /// Posts answers to the SESSIONS_SERVER
    Forwarder,
    /// Writes what happened into the store, and runs replays
    Recorder,
}

impl Role {
    /// The role's name, as it is written on the command line and in logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Dispatcher => "dispatcher",
            Self::Forwarder => "forwarder",
            Self::Recorder => "recorder",
        }
    }
}
