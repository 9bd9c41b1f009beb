//! Authentication and authorization of calls by API key, and the calls that manage keys.

mod access;
pub(crate) mod api_keys;
pub(crate) mod authenticator;
mod key_snapshot;
pub(crate) mod loopback_only;
mod principal;

pub use access::Access;
pub(crate) use authenticator::Authenticator;
pub use authenticator::{KeySettings, MAX_KEY_BYTES};
pub use loopback_only::for_this_machine;
pub(crate) use principal::Principal;
