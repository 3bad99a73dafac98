//! Servers that hold repositories, what stands before them, and the lines to them.

pub mod azurite;
pub mod garage;
pub mod http_proxy;
pub mod identity;
pub mod large;
pub mod seaweed;
pub mod slow_link;
pub mod sshd;
pub mod tour;
