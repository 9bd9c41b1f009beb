//! Where the gateway may connect on behalf of somebody else: a channel's owner names a URL, and the
//! gateway posts there from inside its operator's network.
//!
//! Invariant: a connection to a channel is made to an address that [`Guard`] accepted, and that
//! very address: what a name leads to is vetted after it was resolved, the connection goes to what
//! was vetted, and nobody resolves it again in between.
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

/// The guard, who resolves names under it, and whom to believe at the other end.
#[derive(Debug, Clone)]
pub struct Egress {
    guard: Arc<Guard>,
    resolver: Resolver,
    roots: Roots,
}

impl Egress {
    /// What the configuration says.
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

    /// The rules.
    #[must_use]
    pub const fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Resolves names under the rules.
    #[must_use]
    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Certificate authorities that are trusted beside the public ones.
    #[must_use]
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }
}
