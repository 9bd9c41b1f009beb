//! Known channels, kept for a moment.

use crate::SharedChannels;

/// Reads channels through a short-lived cache.
pub struct CachedChannels {
    _store: SharedChannels,
}
