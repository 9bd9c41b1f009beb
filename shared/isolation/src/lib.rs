//! Keeps one bad endpoint from hurting the others: admission by key, and the breaker, the rate and
//! the deferral that it is made of.
//!
//! Invariant: no I/O. Only [`admission`] reads the time; the rules under it are handed it, so that
//! each is a state machine that a test can hold to.

pub mod admission;
mod breaker;
mod parking;
mod rate;

pub use breaker::{Breaker, BreakerConfig, Change, Invalid, Signal, Ticket};
pub use parking::{MAX_PARK, MAX_RETURNS_PER_SECOND, MIN_PARK, Parking};
pub use rate::Rate;
