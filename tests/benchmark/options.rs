//! The command line of the benchmark.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use harness::cluster_run::{Fault, Victims};

/// Measures the gateway, and proves that kills lose nothing.
#[derive(Debug, Parser)]
#[command(name = "benchmark", args_override_self = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures rates, latency and use of the machine, beside the engines' raw rates.
    Run(Run),
    /// Posts messages while every component fails at random; none may be lost.
    Faults(Faults),
    /// Replays dead letters and kills the recorder half-way; none may be lost.
    Replay(Replay),
    /// Makes the store unavailable under load; nothing may be refused or missing.
    Store(StoreUnavailable),
    /// Kills or freezes nodes of a RabbitMQ cluster under load; nothing may be lost.
    Cluster(ClusterAway),
    /// Measures how channels that hang and fail slow the others.
    Isolation(Isolation),
    /// Measures how forged answers slow the honest ones; none may be accepted.
    Forged(Forged),
    /// Measures how one channel's answers slow the others, when the sessions server fails over them
    /// and when they flood one token.
    Answers(Answers),
    /// Measures how soon a producer that waits has an answer, by the process that accepts it.
    Awaited(Awaited),
    /// Queues messages for dead endpoints and measures the memory of every role.
    Memory(Memory),
    /// Measures how long queries of many channels take.
    Queries(Queries),
    /// Measures what many messages that wait for a paused channel cost, and how fast they go after
    /// the resume.
    Waiting(Waiting),
    /// Measures how messages leave the store: retries made now, scheduled messages, and channels that
    /// are resumed one by one.
    Releases(Releases),
    /// Sends messages whose answer is due soon and of which half get none, and measures when these
    /// become overdue; exactly these may.
    Overdue(Overdue),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages in each measurement.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) messages: u64,
    /// Posts (and raw publishes) in progress at once.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// The size of a posted (and raw) body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// The channels that the messages are for, in turn.
    #[arg(long, default_value_t = 16)]
    pub(crate) channels: usize,
    /// Messages sent one at a time, for the latency.
    #[arg(long, default_value_t = 300)]
    pub(crate) one_at_a_time: u64,
    /// Runs; the report shows their median, least and greatest.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
    /// Also writes the results here, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl Run {
    pub(crate) fn size(&self) -> Size {
        Size {
            messages: self.messages,
            in_flight: self.in_flight,
            body_bytes: self.body_bytes,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Queries {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Channels in the store.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) channels: usize,
    /// Runs of each query; the report shows their median.
    #[arg(long, default_value_t = 7)]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Faults {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages to post.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) messages: usize,
    /// The number of random faults.
    #[arg(long = "faults", default_value_t = 8)]
    pub(crate) count: usize,
    /// Only SIGKILLs of the gateway's processes, no other faults.
    #[arg(long)]
    pub(crate) kills_only: bool,
    /// The seed of the faults; random if absent.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The most seconds of the run on one engine.
    #[arg(long, default_value = "900", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Dead letters to replay.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: usize,
    /// Their rate a second.
    #[arg(long, default_value_t = 500)]
    pub(crate) rate: u32,
    /// The most seconds of the run on one engine.
    #[arg(long, default_value = "600", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct StoreUnavailable {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds without the store.
    #[arg(long = "seconds", default_value = "120", value_parser = seconds)]
    pub(crate) outage: Duration,
    /// Messages a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Seconds until everything must be recorded, after the store is back.
    #[arg(long, default_value = "300", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterAway {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The fault of the nodes.
    #[arg(long, value_enum, default_value = "kill")]
    pub(crate) fault: Fault,
    /// Which nodes fail.
    #[arg(long, value_enum, default_value = "majority")]
    pub(crate) victims: Victims,
    /// The fault's duration in seconds.
    #[arg(long = "seconds", default_value = "30", value_parser = seconds)]
    pub(crate) lasts: Duration,
    /// Messages to post.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) messages: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u32,
    /// Seconds until everything must be forwarded, after the nodes are back.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Isolation {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Channels, of which two are bad.
    #[arg(long, default_value_t = 100)]
    pub(crate) channels: usize,
    /// Messages for the good channels in each run.
    #[arg(long, default_value_t = 6_000)]
    pub(crate) messages: usize,
    /// Messages a second for the good channels.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Messages that wait for the hung channel.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) waiting: usize,
    /// Messages that wait for the failing channel.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) failing: usize,
    /// The size of a posted body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// Runs with the bad channels, and as many without, in turn.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Forged {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Forged answers in each round.
    #[arg(long = "forged", default_value_t = 10_000)]
    pub(crate) count: usize,
    /// Connections of the forged answers; each sends one after the other.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) forgers: usize,
    /// Forged answers a second in all; 0: each as soon as the one before is answered.
    #[arg(long = "forged-rate", default_value_t = 0)]
    pub(crate) pace: u32,
    /// Honest answers a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Honest answers before the forged ones, in each round.
    #[arg(long, default_value_t = 600)]
    pub(crate) honest: u32,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the option's name")]
pub(crate) struct Answers {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Channels, of which one disturbs.
    #[arg(long, default_value_t = 20)]
    pub(crate) channels: usize,
    /// Honest answers in each run.
    #[arg(long, default_value_t = 4_000)]
    pub(crate) answers: usize,
    /// Honest answers a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Answers a second over which the sessions server fails.
    #[arg(long, default_value_t = 50)]
    pub(crate) poison_rate: u32,
    /// Connections of the flood.
    #[arg(long, default_value_t = 16)]
    pub(crate) flooders: usize,
    /// The size of each answer of the flood.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) flood_bytes: usize,
    /// Runs of each measurement.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Awaited {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages, one after the other, for each process that accepts their answers.
    #[arg(long, default_value_t = 200)]
    pub(crate) messages: usize,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the option's name")]
pub(crate) struct Waiting {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages that wait for the paused channel.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) waiting: usize,
    /// Messages for the other channels in each measurement.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: usize,
    /// Messages a second for the other channels.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) rate: u32,
    /// Ends before the channel is resumed.
    #[arg(long)]
    pub(crate) without_resume: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Releases {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What is released.
    #[arg(long, value_enum)]
    pub(crate) run: Release,
    /// Messages; with `--run channels` those of each channel.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) messages: usize,
    /// Channels of `--run channels`.
    #[arg(long, default_value_t = 300)]
    pub(crate) channels: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Overdue {
    #[command(flatten)]
    pub(crate) common: Common,
    #[arg(long, default_value_t = 5_000)]
    pub(crate) messages: usize,
    /// Kills each process once.
    #[arg(long)]
    pub(crate) kills: bool,
}

/// What is released from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Release {
    /// Messages on the last interval of their schedule, by `POST /channel/{id}/retry`.
    Retries,
    /// Messages with one `deliver_at`, by the time.
    Scheduled,
    /// The messages of paused channels, by the resume of one after the other.
    Channels,
}

#[derive(Debug, Args)]
pub(crate) struct Memory {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages to queue.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) messages: u64,
    /// Posts in progress at once.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// The size of a posted body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// The kind of dead endpoint.
    #[arg(long, value_enum, default_value_t = Dead::Both)]
    pub(crate) dead: Dead,
    /// Seconds of attempts after all messages are queued.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) observe: Duration,
    /// The most resident memory of a role, in MB.
    #[arg(long, default_value_t = 150)]
    pub(crate) limit_mb: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The engines of the gateway.
    #[arg(long, value_enum, default_value_t = Engine::All)]
    pub(crate) engine: Engine,
    /// The folder of servers and processes; it keeps their logs.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// More environment variables for the gateway, as NAME=VALUE.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) env: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// SQLite, one process.
    Embedded,
    /// RabbitMQ and MongoDB's protocol, a process for each role.
    Rabbitmq,
    /// Both, one after the other.
    All,
}

/// A kind of dead endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dead {
    /// Connections are refused: every attempt fails at once.
    Refused,
    /// Connections are accepted and never answered: every attempt times out.
    Silent,
    /// One after the other, each on a new stack.
    Both,
}

impl Dead {
    /// Each kind separately.
    pub(crate) fn each(self) -> &'static [Self] {
        match self {
            Self::Refused => &[Self::Refused],
            Self::Silent => &[Self::Silent],
            Self::Both => &[Self::Refused, Self::Silent],
        }
    }
}

impl Engine {
    pub(crate) fn embedded(self) -> bool {
        self != Self::Rabbitmq
    }

    pub(crate) fn rabbitmq(self) -> bool {
        self != Self::Embedded
    }
}

/// The size of one measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) messages: u64,
    pub(crate) in_flight: usize,
    pub(crate) body_bytes: usize,
}

impl Size {
    /// The rate of this many messages in this time.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub(crate) fn per_second(self, took: Duration) -> f64 {
        self.messages as f64 / took.as_secs_f64()
    }
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("'{text}' is no number above 0")),
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("'{text}' is not NAME=VALUE"))
}
