//! Our limits as QUIC's transport parameters.

use crate::connection::{IDLE_TIMEOUT, STREAM_BYTES_MAX, STREAMS_MAX};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// A quiet connection says something this often: thrice within the idle timeout, so that one lost packet ends nothing.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// From the first packet to the exchanged prefaces. Two round trips across the world and a slow signature take under one
/// second; the rest is for lost packets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes that are under way at a time; more are refused, and good peers try again. A fleet of thousands that
/// reconnects after a failover passes through in a few seconds: one handshake takes milliseconds.
pub const HANDSHAKES_MAX: usize = 512;

/// Of these, from one host: workers behind one address translator start together, but a host that only takes places
/// leaves most of them to others.
pub const HANDSHAKES_OF_HOST_MAX: usize = 64;

/// Handshakes under way from which on a peer must prove its address first, which costs it a round trip and us no state.
/// A quiet fleet never sees it.
pub const UNPROVED_MAX: usize = 32;

/// Packets of peers that nobody has looked at yet. The accept loop looks at once.
pub(super) const PENDING_MAX: usize = 256;

/// Bytes that one such peer may send before we look.
pub(super) const PENDING_BYTES_MAX: u64 = 16 << 10;

/// The control stream goes first.
pub(super) const CONTROL_PRIORITY: i32 = 1;

/// What a side mostly sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Small messages, and the reason of a close that must arrive. quinn lets a close wait behind probes of a window that early losses
    /// made small, so these do not look for larger datagrams than a usual network carries.
    Messages,
    /// Bytes of files: as large datagrams as the way carries, up to [`DATAGRAM_BYTES_MAX`].
    Files,
}

/// The largest datagram that is tried, and taken. A packet costs the same work whatever it carries, so jumbo frames and loopback
/// are made use of; a narrower way is found out by probes that get lost. quinn hands ten of them to the kernel at once, which
/// refuses more than 64 KiB together, and quinn takes the refused ones for lost: whole jumbo frames would be slower than small ones.
const DATAGRAM_BYTES_MAX: u16 = 6400;

/// Streams that the two sides may have open together, and the control stream.
const STREAMS_TOGETHER_MAX: usize = 2 * STREAMS_MAX + 1;

fn var(value: usize) -> VarInt {
    VarInt::try_from(value).expect("our limits are far below 2^62")
}

/// `is_dialer`: the control stream is one of those that the dialer opens, so the listener allows one more.
pub(crate) fn transport(is_dialer: bool, load: Load) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let streams = if is_dialer { STREAMS_MAX } else { STREAMS_MAX + 1 };
    // The sum of all streams' windows: no stream ever waits for another one to be read.
    let connection_window = STREAMS_TOGETHER_MAX * STREAM_BYTES_MAX;
    let mut discovery = MtuDiscoveryConfig::default();
    if load == Load::Files {
        discovery.upper_bound(DATAGRAM_BYTES_MAX);
    }
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("seconds fit")))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .max_concurrent_bidi_streams(var(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window(var(STREAM_BYTES_MAX))
        .receive_window(var(connection_window))
        .send_window(u64::from(var(connection_window)));
    Arc::new(config)
}

pub(super) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("more than the least that QUIC asks for");
    config
}
