//! Wrappers around any store that are stores themselves, and can be put around each other.
//!
//! [`retry`] hides passing faults, [`fault`] makes them (for tests), [`metrics`] counts.

pub mod fault;
pub mod metrics;
pub mod retry;
