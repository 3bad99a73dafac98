//! Actors: a mailbox in front of a machine or of a connection. They run on the system's arbiter and never wait.

pub mod backup;
pub mod worker_link;
