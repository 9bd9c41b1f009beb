//! The harness of the end-to-end tests.

#![expect(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::needless_pass_by_value,
    clippy::return_self_not_must_use,
    reason = "only tests call it, and an error ends the test with its own text"
)]

pub mod account;
pub mod apart;
pub mod audit;
pub mod byte_server;
pub mod child;
pub mod cluster;
pub mod cluster_run;
pub mod collections;
pub mod contents;
pub mod counting;
pub mod dns;
pub mod faults;
pub mod gateway;
pub mod http;
pub mod loader;
pub mod management;
pub mod openmetrics;
pub mod outage;
pub mod process;
pub mod procfs;
pub mod proxy;
pub mod replay;
pub mod scripted;
pub mod servers;
pub mod stack;
pub mod stuck;
pub mod tally;
pub mod test_namespace;
pub mod tls;
pub mod verifier;
pub mod wait;
