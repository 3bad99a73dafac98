#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod recording;

use super::*;

fn range(min: u16, max: u16) -> VersionRange {
    VersionRange { min, max }
}

#[test]
fn the_highest_common_version_wins_and_both_sides_find_it() {
    // (ours, theirs, agreed)
    let table = [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((2, 2), (1, 9), Some(2)),
        ((1, u16::MAX), (u16::MAX, u16::MAX), Some(u16::MAX)),
        ((1, 1), (2, 2), None),
        ((1, 2), (3, 4), None),
    ];
    for ((a, b), (c, d), agreed) in table {
        let (ours, theirs) = (range(a, b), range(c, d));
        assert_eq!(negotiate(ours, theirs).ok(), agreed, "{ours} with {theirs}");
        assert_eq!(negotiate(theirs, ours).ok(), agreed, "{theirs} with {ours}");
    }
}

#[test]
fn sides_without_a_common_version_are_told_both_ranges() {
    let error = negotiate(range(1, 1), range(2, 4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no common protocol version: this side speaks version 1, the peer versions 2 to 4"
    );
}

#[test]
fn a_preface_reads_back_whatever_pieces_it_comes_in() {
    let bytes = encode_preface(range(3, 7));
    assert_eq!(bytes.len(), PREFACE_HEAD_BYTES);
    let mut decoder = Decoder::default();
    for byte in &bytes[..bytes.len() - 1] {
        decoder.push(&[*byte]);
        assert_eq!(decoder.preface(), Ok(None));
    }
    decoder.push(&bytes[bytes.len() - 1..]);
    assert_eq!(decoder.preface(), Ok(Some(range(3, 7))));
    assert_eq!(decoder.end(), Ok(()));
}

#[test]
fn what_a_newer_peer_adds_to_its_preface_is_passed_over() {
    let mut bytes = encode_preface(range(1, 2)).to_vec();
    bytes[12..14].copy_from_slice(&5u16.to_be_bytes());
    bytes.extend_from_slice(b"extra");
    bytes.extend_from_slice(&[0, 0, 0, 1, b'x']);
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    assert_eq!(decoder.preface(), Ok(Some(range(1, 2))));
    assert_eq!(decoder.frame().unwrap().unwrap(), "x");
}

#[test]
fn a_preface_that_cannot_be_is_an_error() {
    let spoilt = |at: usize, bytes: &[u8]| {
        let mut preface = encode_preface(range(1, 1)).to_vec();
        preface[at..at + bytes.len()].copy_from_slice(bytes);
        let mut decoder = Decoder::default();
        decoder.push(&preface);
        decoder.preface()
    };
    assert_eq!(spoilt(0, b"GET "), Err(ProtocolError::Magic));
    assert_eq!(spoilt(8, &[0, 0]), Err(ProtocolError::Range { min: 0, max: 1 }));
    assert_eq!(spoilt(8, &[0, 9]), Err(ProtocolError::Range { min: 9, max: 1 }));
    assert_eq!(spoilt(12, &[0xff, 0xff]), Err(ProtocolError::Extra { bytes: 65535 }));
    let mut decoder = Decoder::default();
    decoder.push(b"x");
    assert_eq!(decoder.preface(), Err(ProtocolError::Magic), "one wrong byte is enough");
}

#[test]
fn frames_read_back_whatever_pieces_they_come_in() {
    let frames = [&b""[..], b"one", &[7; 5_000], b""];
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&encode_frame_head(frame).unwrap());
        bytes.extend_from_slice(frame);
    }
    for piece in [1, 2, 3, 4, 5, 1_000, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for bytes in bytes.chunks(piece) {
            decoder.push(bytes);
            while let Some(frame) = decoder.frame().unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read, frames, "in pieces of {piece} bytes");
        assert_eq!(decoder.end(), Ok(()));
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::MAX.to_be_bytes());
    assert_eq!(decoder.frame(), Err(ProtocolError::FrameTooLarge { bytes: u32::MAX as usize }));
    assert!(encode_frame_head(&vec![0; FRAME_BYTES_MAX + 1]).is_none());
    assert!(encode_frame_head(&vec![0; FRAME_BYTES_MAX]).is_some());
}

#[test]
fn an_end_within_a_frame_is_an_error() {
    let mut decoder = Decoder::default();
    decoder.push(&[0, 0, 0, 9, 1, 2]);
    assert_eq!(decoder.frame(), Ok(None));
    assert_eq!(decoder.end(), Err(ProtocolError::Truncated { bytes: 6 }));
}
