#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use pgconvoy_core::ids::KeyGeneration;
use proptest::prelude::*;

const NAME: &str = "main/backup/20261122-103000F/pack/0001/000007-001";
const SALT: [u8; SALT_BYTES] = [0x5A; SALT_BYTES];

fn header() -> [u8; HEADER_BYTES] {
    std::array::from_fn(|at| u8::try_from(at).unwrap())
}

fn key(byte: u8) -> RepositoryKey {
    RepositoryKey::from_secret(KeyGeneration(1), Zeroizing::new([byte; 32]))
}

fn repository() -> Identity {
    Identity::from_random_bytes([0x11; 16])
}

fn aes_sealer() -> FrameSealer {
    FrameSealer::aes(&key(7), repository(), &header(), FreshSalt::fixed(SALT), NAME).unwrap()
}

fn aes_opener() -> FrameOpener {
    FrameOpener::aes(&key(7), repository(), &header(), &SALT, NAME).unwrap()
}

fn plain_sealer() -> FrameSealer {
    FrameSealer::plain(&header(), NAME).unwrap()
}

fn plain_opener() -> FrameOpener {
    FrameOpener::plain(&header(), NAME).unwrap()
}

fn sealed(mut sealer: FrameSealer, frames: &[&[u8]]) -> Vec<Vec<u8>> {
    frames
        .iter()
        .enumerate()
        .map(|(number, data)| {
            let mut buffer = data.to_vec();
            let frame = sealer.seal(number + 1 == frames.len(), &mut buffer, 0).unwrap();
            assert_eq!(usize::try_from(frame).unwrap(), number);
            buffer
        })
        .collect()
}

fn opens(opener: &FrameOpener, frame: u32, last: bool, sealed: &[u8]) -> bool {
    opener.open(frame, last, &mut sealed.to_vec()).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_open_in_any_order_and_what_precedes_one_in_its_buffer_is_left_alone() {
    for (mut sealer, opener) in [(aes_sealer(), aes_opener()), (plain_sealer(), plain_opener())] {
        let mut buffer = b"head".to_vec();
        let mut ends = vec![buffer.len()];
        for data in [b"first".as_slice(), b"", b"the footer"] {
            let from = buffer.len();
            buffer.extend_from_slice(data);
            sealer.seal(data == b"the footer", &mut buffer, from).unwrap();
            ends.push(buffer.len());
        }
        assert_eq!(sealer.frames(), 3);
        assert!(buffer.starts_with(b"head"));
        for (frame, data) in [(2u32, b"the footer".as_slice()), (0, b"first"), (1, b"")] {
            let at = usize::try_from(frame).unwrap();
            let mut stored = buffer[ends[at]..ends[at + 1]].to_vec();
            assert_eq!(stored.len(), data.len() + TAG_BYTES);
            assert_eq!(opener.open(frame, frame == 2, &mut stored).unwrap(), data);
        }
    }
}

#[test]
fn encrypted_frames_show_nothing_of_their_content_and_equal_ones_differ() {
    let frames = sealed(aes_sealer(), &[&[0; 64], &[0; 64], &[0; 64]]);
    assert!(!frames[0].windows(8).any(|bytes| bytes == [0; 8]));
    assert_ne!(frames[0][..64], frames[1][..64]);
}

#[test]
fn a_flip_of_any_bit_of_a_frame_is_refused() {
    for (sealer, opener) in [(aes_sealer(), aes_opener()), (plain_sealer(), plain_opener())] {
        let frames = sealed(sealer, &[b"some data", b"end"]);
        assert!(opens(&opener, 0, false, &frames[0]));
        for bit in 0..frames[0].len() * 8 {
            let mut flipped = frames[0].clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&opener, 0, false, &flipped), "bit {bit}");
        }
    }
}

#[test]
fn a_flip_of_any_bit_of_the_header_is_refused() {
    let encrypted = sealed(aes_sealer(), &[b"some data"]);
    let plain = sealed(plain_sealer(), &[b"some data"]);
    for bit in 0..HEADER_BYTES * 8 {
        let mut header = header();
        header[bit / 8] ^= 1 << (bit % 8);
        let opener = FrameOpener::aes(&key(7), repository(), &header, &SALT, NAME).unwrap();
        assert!(!opens(&opener, 0, true, &encrypted[0]), "bit {bit}");
        assert!(!opens(&FrameOpener::plain(&header, NAME).unwrap(), 0, true, &plain[0]), "bit {bit}");
    }
}

#[test]
fn another_place_in_the_object_is_refused() {
    for (sealer, opener) in [(aes_sealer(), aes_opener()), (plain_sealer(), plain_opener())] {
        let frames = sealed(sealer, &[b"same", b"same", b"same"]);
        assert!(opens(&opener, 1, false, &frames[1]));
        assert!(!opens(&opener, 0, false, &frames[1]), "frames are swapped");
        assert!(!opens(&opener, 1, true, &frames[1]), "the frames behind are cut off");
        assert!(!opens(&opener, 2, false, &frames[2]), "the footer is taken for data");
        for bit in 0..32 {
            assert!(!opens(&opener, 1 ^ (1 << bit), false, &frames[1]), "frame number bit {bit}");
        }
    }
}

#[test]
fn another_name_is_refused_even_if_header_and_name_run_together_alike() {
    let encrypted = sealed(aes_sealer(), &[b"some data"]);
    let plain = sealed(plain_sealer(), &[b"some data"]);
    for name in ["", "main", &NAME[1..], &NAME[..NAME.len() - 1], &format!("{NAME}0")] {
        let opener = FrameOpener::aes(&key(7), repository(), &header(), &SALT, name).unwrap();
        assert!(!opens(&opener, 0, true, &encrypted[0]), "{name}");
        assert!(!opens(&FrameOpener::plain(&header(), name).unwrap(), 0, true, &plain[0]), "{name}");
    }
    for bit in 0..NAME.len() * 8 {
        let mut name = NAME.as_bytes().to_vec();
        name[bit / 8] ^= 1 << (bit % 8);
        let Ok(name) = String::from_utf8(name) else { continue };
        let opener = FrameOpener::aes(&key(7), repository(), &header(), &SALT, &name).unwrap();
        assert!(!opens(&opener, 0, true, &encrypted[0]), "{name}");
        assert!(!opens(&FrameOpener::plain(&header(), &name).unwrap(), 0, true, &plain[0]), "{name}");
    }
}

#[test]
fn another_key_salt_or_repository_is_refused_and_so_is_the_wrong_cipher() {
    let frames = sealed(aes_sealer(), &[b"some data"]);
    let elsewhere = Identity::from_random_bytes([0x12; 16]);
    for opener in [
        FrameOpener::aes(&key(8), repository(), &header(), &SALT, NAME).unwrap(),
        FrameOpener::aes(&key(7), repository(), &header(), &[0x5B; SALT_BYTES], NAME).unwrap(),
        FrameOpener::aes(&key(7), elsewhere, &header(), &SALT, NAME).unwrap(),
        plain_opener(),
    ] {
        assert!(!opens(&opener, 0, true, &frames[0]));
    }
    let plain = sealed(plain_sealer(), &[b"some data"]);
    assert!(!opens(&aes_opener(), 0, true, &plain[0]));
}

#[test]
fn what_does_not_open_is_left_encrypted() {
    let mut frames = sealed(aes_sealer(), &[b"some data"]);
    let before = frames[0].clone();
    assert_eq!(aes_opener().open(3, true, &mut frames[0]).unwrap_err().code(), ErrorCode::Crypto);
    assert_eq!(frames[0], before);
}

#[test]
fn a_frame_shorter_than_its_tag_is_refused() {
    for opener in [aes_opener(), plain_opener()] {
        for bytes in 0..TAG_BYTES {
            let error = opener.open(0, true, &mut vec![0; bytes]).unwrap_err();
            assert_eq!(error, SealError::TooShort { object: NAME.to_owned(), frame: 0, bytes });
        }
    }
}

#[test]
fn nothing_is_sealed_after_the_last_frame_or_past_the_last_number() {
    for sealer in [aes_sealer(), plain_sealer()] {
        let mut ended = sealer;
        ended.seal(true, &mut Vec::new(), 0).unwrap();
        assert!(matches!(ended.seal(false, &mut Vec::new(), 0), Err(SealError::Ended { .. })));
    }
    let mut sealer = aes_sealer();
    sealer.next = u64::from(u32::MAX);
    assert_eq!(sealer.seal(false, &mut Vec::new(), 0).unwrap(), u32::MAX);
    assert!(matches!(sealer.seal(false, &mut Vec::new(), 0), Err(SealError::TooManyFrames { .. })));
}

#[test]
fn a_name_longer_than_any_store_takes_is_refused() {
    let longest = "n".repeat(OBJECT_NAME_BYTES_MAX);
    let mut frame = b"data".to_vec();
    let mut sealer =
        FrameSealer::aes(&key(7), repository(), &header(), FreshSalt::fixed(SALT), &longest).unwrap();
    sealer.seal(true, &mut frame, 0).unwrap();
    let opener = FrameOpener::aes(&key(7), repository(), &header(), &SALT, &longest).unwrap();
    assert_eq!(opener.open(0, true, &mut frame).unwrap(), b"data");
    let error = FrameOpener::plain(&header(), &format!("{longest}n")).unwrap_err();
    assert_eq!(error, SealError::NameTooLong { bytes: OBJECT_NAME_BYTES_MAX + 1 });
}

#[test]
fn fresh_salts_differ() {
    assert_ne!(FreshSalt::generate().unwrap().as_bytes(), FreshSalt::generate().unwrap().as_bytes());
}

/// These bytes are in repositories. A change here is a new container version.
#[test]
fn golden_sealed_frames_do_not_change() {
    let encrypted: Vec<String> =
        sealed(aes_sealer(), &[b"pgconvoy", b"footer"]).iter().map(|frame| hex(frame)).collect();
    assert_eq!(
        encrypted,
        ["c50b9641b5af59a417c001c9f99f84a3d56685dadf9f0a15", "d139ccb597f3c7eb7a43da62c8c8986ff4c1ca28c320"]
    );
    let plain: Vec<String> =
        sealed(plain_sealer(), &[b"pgconvoy", b"footer"]).iter().map(|frame| hex(frame)).collect();
    assert_eq!(
        plain,
        ["7067636f6e766f798cd04c8f7c30c82d4e4b23a83016f588", "666f6f7465721a1a4bd560d0b45a61f4d039627f592a"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_open(garbage in proptest::collection::vec(any::<u8>(), 0..200), frame: u32, last: bool) {
        for opener in [aes_opener(), plain_opener()] {
            prop_assert!(opener.open(frame, last, &mut garbage.clone()).is_err());
        }
    }

    #[test]
    fn any_bytes_come_back(data in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        for (sealer, opener) in [(aes_sealer(), aes_opener()), (plain_sealer(), plain_opener())] {
            let mut frame = sealed(sealer, &[&data]).remove(0);
            prop_assert_eq!(opener.open(0, true, &mut frame).unwrap(), &data);
        }
    }
}
