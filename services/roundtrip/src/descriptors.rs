//! File descriptors: every connection takes one, and a shell's usual limit is 1,024.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a process has open beside its clients' connections: those to channels, the broker, the
/// store, its files.
const OTHERS: u64 = 1024;

/// Raises the process's own limit as far as the system lets it, and warns where that is not enough
/// for so many connections.
pub(crate) fn enough_for(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit on open files was not raised");
        }
    }
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    // None is no limit.
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < needed
    {
        tracing::warn!(
            limit,
            needed,
            "fewer files may be open than ingress.max_connections needs: raise the system's limit, \
             or lower that"
        );
    }
}
