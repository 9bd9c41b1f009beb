//! The commands that call the gateway's HTTP API.
//!
//! Invariant: a text that others wrote is escaped before it is printed, and a key is never printed.

mod api;
mod arguments;
mod commands;
mod connection;
mod failure;
mod filters;
mod input;
mod problem;
mod profiles;
mod run;
mod safe_text;
mod screen;
mod table;
mod values;

pub use arguments::{Command, HealthcheckArguments, Output};
pub use failure::{EXIT_CODES, Exit};
pub use run::{healthcheck, run};
pub use safe_text::{json, safe};
pub use table::Table;
