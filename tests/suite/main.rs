//! The suite.

mod broker_contract;
