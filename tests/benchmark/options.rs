//! What can be asked of the benchmark.

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
    /// Measures rates, latency and use of the machine, beside the engines' own raw rates.
    Run(Run),
    /// Posts messages while everything fails that can; none may be lost.
    Faults(Faults),
    /// Replays dead letters and kills the process that does it half-way; none may be lost.
    Replay(Replay),
    /// Takes the store away under load; nothing may be refused or missing.
    Store(StoreAway),
    /// Kills or freezes nodes of a RabbitMQ cluster under load; nothing may be lost.
    Cluster(ClusterAway),
    /// Measures what channels that hang and fail cost the others.
    Isolation(Isolation),
    /// Measures what forged answers cost the honest ones; none may be taken.
    Forged(Forged),
    /// Measures what one channel's answers cost the others, when the sessions server fails over them and
    /// when they are a flood through one token.
    Answers(Answers),
    /// Queues messages for a dead endpoint and measures the memory of every role.
    Memory(Memory),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages in each measurement.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) messages: u64,
    /// Posts (and raw publishes) under way at once.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// The size of a posted (and raw) body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// Channels that the messages are for, in turn.
    #[arg(long, default_value_t = 16)]
    pub(crate) channels: usize,
    /// Messages sent one at a time, for the latency.
    #[arg(long, default_value_t = 300)]
    pub(crate) one_at_a_time: u64,
    /// Runs; the median of them is shown, with the least and the greatest.
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
pub(crate) struct Faults {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages that are posted.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) messages: usize,
    /// Faults that are drawn.
    #[arg(long = "faults", default_value_t = 8)]
    pub(crate) count: usize,
    /// SIGKILLs of the gateway's processes and no other faults.
    #[arg(long)]
    pub(crate) kills_only: bool,
    /// What they are drawn from; another one each time where it is not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Seconds that the run on one engine may take.
    #[arg(long, default_value = "900", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Dead letters that are replayed.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: usize,
    /// How many a second.
    #[arg(long, default_value_t = 500)]
    pub(crate) rate: u32,
    /// Seconds that the run on one engine may take.
    #[arg(long, default_value = "600", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct StoreAway {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds that the store is away.
    #[arg(long = "seconds", default_value = "120", value_parser = seconds)]
    pub(crate) outage: Duration,
    /// Messages a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Seconds until everything must be recorded, once the store is back.
    #[arg(long, default_value = "300", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterAway {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What happens to nodes.
    #[arg(long, value_enum, default_value = "kill")]
    pub(crate) fault: Fault,
    /// To which of them.
    #[arg(long, value_enum, default_value = "majority")]
    pub(crate) victims: Victims,
    /// For how many seconds.
    #[arg(long = "seconds", default_value = "30", value_parser = seconds)]
    pub(crate) lasts: Duration,
    /// Messages that are posted.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) messages: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u32,
    /// Seconds until everything must be forwarded, once the nodes are back.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) limit: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Isolation {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Channels; two of them are bad.
    #[arg(long, default_value_t = 100)]
    pub(crate) channels: usize,
    /// Messages for the good channels in each run.
    #[arg(long, default_value_t = 6_000)]
    pub(crate) messages: usize,
    /// Messages a second for the good channels.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Messages that wait for the channel that hangs.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) waiting: usize,
    /// Messages that wait for the channel that fails.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) failing: usize,
    /// The size of a posted body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// Runs with the bad channels, and as many without; they take turns.
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
    /// Connections that they come over, one after the other on each.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) forgers: usize,
    /// Forged answers a second in all; 0: each as soon as the one before it is answered.
    #[arg(long = "forged-rate", default_value_t = 0)]
    pub(crate) pace: u32,
    /// Honest answers a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Honest answers before the forged ones begin, in each round.
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
    /// Channels; one of them disturbs.
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
    /// Connections over which the flood comes.
    #[arg(long, default_value_t = 16)]
    pub(crate) flooders: usize,
    /// The size of each answer of the flood.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) flood_bytes: usize,
    /// Runs of each.
    #[arg(long, default_value_t = 3)]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Memory {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages that are queued.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) messages: u64,
    /// Posts under way at once.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// The size of a posted body.
    #[arg(long, default_value_t = 400)]
    pub(crate) body_bytes: usize,
    /// How the endpoints are dead.
    #[arg(long, value_enum, default_value_t = Dead::Both)]
    pub(crate) dead: Dead,
    /// Seconds that the tries go on, once all is queued.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) observe: Duration,
    /// The most resident memory that a role may ever hold, in MB.
    #[arg(long, default_value_t = 150)]
    pub(crate) limit_mb: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// What the gateway runs on.
    #[arg(long, value_enum, default_value_t = Engine::All)]
    pub(crate) engine: Engine,
    /// Where servers and processes work; what is there afterwards are their logs.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Further environment for the gateway, as NAME=VALUE.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) env: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// SQLite, one process.
    Embedded,
    /// RabbitMQ and MongoDB's wire, a process for each role.
    Rabbitmq,
    /// Both, one after the other.
    All,
}

/// How an endpoint is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dead {
    /// Connections are refused: every try fails at once.
    Refused,
    /// Connections are taken and nothing is ever answered: every try waits for its time limit.
    Silent,
    /// The one, and then the other on a new stack.
    Both,
}

impl Dead {
    /// Each on its own.
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

/// How much is measured at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) messages: u64,
    pub(crate) in_flight: usize,
    pub(crate) body_bytes: usize,
}

impl Size {
    /// The rate of that many messages in that time.
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
