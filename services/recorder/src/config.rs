//! The recorder's section of the configuration.

use serde::{Deserialize, Serialize};

/// Each holds 1 to 500 entries.
const DEFAULT_BATCHES_AT_ONCE: u16 = 64;
const DEFAULT_DEAD_LETTERS_AT_ONCE: u16 = 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most batches of journal entries held at once, to be written together.
    pub batches_at_once: u16,
    /// The most dead letters of each queue that are written at once.
    pub dead_letters_at_once: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batches_at_once: DEFAULT_BATCHES_AT_ONCE,
            dead_letters_at_once: DEFAULT_DEAD_LETTERS_AT_ONCE,
        }
    }
}
