//! Which faults, and when: drawn from a seed, so that a run can be repeated.
//!
//! Invariant: every kind comes once before any comes twice.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use crate::stack::Role;

/// How long what fails for a while does so, in milliseconds.
const LASTS_MS: std::ops::Range<u64> = 500..3_000;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of a process of the gateway.
    Kill(Role),
    /// SIGKILL of the RabbitMQ node.
    KillBroker,
    /// Every connection to the broker is cut.
    CutBroker,
    /// Every connection to the store is cut.
    CutStore,
    /// The store cannot be reached for a while.
    StoreUnavailable,
    /// Every channel answers 500 for a while.
    ChannelsFail,
    /// Every channel is paused for a while.
    ChannelsPaused,
    /// The sessions server answers 503 for a while.
    SessionsFail,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Kill(role) => return f.pad(&format!("kill of {role}")),
            Self::KillBroker => "kill of the RabbitMQ node",
            Self::CutBroker => "broker's connections cut",
            Self::CutStore => "store's connections cut",
            Self::StoreUnavailable => "store unavailable",
            Self::ChannelsFail => "channels answer 500",
            Self::ChannelsPaused => "channels paused",
            Self::SessionsFail => "sessions server fails",
        };
        f.pad(what)
    }
}

/// A fault and its place in the stream of messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawn {
    pub(super) fault: Fault,
    /// After so many accepted messages.
    pub(super) place: u64,
    /// How long it lasts, where it is one that passes.
    pub(super) lasts: Duration,
}

/// A kill of each of these processes.
pub(super) fn kills(roles: &[Role]) -> Vec<Fault> {
    roles.iter().copied().map(Fault::Kill).collect()
}

/// Every kind of fault; `servers` says whether broker and store are servers.
pub(super) fn every_kind(roles: &[Role], servers: bool) -> Vec<Fault> {
    let mut kinds = kills(roles);
    kinds.extend([
        Fault::ChannelsFail,
        Fault::ChannelsPaused,
        Fault::SessionsFail,
    ]);
    if servers {
        kinds.extend([
            Fault::KillBroker,
            Fault::CutBroker,
            Fault::CutStore,
            Fault::StoreUnavailable,
        ]);
    }
    kinds
}

/// Draws so many faults of these kinds over so many messages.
pub(super) fn draw(seed: u64, faults: usize, messages: u64, kinds: &[Fault]) -> Vec<Drawn> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bag: Vec<Fault> = Vec::new();
    let stretch = messages / (faults as u64 + 1);
    (0..faults as u64)
        .filter_map(|number| {
            if bag.is_empty() {
                bag.extend(kinds);
                bag.shuffle(&mut random);
            }
            Some(Drawn {
                fault: bag.pop()?,
                place: stretch * number + random.random_range(0..stretch.max(1)),
                lasts: Duration::from_millis(random.random_range(LASTS_MS)),
            })
        })
        .collect()
}
