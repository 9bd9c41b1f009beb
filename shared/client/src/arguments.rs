//! The commands and their options.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::filters;

/// The rows that a list prints without `--limit`.
const DEFAULT_ROWS: u32 = 100;
/// The most rows of a list, which are in memory at once.
const MAX_ROWS: i64 = 100_000;
/// The highest rate of a replay that the API takes.
const MAX_RATE: i64 = 10_000;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register, change, pause and delete channels
    Channels(With<ChannelsCommand>),
    /// Send a message to a channel, or many from a file
    Send(SendArguments),
    /// Find messages, see what happened to one, follow new ones, send past ones again
    Messages(With<MessagesCommand>),
    /// Read or follow a session, or erase its contents
    Sessions(With<SessionsCommand>),
    /// Send answers to the sessions server again
    Answers(With<AnswersCommand>),
    /// Find, replay and purge messages and answers that are not attempted again
    DeadLetters(With<DeadLettersCommand>),
    /// Watch and end replays
    Replays(With<ReplaysCommand>),
    /// Create, list and revoke API keys through the API
    ApiKeys(With<ApiKeysCommand>),
    /// Print the gateway's OpenAPI document
    Openapi(Common),
}

/// The commands of a group, with the options that all of them have.
#[derive(Debug, Args)]
pub struct With<C: Subcommand> {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: C,
}

/// Which gateway to call, and how to print.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// The gateway's URL [env: ROUNDTRIP_URL] [default: http://127.0.0.1:8000]
    #[arg(long, global = true, value_name = "URL", help_heading = CONNECTION)]
    pub url: Option<String>,
    /// An API key. Process lists show it here: prefer the variable or a profile [env:
    /// ROUNDTRIP_API_KEY]
    #[arg(long, global = true, value_name = "KEY", help_heading = CONNECTION)]
    pub api_key: Option<SecretString>,
    /// A PEM file of the authorities to trust in place of the system's [env: ROUNDTRIP_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = CONNECTION)]
    pub ca_file: Option<PathBuf>,
    /// URL and key from the file of profiles [env: ROUNDTRIP_PROFILE; the file: ROUNDTRIP_PROFILES]
    #[arg(long, global = true, value_name = "NAME", help_heading = CONNECTION)]
    pub profile: Option<String>,
    /// What to print
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub output: Output,
}

const CONNECTION: &str = "Connection";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// The API's JSON: one document, or for a list one line for each item
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Rows {
    /// The most rows
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ROWS))]
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Confirmation {
    /// Do not ask; needed without a terminal
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ChannelsCommand {
    /// List channels, in the order of their ids
    List {
        /// A filter in MongoDB's query language, such as {"channel_tags": "slack"}
        #[arg(long, value_name = "JSON", value_parser = object)]
        filter: Option<Map<String, Value>>,
        /// channel_id or channel_name; a minus before it is descending
        #[arg(long, allow_hyphen_values = true)]
        sort: Option<String>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Show a channel
    Get { channel_id: String },
    /// Create a channel, and print its signing secret, which is shown once
    Create {
        /// Needed unless the file names it
        channel_id: Option<String>,
        #[command(flatten)]
        fields: ChannelFields,
    },
    /// Change a channel; what is not named stays
    Update {
        channel_id: String,
        #[command(flatten)]
        fields: ChannelFields,
    },
    /// Delete a channel; its messages become dead letters
    Delete {
        channel_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Keep a channel's messages, and deliver none
    Pause { channel_id: String },
    /// Deliver them again
    Resume { channel_id: String },
    /// Show how many messages wait for a channel, and why
    Waiting { channel_id: String },
    /// Attempt the messages that wait for a retry now
    Retry { channel_id: String },
    /// Make a new signing secret and print it; it is shown once
    RotateSecret {
        channel_id: String,
        /// How long to sign with the old secret too, such as 1day; 0s stops that now [default: the gateway's setting]
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
}

#[derive(Debug, Default, Args)]
pub struct ChannelFields {
    /// A file with the channel as JSON, or - for standard input; the options take precedence over it
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where messages are posted
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// A name for people
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Merged into channel_metadata, such as {"delivery": {"timeout": "5s"}}; null removes a key
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub metadata: Option<Map<String, Value>>,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    let wrong = |error| format!("must be a JSON object: {error}");
    serde_json::from_str(text).map_err(wrong)
}

#[derive(Debug, Args)]
pub struct SendArguments {
    #[command(flatten)]
    pub common: Common,
    #[arg(required_unless_present = "batch", requires = "message")]
    pub channel_id: Option<String>,
    /// The text, or - for standard input
    #[arg(allow_hyphen_values = true)]
    pub message: Option<String>,
    /// The conversation that the message belongs to
    #[arg(long, value_name = "SESSION_ID", required_unless_present = "batch")]
    pub session: Option<String>,
    /// The message is JSON instead of a text
    #[arg(long)]
    pub json: bool,
    /// Wait for the answer, at most so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u32>,
    /// Do not deliver before this time: a time, or how long from now, such as 2h
    #[arg(long, value_name = "TIME", value_parser = filters::future)]
    pub deliver_at: Option<String>,
    /// Begin no attempt from this time on
    #[arg(long, value_name = "TIME", value_parser = filters::future)]
    pub expires_at: Option<String>,
    /// The message is overdue without an answer by then, such as 15m
    #[arg(long, value_name = "DURATION")]
    pub answer_within: Option<String>,
    /// Where the channel answers, instead of to the gateway
    #[arg(long, value_name = "URL")]
    pub response_url: Option<String>,
    /// A repeat with the same key sends nothing twice; with --batch of the same file
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Send every line of this file, each a message as JSON; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["channel_id", "message", "session",
        "json", "wait", "deliver_at", "expires_at", "answer_within", "response_url"])]
    pub batch: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum MessagesCommand {
    /// List messages, the latest first
    List {
        #[command(flatten)]
        filter: filters::Messages,
        #[arg(long, value_enum)]
        kind: Option<filters::Kind>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Show a message, its answers and its timeline
    Show {
        message_id: String,
        /// Wait for an answer, or for the end of the message, at most so many seconds
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u32>,
    },
    /// Print messages as they are accepted, until interrupted
    Tail {
        #[command(flatten)]
        filter: filters::Messages,
        #[arg(long, value_enum)]
        kind: Option<filters::Kind>,
    },
    /// Attempt a waiting message now
    Retry { message_id: String },
    /// Remove a waiting message, so that it is not delivered
    Cancel {
        message_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Send past messages to their channels again, also delivered ones
    Replay {
        /// Only this message (msg_…); may be repeated
        #[arg(long = "id", value_name = "MESSAGE_ID")]
        ids: Vec<String>,
        #[command(flatten)]
        filter: filters::Messages,
        #[command(flatten)]
        options: ReplayOptions,
    },
}

#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Show the messages and answers of a session, the earliest first
    Show {
        session_id: String,
        #[command(flatten)]
        rows: Rows,
    },
    /// Print the answers, inbound messages and ends of a session, and new ones until interrupted
    Tail { session_id: String },
    /// Erase the contents of a session, in every channel
    Erase {
        session_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Subcommand)]
pub enum AnswersCommand {
    /// Send kept answers to the sessions server again
    Replay {
        #[command(flatten)]
        filter: filters::Answers,
        #[command(flatten)]
        options: ReplayOptions,
    },
}

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters
    List {
        #[command(flatten)]
        filter: filters::DeadLetters,
        #[command(flatten)]
        rows: Rows,
    },
    /// Show a dead letter, by its id or by that of its message or answer
    Show { id: String },
    /// Put dead letters back into their queue
    Replay {
        #[command(flatten)]
        filter: filters::DeadLetters,
        /// Every dead letter; needed without a filter
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        options: ReplayOptions,
    },
    /// Remove dead letters for good
    Purge {
        #[command(flatten)]
        filter: filters::DeadLetters,
        /// Every dead letter; needed without a filter
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// The most in a second
    #[arg(long = "rate", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=MAX_RATE))]
    pub rate_per_second: Option<u32>,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
    /// Start it, and do not watch
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub confirmation: Confirmation,
}

#[derive(Debug, Subcommand)]
pub enum ReplaysCommand {
    /// List replays, the latest first
    List {
        #[arg(long, value_enum)]
        status: Option<ReplayStatus>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Show a replay
    Show {
        replay_id: String,
        /// Watch it to its end
        #[arg(long)]
        watch: bool,
    },
    /// Stop a replay; messages that it has already put into a queue stay there
    Stop { replay_id: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ReplayStatus {
    Running,
    Done,
    Cancelled,
}

#[derive(Debug, Subcommand)]
pub enum ApiKeysCommand {
    /// List the keys
    List {
        #[command(flatten)]
        rows: Rows,
    },
    /// Create a key and print it; it is shown once
    Create {
        /// A name for people
        #[arg(long)]
        name: String,
        /// producer, viewer, operator or channel
        #[arg(long)]
        role: String,
        /// A channel that the key is limited to; may be repeated [default: every channel]
        #[arg(long = "channel", value_name = "CHANNEL_ID")]
        channels: Vec<String>,
        /// The most requests a second to each ingress [default: the gateway's]
        #[arg(long = "rate", value_name = "N")]
        rate_per_second: Option<u32>,
        /// When it ends: a time, or how long from now, such as 90days [default: never]
        #[arg(long, value_name = "TIME", value_parser = filters::future)]
        expires_at: Option<String>,
    },
    /// Revoke a key; this cannot be undone
    Revoke {
        key_id: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
pub struct HealthcheckArguments {
    /// The operations port's URL [default: that of this configuration]
    pub url: Option<String>,
}

impl HealthcheckArguments {
    /// How long the process may take to say that it is ready.
    pub(crate) const LIMIT: Duration = Duration::from_secs(5);
}
