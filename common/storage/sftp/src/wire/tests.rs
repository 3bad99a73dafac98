#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use proptest::prelude::*;

fn reply(kind: u8, id: u32, rest: impl FnOnce(Request) -> Request) -> Bytes {
    rest(Request::new(kind, 0)).seal(id).slice(4..)
}

#[test]
fn a_write_carries_its_number_its_offset_and_the_length_of_what_was_appended() {
    let mut request = write(&[0, 0, 0, 200], 7, 10);
    request.append(b"abc");
    request.append(b"de");
    let packet = request.seal(9);
    let mut expected = vec![0, 0, 0, 30, 6, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 200];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 5]);
    expected.extend(b"abcde");
    assert_eq!(packet, expected);
    assert!(packet.len() - 5 <= WRITE_OVERHEAD_BYTES);
}

#[test]
fn a_handle_that_is_no_text_comes_back_as_it_was() {
    let handle = [0, 0, 0, 0x80];
    let packet = reply(HANDLE, 3, |packet| packet.text(&handle));
    assert_eq!(decode(packet).unwrap(), (3, Reply::Handle(Bytes::copy_from_slice(&handle))));
}

#[test]
fn names_bring_the_attributes_that_are_there_and_skip_those_of_others() {
    let packet = reply(NAME, 1, |packet| {
        let all = ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_ACMODTIME | ATTR_EXTENDED;
        let packet = packet.number(2).text(b"a").text(b"-rw a").number(all).long(5).long(0);
        let packet = packet.number(0o100_640).number(1).number(2).number(1).text(b"x").text(b"y");
        packet.text(b"b").text(b"").number(0)
    });
    let (_, Reply::Names(names)) = decode(packet).unwrap() else { panic!("no names") };
    let first = Attributes { size: Some(5), permissions: Some(0o100_640), modified: Some(2) };
    assert_eq!((names[0].attributes, names[0].attributes.kind()), (first, Some(Kind::File)));
    assert_eq!((&names[1].name[..], names[1].attributes.kind()), (&b"b"[..], None));
}

#[test]
fn packets_are_found_however_the_stream_is_cut() {
    let packets =
        [reply(STATUS, 1, |p| p.number(0).text(b"").text(b"")), reply(DATA, 2, |p| p.text(&[7; 300]))];
    let mut stream = Vec::new();
    for packet in &packets {
        stream.extend(u32::try_from(packet.len()).unwrap().to_be_bytes());
        stream.extend(packet);
    }
    for size in [1, 3, 7, 100, 1000] {
        let mut assembler = Assembler::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            assembler.push(piece);
            while let Some(packet) = assembler.next().unwrap() {
                found.push(packet);
            }
        }
        assert_eq!(found, packets);
    }
}

#[test]
fn the_greeting_of_a_shell_is_not_taken_for_a_packet() {
    let mut assembler = Assembler::default();
    assembler.push(b"This account is currently not available.\n");
    assert!(assembler.next().is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_reply_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let packet = Bytes::from(bytes);
        let _ = decode(packet.clone());
        let _ = decode_version(packet.clone());
        let _ = decode_file_system(packet.clone());
        let _ = decode_limits(packet);
    }

    #[test]
    fn names_claim_no_more_memory_than_their_packet_has(count in any::<u32>()) {
        let packet = reply(NAME, 1, |packet| packet.number(count));
        prop_assert_eq!(decode(packet).is_ok(), count == 0);
    }
}
