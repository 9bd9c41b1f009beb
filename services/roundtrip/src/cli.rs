//! The command line.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue},
};
use roundtrip_model::{ApiKeyId, ChannelId, KeyRole, ids::IdError, key};

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

impl Cli {
    /// Parses the command line. An option without its command is refused with a hint at the
    /// command.
    pub(crate) fn read(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments).map_err(|mut error| {
            if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) {
                let cli = Self::command();
                let owner = cli.get_subcommands().find(|command| {
                    let mut options = command.get_arguments();
                    options.any(|known| known.get_long() == option.strip_prefix("--"))
                });
                let hint =
                    owner.map(|owner| format!("use 'roundtrip {} {option}'", owner.get_name()));
                if let Some(hint) = hint {
                    let hint = ContextValue::StyledStrs(vec![hint.into()]);
                    error.insert(ContextKind::Suggested, hint);
                }
            }
            error
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway; the default without a command
    Serve(ServeArguments),
    /// Create, list and revoke API keys directly in the store; the gateway need not run
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Print the default configuration, every key with its comment
    Config,
    /// Print the RabbitMQ policies for this configuration, one command a line
    RabbitmqPolicies {
        /// As a definitions file instead, for `rabbitmqctl import_definitions`
        #[arg(long)]
        definitions: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key and print it; it is not shown again
    Create(CreateKey),
    /// List the keys, the earliest first
    List,
    /// Revoke a key, or all keys that are limited to some channels
    Revoke(RevokeKeys),
}

#[derive(Debug, Args)]
pub(crate) struct RevokeKeys {
    /// The key's id, from `roundtrip keys list`
    #[arg(value_parser = key_id, required_unless_present = "channels")]
    pub id: Option<ApiKeyId>,
    /// Instead of an id: every key that is limited to this channel; may be repeated, for every key
    /// that is limited to these channels and to no other
    #[arg(long = "channel", value_name = "CHANNEL_ID", conflicts_with = "id")]
    pub channels: Vec<ChannelId>,
}

/// Parses a key's id. The key itself is a likely mistake and gets an error of its own.
fn key_id(text: &str) -> Result<ApiKeyId, String> {
    text.parse().map_err(|error: IdError| {
        if text.starts_with(key::MARK) {
            format!("this is a whole key; {}", key::ID_IN_KEY)
        } else {
            error.to_string()
        }
    })
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// A name for people
    #[arg(long)]
    pub name: String,
    /// producer: sends messages and reads what became of them; viewer: reads everything; operator:
    /// does everything
    #[arg(long, value_name = "producer|viewer|operator")]
    pub role: KeyRole,
    /// A channel that the key is limited to; may be repeated [default: every channel]
    #[arg(long = "channel", value_name = "CHANNEL_ID")]
    pub channels: Vec<ChannelId>,
    /// How long the key is valid, such as 90days [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires_in: Option<Duration>,
    /// The most requests a second to each ingress [default: ingress.rate_per_key]
    #[arg(long = "rate", value_name = "N", value_parser = rate)]
    pub rate_per_second: Option<u32>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text)
        .map_err(|_| "must be a duration with its unit, such as 12h or 90days")
}

fn rate(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|rate| (1..=key::MAX_RATE).contains(rate))
        .ok_or_else(|| format!("must be a whole number from 1 to {}", key::MAX_RATE))
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
    /// The roles of this process; all if none is named.
    pub(crate) fn roles(self) -> BTreeSet<Role> {
        if self.roles.is_empty() {
            Role::every().collect()
        } else {
            self.roles.into_iter().collect()
        }
    }
}

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
    pub(crate) fn every() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// The role's name on the command line and in logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Dispatcher => "dispatcher",
            Self::Forwarder => "forwarder",
            Self::Recorder => "recorder",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_read_is_refused_with_what_is_valid() {
        for (option, value, words) in [
            ("--rate", "many", "must be a whole number from 1 to 1000000"),
            ("--rate", "0", "must be a whole number from 1 to 1000000"),
            ("--expires-in", "90", "must be a duration with its unit"),
            ("--expires-in", "soon", "must be a duration with its unit"),
            (
                "--role",
                "admin",
                "must be producer, operator, viewer or channel",
            ),
            ("--channel", "a b", "must be 1 to 128 characters"),
        ] {
            let mut arguments = vec!["roundtrip", "keys", "create", "--name", "n"];
            if option != "--role" {
                arguments.extend(["--role", "viewer"]);
            }
            arguments.extend([option, value]);
            let error = Cli::read(arguments.iter().map(Into::into)).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn an_option_without_its_command_is_refused_with_a_hint_at_the_command() {
        for arguments in [
            &["roundtrip", "--role", "ingress"][..],
            &["roundtrip", "--role=ingress"],
        ] {
            let error = Cli::read(arguments.iter().map(Into::into)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("use 'roundtrip serve --role'"), "{text}");
        }
    }
}
