//! One verb, one file: what a user types is the name of the module that does it.

pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod help;
pub mod man;
pub mod stanza_create;
pub mod version;
