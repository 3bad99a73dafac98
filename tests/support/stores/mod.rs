//! Servers that hold repositories, and the lines to them.

pub mod slow_link;
pub mod sshd;
