//! Isolates a failing endpoint from the others: admission by key, with a breaker, a rate and a
//! deferral for each.
//!
//! Invariant: no I/O. Only [`admission`] reads the time. The rules below it take the time as an
//! argument, so that each is a testable state machine.

pub mod admission;
mod breaker;
mod parking;
mod rate;

pub use breaker::{Breaker, BreakerConfig, Change, Invalid, Signal, Ticket};
pub use parking::{MAX_PARK, MAX_RETURNS_PER_SECOND, MIN_PARK, Parking};
pub use rate::Rate;
