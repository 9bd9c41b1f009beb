//! The suites that every engine must pass.

pub(crate) mod broker;
pub(crate) mod store;
