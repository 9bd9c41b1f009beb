//! Keeps one bad endpoint from hurting the others: a breaker, a rate, and how long what cannot be
//! delivered now is put aside.
//!
//! Invariant: nothing here does I/O or reads a clock. The time is handed in, so that each rule is
//! a state machine that a test can hold to.

mod breaker;
mod parking;
mod rate;

pub use breaker::{Breaker, BreakerConfig, Change, Invalid, Signal, Ticket};
pub use parking::{MAX_PARK, MAX_RETURNS_PER_SECOND, MIN_PARK, Parking};
pub use rate::Rate;
