//! The command line.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue},
};
use clap_complete::Shell;
use roundtrip_client::{EXIT_CODES, HealthcheckArguments, Output};
use roundtrip_model::{ApiKeyId, ChannelId, KeyRole, ids::IdError, key};

/// A channel-webhook gateway: posts messages to channels, and carries their answers back.
#[derive(Debug, Parser)]
#[command(version, name = "roundtrip", after_help = EXIT_CODES)]
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
    /// Print the default configuration, every key with its comment; or check this one
    Config {
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Print the RabbitMQ policies for this configuration, one command a line
    RabbitmqPolicies {
        /// As a definitions file instead, for `rabbitmqctl import_definitions`
        #[arg(long)]
        definitions: bool,
    },
    #[command(flatten)]
    Client(Box<roundtrip_client::Command>),
    /// Ask whether a process is ready: exit status 0 or 1, for images without a shell
    Healthcheck(HealthcheckArguments),
    /// Print the completions for a shell
    Completions { shell: Shell },
    /// Print the manual page, or that of a command: roundtrip man channels create
    Man { command: Vec<String> },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value that a process would run with, and where it comes from; secrets are left out
    Check {
        #[command(flatten)]
        arguments: ServeArguments,
        /// What to print
        #[arg(long, value_enum, default_value_t)]
        output: Output,
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

/// The completions of the command line for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "roundtrip", &mut script);
    script
}

/// The manual page of a command. An error names the word that is no command.
pub(crate) fn manual(path: &[String]) -> Result<Vec<u8>, String> {
    let mut cli = Cli::command();
    cli.build();
    let mut command = &cli;
    for word in path {
        let found = command.find_subcommand(word);
        command =
            found.ok_or_else(|| format!("'{word}' is no command of '{}'", command.get_name()))?;
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    rendered.map_err(|error| error.to_string())?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/command-line.md");

    fn read(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let arguments = std::iter::once(&"roundtrip").chain(arguments);
        Cli::read(arguments.map(Into::into))
    }

    /// Every command with its path.
    fn paths(command: &clap::Command, path: &[String]) -> Vec<Vec<String>> {
        let mut all = vec![path.to_vec()];
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            all.extend(paths(inner, &path));
        }
        all
    }

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_and_a_manual_page() {
        let all = paths(&Cli::command(), &[]);
        assert!(all.len() > 40, "{all:?}");
        for path in all {
            let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
            arguments.push("--help");
            let help = read(&arguments).unwrap_err();
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp, "{path:?}");
            let page = String::from_utf8(manual(&path).unwrap()).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{path:?}: {page}");
        }
        assert!(manual(&["channels".to_owned(), "no".to_owned()]).is_err());
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            assert!(script.contains("rotate-secret"), "{shell}");
        }
    }

    /// The words of a line, as a shell splits them. `docs/command-line.md` has only single quotes.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn every_command_of_the_page_is_accepted() {
        let lines = PAGE.lines().map(|line| line.trim_start_matches("$ "));
        let commands = lines.filter_map(|line| line.strip_prefix("roundtrip "));
        let commands: Vec<&str> = commands.collect();
        assert!(commands.len() > 20, "{commands:?}");
        for command in commands {
            let command = command.split(['|', '>', '#']).next().unwrap_or_default();
            let words = words(command.trim_end_matches(" &"));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Err(error) = read(&words) {
                panic!("roundtrip {command}: {error}");
            }
        }
    }

    #[test]
    fn the_page_lists_every_exit_status() {
        for line in EXIT_CODES.lines().skip(1) {
            let (status, _) = line.trim_start().split_once(' ').unwrap();
            assert!(PAGE.contains(&format!("\n| {status} |")), "{status}");
        }
    }

    #[test]
    fn an_option_of_a_group_may_stand_before_or_after_its_command() {
        for arguments in [
            &["channels", "--url", "http://h", "list"][..],
            &["channels", "list", "--url", "http://h"],
        ] {
            let cli = read(arguments).unwrap();
            let Some(Command::Client(command)) = cli.command else {
                panic!("{arguments:?}");
            };
            let roundtrip_client::Command::Channels(with) = *command else {
                panic!("{arguments:?}");
            };
            assert_eq!(with.common.url.as_deref(), Some("http://h"));
        }
    }

    #[test]
    fn a_message_and_a_batch_are_two_ways_to_send() {
        for (arguments, is_accepted) in [
            (&["send", "c", "hello", "--session", "s"][..], true),
            (&["send", "c", "-", "--session", "s", "--wait", "5"], true),
            (&["send", "c", "-5", "--json", "--session", "s"], true),
            (&["send", "--batch", "-"], true),
            (&["send"], false),
            (&["send", "c", "hello"], false),
            (&["send", "c", "--session", "s"], false),
            (&["send", "c", "hello", "--batch", "f"], false),
        ] {
            assert_eq!(read(arguments).is_ok(), is_accepted, "{arguments:?}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = format!("rt_key_{}_secret", "0".repeat(32));
        let cli = read(&["channels", "list", "--api-key", &key]).unwrap();
        assert!(!format!("{cli:?}").contains("secret"));
    }

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
