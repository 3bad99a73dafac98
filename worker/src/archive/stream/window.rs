//! The bytes of the stream that parts are made of.

use bytes::{Buf, Bytes, BytesMut};
use pgconvoy_core::machine::stream::StreamWork;
use pgconvoy_core::pg::Lsn;

pub(super) struct Window {
    start: Lsn,
    bytes: BytesMut,
}

impl Window {
    pub(super) fn new(start: Lsn) -> Window {
        Window { start, bytes: BytesMut::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what lies before.
    pub(super) fn trim(&mut self, start: Lsn) {
        let passed = offset(self.start, start).min(self.bytes.len());
        self.bytes.advance(passed);
        self.start = Lsn(self.start.0 + passed as u64);
    }

    /// What a part holds; nothing for a whole segment, which comes from the server's file.
    pub(super) fn bytes_of(&self, work: StreamWork) -> Bytes {
        let StreamWork::Part(part) = work else { return Bytes::new() };
        let range = offset(self.start, part.start())..offset(self.start, part.end());
        Bytes::copy_from_slice(self.bytes.get(range).expect("the machine asks for what is at hand"))
    }
}

fn offset(from: Lsn, to: Lsn) -> usize {
    usize::try_from(to.0.saturating_sub(from.0)).expect("a window is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use pgconvoy_core::pg::{TimelineId, WalPart, WalSegmentSize};

    #[test]
    fn a_part_comes_from_its_place_whatever_was_forgotten_before() {
        let begin = 3 << 24;
        let mut window = Window::new(Lsn(begin));
        let part = |from: u64, to: u64| {
            let (start, end) = (Lsn(begin + from), Lsn(begin + to));
            StreamWork::Part(WalPart::new(TimelineId(1), start, end, WalSegmentSize::DEFAULT).unwrap())
        };
        window.push(b"abcdef");
        assert_eq!(&window.bytes_of(part(1, 3))[..], b"bc");
        window.trim(Lsn(begin + 2));
        window.push(b"gh");
        assert_eq!(&window.bytes_of(part(2, 8))[..], b"cdefgh");
    }
}
