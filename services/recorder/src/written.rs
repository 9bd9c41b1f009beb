//! What follows a write to the store: the same for every queue.

use std::time::Duration;

use roundtrip_model::Decision;
use roundtrip_store::GaveUp;

/// How long a message is snoozed whose handler panicked. Its attempts are those of its delivery, so a
/// panic here does not count.
pub(crate) const AFTER_A_PANIC: Duration = Duration::from_secs(30);

/// How long a message is snoozed whose write was given up, or whose notice was not confirmed. A
/// message that is returned to its queue would be redelivered at once, in a loop.
pub(crate) const SNOOZE: Duration = Duration::from_secs(5);

pub(crate) fn decision(written: Result<(), GaveUp>) -> Decision {
    match written {
        Ok(()) => Decision::Done,
        Err(GaveUp) => Decision::Snooze(SNOOZE),
    }
}
