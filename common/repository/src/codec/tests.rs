#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

/// Half repetitive, half noise, as pages of a table are.
fn sample(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..bytes)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if at / 64 % 2 == 0 { b'x' } else { state.to_be_bytes()[0] }
        })
        .collect()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    getrandom::fill(&mut out).unwrap();
    out
}

fn compressor(codec: Codec, level: i32) -> Compressor {
    Compressor::new(codec, Level::new(codec, level).unwrap()).unwrap()
}

fn stored(codec: Codec, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let used = Compressor::new(codec, codec.default_level()).unwrap().compress(raw, &mut out).unwrap();
    assert_eq!(used, codec);
    out
}

#[test]
fn numbers_and_names_are_those_of_the_format_and_lead_back_to_their_codec() {
    let table: Vec<(u8, &str)> = Codec::ALL.iter().map(|codec| (codec.number(), codec.name())).collect();
    assert_eq!(table, [(0, "none"), (1, "lz4"), (2, "zst"), (3, "gz"), (4, "bz2")]);
    for codec in Codec::ALL {
        assert_eq!(Codec::from_number(codec.number()).unwrap(), codec);
        assert_eq!(codec.name().parse::<Codec>().unwrap(), codec);
    }
    assert_eq!(Codec::from_number(5).unwrap_err().code(), ErrorCode::Format);
    assert_eq!("gzip".parse::<Codec>().unwrap_err().code(), ErrorCode::OptionInvalidValue);
}

#[test]
fn a_level_outside_its_codecs_range_is_refused_and_the_default_lies_inside() {
    for codec in Codec::ALL {
        let levels = codec.levels();
        assert!(levels.contains(&codec.default_level().get()));
        for level in [levels.start() - 1, levels.end() + 1] {
            assert_eq!(Level::new(codec, level).unwrap_err(), CodecError::Level { codec, level });
        }
    }
    let of_zst = Level::new(Codec::Zst, 22).unwrap();
    assert!(matches!(Compressor::new(Codec::Gz, of_zst), Err(CodecError::Level { .. })));
}

#[test]
fn every_codec_gives_back_what_it_took_at_both_ends_of_its_levels_and_appends() {
    let raw = sample(200_000);
    let mut decompressor = Decompressor::new();
    for codec in Codec::ALL {
        let levels = codec.levels();
        for level in [*levels.start(), codec.default_level().get(), *levels.end()] {
            let mut compressor = compressor(codec, level);
            let mut frames = b"before".to_vec();
            let mut used = Vec::new();
            let mut ends = vec![frames.len()];
            for length in [raw.len(), 1_000, 70_000] {
                used.push((compressor.compress(&raw[..length], &mut frames).unwrap(), length));
                ends.push(frames.len());
            }
            assert!(frames.starts_with(b"before"));
            for (number, (used, length)) in used.into_iter().enumerate() {
                let frame = &frames[ends[number]..ends[number + 1]];
                let mut out = b"kept".to_vec();
                decompressor.decompress(used, frame, length, &mut out).unwrap();
                assert_eq!(out[..4], *b"kept");
                assert_eq!(out[4..], raw[..length], "{codec} {level} frame {number}");
            }
        }
    }
}

#[test]
fn a_frame_depends_on_nothing_that_was_compressed_before_it() {
    for codec in Codec::ALL {
        let mut used_before = compressor(codec, codec.default_level().get());
        used_before.compress(&sample(100_000), &mut Vec::new()).unwrap();
        let (mut second, mut first) = (Vec::new(), Vec::new());
        used_before.compress(&sample(50_000), &mut second).unwrap();
        compressor(codec, codec.default_level().get()).compress(&sample(50_000), &mut first).unwrap();
        assert!(first == second, "{codec}");
    }
}

#[test]
fn what_would_not_shrink_is_stored_as_it_is() {
    for codec in Codec::ALL {
        for raw in [noise(5_000), Vec::new(), vec![7]] {
            let mut out = Vec::new();
            assert_eq!(
                compressor(codec, codec.default_level().get()).compress(&raw, &mut out).unwrap(),
                Codec::None
            );
            assert_eq!(out, raw, "{codec}");
        }
    }
}

#[test]
fn noise_of_the_largest_frame_size_survives_gzip_and_bzip2_whose_output_outgrows_it() {
    let raw = noise(1 << 20);
    for codec in [Codec::Gz, Codec::Bz2] {
        let (lowest, highest) = codec.levels().into_inner();
        for level in lowest..=highest {
            let mut out = Vec::new();
            assert_eq!(
                compressor(codec, level).compress(&raw, &mut out).unwrap(),
                Codec::None,
                "{codec} {level}"
            );
            assert!(out == raw);
        }
    }
}

#[test]
fn zst_frames_carry_their_size_and_no_checksum() {
    let raw = sample(100_000);
    let frame = stored(Codec::Zst, &raw);
    assert_eq!(zstd::zstd_safe::get_frame_content_size(&frame).unwrap(), Some(100_000));
    assert_eq!(frame[4] & 0b100, 0, "the content checksum flag of the frame header");
}

#[test]
fn gz_and_bz2_frames_are_files_that_other_tools_read() {
    assert_eq!(stored(Codec::Gz, &sample(1_000))[..3], [0x1F, 0x8B, 8]);
    assert_eq!(stored(Codec::Bz2, &sample(1_000))[..4], *b"BZh9");
}

#[test]
fn a_frame_larger_than_the_format_allows_is_neither_written_nor_read() {
    let raw = vec![0; FRAME_RAW_BYTES_MAX + 1];
    let mut out = Vec::new();
    for codec in Codec::ALL {
        let mut compressor = compressor(codec, codec.default_level().get());
        assert!(matches!(compressor.compress(&raw, &mut out), Err(CodecError::TooLarge { .. })));
        let mut decompressor = Decompressor::new();
        let refused = decompressor.decompress(codec, &[0; 64], FRAME_RAW_BYTES_MAX + 1, &mut out);
        assert!(matches!(refused, Err(CodecError::TooLarge { .. })));
        let refused = decompressor.decompress_footer(codec, &[0; 64], FOOTER_RAW_BYTES_MAX + 1, &mut out);
        assert!(matches!(refused, Err(CodecError::TooLarge { .. })));
    }
    assert_eq!(out.capacity(), 0);
    let mut compressor = compressor(Codec::Zst, 1);
    assert_eq!(compressor.compress_footer(&raw, &mut out).unwrap(), Codec::Zst);
    let mut back = Vec::new();
    Decompressor::new().decompress_footer(Codec::Zst, &out, raw.len(), &mut back).unwrap();
    assert!(back == raw);
}

#[test]
fn another_length_than_the_promised_one_is_an_error_and_a_bomb_stays_within_its_promise() {
    let raw = vec![0; 4 << 20];
    for codec in Codec::ALL {
        let frame = if codec == Codec::None { raw.clone() } else { stored(codec, &raw) };
        for promised in [raw.len() - 1, raw.len() + 1, 0, 100] {
            let mut out = Vec::new();
            assert!(
                Decompressor::new().decompress(codec, &frame, promised, &mut out).is_err(),
                "{codec} {promised}"
            );
            assert!(out.is_empty());
            assert!(out.capacity() <= promised + 8, "{codec} {promised}: {}", out.capacity());
        }
    }
}

#[test]
fn a_cut_frame_or_one_with_something_behind_it_is_an_error() {
    let raw = sample(3_000);
    for codec in [Codec::Lz4, Codec::Zst, Codec::Gz, Codec::Bz2] {
        let frame = stored(codec, &raw);
        let mut decompressor = Decompressor::new();
        for length in 0..frame.len() {
            let mut out = Vec::new();
            assert!(
                decompressor.decompress(codec, &frame[..length], raw.len(), &mut out).is_err(),
                "{codec} {length}"
            );
        }
        let longer = [frame.as_slice(), b"!"].concat();
        assert!(decompressor.decompress(codec, &longer, raw.len(), &mut Vec::new()).is_err(), "{codec}");
        let mut out = Vec::new();
        decompressor.decompress(codec, &frame, raw.len(), &mut out).unwrap();
        assert_eq!(out, raw, "{codec}: a decompressor works on after errors");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_panic_and_never_exceed_the_promised_length(
        garbage in proptest::collection::vec(any::<u8>(), 0..400),
        promised in 0usize..20_000,
    ) {
        let mut decompressor = Decompressor::new();
        for codec in Codec::ALL {
            let mut out = Vec::new();
            let result = decompressor.decompress(codec, &garbage, promised, &mut out);
            prop_assert_eq!(out.len(), if result.is_ok() { promised } else { 0 });
            prop_assert!(out.capacity() <= promised + 8);
        }
    }

    #[test]
    fn a_damaged_frame_never_panics_and_never_exceeds_the_promised_length(
        at in any::<proptest::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let raw = sample(4_000);
        let mut decompressor = Decompressor::new();
        for codec in [Codec::Lz4, Codec::Zst, Codec::Gz, Codec::Bz2] {
            let mut frame = stored(codec, &raw);
            let at = at.index(frame.len());
            frame[at] ^= flip;
            let mut out = Vec::new();
            let result = decompressor.decompress(codec, &frame, raw.len(), &mut out);
            prop_assert_eq!(out.len(), if result.is_ok() { raw.len() } else { 0 });
            prop_assert!(out.capacity() <= raw.len() + 8);
        }
    }

    #[test]
    fn any_bytes_come_back(raw in proptest::collection::vec(0u8..4, 0..3_000)) {
        let mut decompressor = Decompressor::new();
        for codec in Codec::ALL {
            let mut frame = Vec::new();
            let used = compressor(codec, codec.default_level().get()).compress(&raw, &mut frame).unwrap();
            let mut out = Vec::new();
            decompressor.decompress(used, &frame, raw.len(), &mut out).unwrap();
            prop_assert_eq!(&out, &raw);
        }
    }
}
