//! Egress policy: a channel's owner names a URL, and the gateway posts there from inside its
//! operator's network.
//!
//! Invariant: a connection to a channel goes to an address that [`Guard`] accepted. A name is
//! resolved first, then its addresses are vetted. The connection uses these addresses without
//! resolving the name again.
//!
//! [`guard`] and [`address`] are pure; [`resolver`] is the only module that does I/O.

pub mod address;
mod config;
pub mod guard;
mod pattern;
mod ports;
pub mod resolver;

use std::sync::Arc;

use roundtrip_tls::Roots;

pub use config::{Config, ConfigError, Loopback};
pub use guard::{Guard, Refusal};
pub use resolver::{LookupError, Resolver};

/// The guard, the resolver under it, and the trusted certificate authorities.
#[derive(Debug, Clone)]
pub struct Egress {
    guard: Arc<Guard>,
    resolver: Resolver,
    roots: Roots,
}

impl Egress {
    /// The egress policy of this configuration.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn new(config: &Config, loopback: Loopback) -> Result<Self, ConfigError> {
        let guard = Arc::new(config.guard(loopback)?);
        Ok(Self {
            resolver: Resolver::new(Arc::clone(&guard), &config.nameservers)?,
            roots: config.roots()?,
            guard,
        })
    }

    #[must_use]
    pub const fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// The resolver, which applies the rules.
    #[must_use]
    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Certificate authorities that are trusted in addition to the public ones.
    #[must_use]
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }
}
