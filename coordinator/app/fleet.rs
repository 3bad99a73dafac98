//! This process as part of a fleet, or as somebody who asks one.
//!
//! Code map: [`client`] asks coordinators, [`follow`] watches a job to its end, [`submit`] is a command that becomes a job;
//! [`workshop`] and [`errands`] are what a coordinator and a worker know of this program's commands; [`store`] reaches the
//! fleet's lease store from a coordinator's host.
//!
//! Invariants
//! 1. A fleet that cannot be reached is an error, never a reason to do the work here.
//! 2. A job means what its command would have meant.

pub mod client;
pub mod errands;
pub mod follow;
pub mod store;
pub mod submit;
pub mod workshop;

#[cfg(test)]
mod tests;
