#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::identity::Role;
use crate::memory::{Faults, pair};
use pgconvoy_core::failure::{Classify, ErrorCode};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Order {
    Take { unit: u32, paths: Vec<String> },
    Drain,
}

/// `Order` as a later version may spell it.
#[derive(Serialize)]
enum NewerOrder {
    Take { unit: u32, paths: Vec<String>, priority: u8 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    unit: u32,
}

fn identity(name: &str, role: Role) -> PeerIdentity {
    PeerIdentity { name: name.parse().unwrap(), role }
}

fn connected() -> (Connection, Connection) {
    pair(identity("w-1", Role::Worker), identity("c-1", Role::Coordinator), &Faults::default())
}

#[tokio::test]
async fn values_arrive_as_they_were_sent() {
    let (near, far) = connected();
    let mut worker: Channel<Report, Order> = Channel::new(near);
    let mut coordinator: Channel<Order, Report> = Channel::new(far);
    let order = Order::Take { unit: 7, paths: vec!["base/5/1259".to_owned()] };
    coordinator.send(&order).await.unwrap();
    coordinator.send(&Order::Drain).await.unwrap();
    worker.send(&Report { unit: 7 }).await.unwrap();
    assert_eq!(worker.recv().await.unwrap(), Some(order));
    assert_eq!(worker.recv().await.unwrap(), Some(Order::Drain));
    assert_eq!(coordinator.recv().await.unwrap(), Some(Report { unit: 7 }));
    coordinator.sender.raw().finish().await.unwrap();
    assert_eq!(worker.recv().await.unwrap(), None);
    assert_eq!(worker.peer().name.as_str(), "c-1");
}

#[tokio::test]
async fn a_field_of_a_newer_version_is_passed_over() {
    let (near, far) = connected();
    let newer: Channel<NewerOrder, Report> = Channel::new(far);
    let mut older: Channel<Report, Order> = Channel::new(near);
    newer.send(&NewerOrder::Take { unit: 1, paths: Vec::new(), priority: 9 }).await.unwrap();
    assert_eq!(older.recv().await.unwrap(), Some(Order::Take { unit: 1, paths: Vec::new() }));
}

#[tokio::test]
async fn garbage_is_a_clear_error_and_the_next_message_is_read() {
    let (near, far) = connected();
    let mut worker: Channel<Report, Order> = Channel::new(near);
    let good = encode(&Order::Drain).unwrap();
    let followed = [good.as_ref(), b"x"].concat();
    // A list that claims four thousand million elements must not be believed.
    let boastful = b"\xdd\xff\xff\xff\xff".to_vec();
    for garbage in [b"\xc1".to_vec(), Vec::new(), followed, boastful] {
        let bytes = garbage.len();
        far.send(garbage.into()).await.unwrap();
        let error = worker.recv().await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot read a message of {bytes} bytes from coordinator c-1: ")),
            "{error}"
        );
        assert_eq!(error.code(), ErrorCode::Protocol);
    }
    far.send(good).await.unwrap();
    assert_eq!(worker.recv().await.unwrap(), Some(Order::Drain));
}

#[tokio::test]
async fn a_value_that_fits_no_frame_is_refused_at_the_sender() {
    let (_near, far) = connected();
    let channel: Channel<Order, Report> = Channel::new(far);
    let order = Order::Take { unit: 1, paths: vec!["x".repeat(FRAME_BYTES_MAX)] };
    assert!(matches!(channel.send(&order).await, Err(TransportError::TooLarge { .. })));
}
