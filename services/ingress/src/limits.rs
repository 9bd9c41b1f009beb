//! Limits on requests, bodies, queries, answers and followers.
//!
//! Invariant: what exceeds a limit is refused. Nothing waits without a bound in number and time,
//! because a queue of requests would be unbounded memory.

mod answers;
mod body_budget;
mod places;
pub(crate) mod queries;
pub(crate) mod requests;
mod response_budget;

pub(crate) use answers::AnswerLimits;
pub(crate) use body_budget::BodyBudget;
pub(crate) use places::{Place, Places};
pub(crate) use queries::Queries;
pub(crate) use response_budget::{Reserved, ResponseBudget};
