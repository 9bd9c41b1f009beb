//! File descriptors: each connection takes one, and the usual limit of a shell is 1,024.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of clients: for channels, the broker, the store and files.
const OTHERS: u64 = 1024;

/// Raises the soft limit to what this many connections need, and warns if the system allows less.
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
    // `None` means unlimited.
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < needed
    {
        tracing::warn!(
            limit,
            needed,
            "the limit on open files is below what ingress.max_connections needs: raise the \
             limit, or lower ingress.max_connections"
        );
    }
}
