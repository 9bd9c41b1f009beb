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
mod egress;
pub mod guard;
mod pattern;
mod ports;
pub mod resolver;

pub use config::Config;
pub use egress::Egress;
pub use guard::{Guard, Loopback, Refusal};
pub use resolver::{LookupError, Resolver};
