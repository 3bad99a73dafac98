//! Headers and trailers, whole and damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;

fn encrypted() -> Header {
    Header::new(Kind::Pack, Protection::Aes256Gcm { generation: KeyGeneration(3), salt: [7; 32] })
}

#[test]
fn headers_and_trailers_survive_a_round_trip() {
    for header in [encrypted(), Header::new(Kind::Wal, Protection::None)] {
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes).unwrap(), header);
        let trailer = Trailer { footer_offset: 1064, footer_stored: 100, frames: 2 };
        assert_eq!(Trailer::decode(&bytes, &trailer.encode(&bytes), 1064 + 100 + 32).unwrap(), trailer);
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    let bytes = encrypted().encode();
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn a_trailer_belongs_to_its_header_and_to_its_size() {
    let header = encrypted().encode();
    let other = Header::new(Kind::Pack, Protection::None).encode();
    let bytes = Trailer { footer_offset: 64, footer_stored: 50, frames: 0 }.encode(&header);
    assert!(Trailer::decode(&header, &bytes, 146).is_ok());
    assert!(Trailer::decode(&header, &bytes, 145).is_err());
    assert!(Trailer::decode(&other, &bytes, 146).is_err());
}

#[test]
fn a_frame_table_must_end_where_the_footer_begins() {
    let frames = [FrameEntry(1000, 500, 2), FrameEntry(10, 26, 0)];
    let trailer = |footer_offset, frames| Trailer { footer_offset, footer_stored: 20, frames };
    assert_eq!(frame_offsets(&frames, &trailer(64 + 526, 2)).unwrap(), vec![64, 564]);
    assert!(frame_offsets(&frames, &trailer(64 + 525, 2)).is_err());
    assert!(frame_offsets(&frames, &trailer(64 + 526, 3)).is_err());
    assert!(frame_offsets(&[FrameEntry(u32::MAX, 26, 0)], &trailer(90, 1)).is_err());
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), size: u64) {
        let _ = Header::decode(&bytes);
        let header = encrypted().encode();
        let _ = Trailer::decode(&header, &bytes, size);
    }
}
