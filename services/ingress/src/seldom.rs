//! Saying the same thing seldom: a log that grows with every refused request fills the disk of a
//! gateway that is in trouble already.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The least time between two lines that say the same.
const EVERY: Duration = Duration::from_secs(1);

/// One thing that is said.
pub(crate) struct Seldom(Mutex<State>);

struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            unsaid: 0,
        }))
    }

    /// Whether it is time to say it; then, how many times it was not said since.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < EVERY) {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_once_in_a_while_with_what_was_not_said() {
        let seldom = Seldom::new();
        assert_eq!(seldom.due(), Some(0));
        assert_eq!(seldom.due(), None);
        assert_eq!(seldom.due(), None);
        tokio::time::advance(EVERY).await;
        assert_eq!(seldom.due(), Some(2));
    }
}
