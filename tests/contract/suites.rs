//! The suites that every engine must pass.

pub(crate) mod store;
