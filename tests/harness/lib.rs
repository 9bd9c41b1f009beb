//! The harness of the end-to-end tests.

pub mod account;
pub mod apart;
pub mod audit;
pub mod collections;
pub mod counting;
pub mod dns;
pub mod faults;
pub mod gateway;
pub mod http;
pub mod loader;
pub mod management;
pub mod outage;
pub mod process;
pub mod procfs;
pub mod proxy;
pub mod realm;
pub mod replay;
pub mod scripted;
pub mod servers;
pub mod stack;
pub mod stuck;
pub mod tally;
pub mod tls;
pub mod trap;
pub mod verifier;
pub mod wait;
