//! State machines that actors own: `on_event(event) -> effects`. No machine waits, reads a clock or touches a file.

pub mod backup;
pub mod push_queue;
pub mod queue;
pub mod restore;
pub mod stream;
