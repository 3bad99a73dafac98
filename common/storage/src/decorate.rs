//! Wrappers around any store that are stores themselves, and can be put around each other.
//!
//! [`retry`] hides passing faults, [`fault`] makes them (for tests), [`hedge`] asks twice where one answer is slow,
//! [`guard`] creates under locks where a store would overwrite, [`limit`] keeps to so many bytes a second, [`metrics`] counts.

pub mod fault;
pub mod guard;
pub mod hedge;
pub mod limit;
pub mod metrics;
pub mod retry;
