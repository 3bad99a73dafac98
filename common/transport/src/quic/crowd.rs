//! Counts handshakes under way, altogether and by host, so that one host cannot take every place.

use super::settings::{HANDSHAKES_MAX, HANDSHAKES_OF_HOST_MAX};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Without entries of zero, so it is bounded by `all`.
    by_host: HashMap<IpAddr, usize>,
}

/// A handle; clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<Counts>>);

impl Crowd {
    /// A place for one more handshake, if there is one for this host.
    pub(super) fn enter(&self, host: IpAddr) -> Option<Place> {
        let host = network_of(host);
        let mut counts = self.counts();
        let of_host = counts.by_host.get(&host).copied().unwrap_or_default();
        if counts.all >= HANDSHAKES_MAX || of_host >= HANDSHAKES_OF_HOST_MAX {
            return None;
        }
        counts.all += 1;
        counts.by_host.insert(host, of_host + 1);
        Some(Place { crowd: self.clone(), host })
    }

    pub(super) fn len(&self) -> usize {
        self.counts().all
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    host: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        counts.all -= 1;
        if let Some(of_host) = counts.by_host.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                counts.by_host.remove(&self.host);
            }
        }
    }
}

/// Whoever has one address of IPv6 usually has all of its /64.
fn network_of(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    #[test]
    fn one_host_does_not_take_the_places_of_another() {
        let crowd = Crowd::default();
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut places: Vec<Place> = std::iter::from_fn(|| crowd.enter(here)).collect();
        assert_eq!(places.len(), HANDSHAKES_OF_HOST_MAX);
        assert!(crowd.enter(there).is_some());
        assert!(crowd.enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same host otherwise written");
        places.pop();
        assert!(crowd.enter(here).is_some());
        drop(places);
        assert_eq!(crowd.len(), 0);
        assert!(crowd.counts().by_host.is_empty());
    }

    #[test]
    fn all_hosts_together_have_a_bound_and_a_network_of_ipv6_is_one_host() {
        let crowd = Crowd::default();
        let host = |number: u16| IpAddr::from([0xfd00, 0, 0, number / 8, 0, 0, 0, number]);
        let places: Vec<Place> = (0..u16::MAX).map_while(|number| crowd.enter(host(number))).collect();
        assert_eq!(places.len(), HANDSHAKES_MAX);
        let crowd = Crowd::default();
        let host = |number: u16| IpAddr::from([0xfd00, 0, 0, 7, 0, 0, 0, number]);
        let places: Vec<Place> = (0..u16::MAX).map_while(|number| crowd.enter(host(number))).collect();
        assert_eq!(places.len(), HANDSHAKES_OF_HOST_MAX);
    }
}
