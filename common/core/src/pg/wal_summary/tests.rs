#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::encoder::{Table, encode, seal};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

macro_rules! golden {
    ($name:literal) => {
        (
            include_bytes!(concat!("../../../testdata/pg/wal_summary_", $name)).as_slice(),
            include_str!(concat!("../../../testdata/pg/wal_summary_", $name, ".txt")),
        )
    };
}

/// Fed in pieces of this size.
fn decode_in_pieces(bytes: &[u8], size: usize) -> Result<Table, SummaryError> {
    let mut decoder = SummaryDecoder::default();
    let mut table = Table::new();
    let mut key = None;
    for piece in bytes.chunks(size) {
        decoder.feed(piece, |piece| match piece {
            SummaryPiece::Fork(fork) => {
                let numbers = [fork.tablespace.0, fork.database.0, fork.relation, fork.fork as u32];
                table.insert(numbers, (fork.limit, BTreeSet::new()));
                key = Some(numbers);
            }
            SummaryPiece::Chunk(chunk) => {
                let (_, blocks) = table.get_mut(&key.unwrap()).unwrap();
                let first = u32::from(chunk.number) * CHUNK_BLOCKS;
                blocks.extend(chunk.offsets().map(|offset| first + u32::from(offset)));
            }
        })?;
    }
    decoder.finish()?;
    Ok(table)
}

fn decode(bytes: &[u8]) -> Result<Table, SummaryError> {
    decode_in_pieces(bytes, bytes.len().max(1))
}

/// As `pg_walsummary` prints it.
fn print(table: &Table) -> String {
    let mut lines = String::new();
    for ([tablespace, database, relation, fork], (limit, blocks)) in table {
        let fork = ["main", "fsm", "vm", "init"][*fork as usize];
        let mut line = |what: String| {
            let place = format!("TS {tablespace}, DB {database}, REL {relation}, FORK {fork}");
            lines.push_str(&format!("{place}: {what}\n"));
        };
        if let Some(limit) = limit {
            line(format!("limit {limit}"));
        }
        let mut rest = blocks.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            line(if first == last { format!("block {first}") } else { format!("blocks {first}..{last}") });
        }
    }
    lines
}

#[test]
fn summaries_of_real_servers_say_what_pg_walsummary_says_of_them() {
    for (bytes, printed) in [golden!("17"), golden!("17_database"), golden!("18"), golden!("18_database")] {
        let table = decode(bytes).unwrap();
        assert_eq!(print(&table), printed);
        assert!(!table.is_empty());
    }
}

#[test]
fn the_golden_summaries_have_bitmaps_lists_limits_and_all_of_a_database() {
    let table = decode(golden!("17").0).unwrap();
    let main = |relation| &table[&[1663, 5, relation, 0]];
    let wide = &main(16389).1;
    assert!(wide.len() > 4096 && wide.contains(&18) && !wide.contains(&19));
    assert_eq!(main(16384).1, BTreeSet::from([0, 86, 327, 344]));
    assert!(table.values().any(|(limit, _)| limit.is_some_and(|limit| limit > 0)));
    assert_eq!(
        decode(golden!("17_database").0).unwrap().into_values().next(),
        Some((Some(0), BTreeSet::new()))
    );
}

#[test]
fn the_encoder_of_the_tests_writes_what_the_server_wrote() {
    for (bytes, _) in [golden!("17_database"), golden!("18_database")] {
        assert_eq!(encode(&decode(bytes).unwrap()), bytes);
    }
    // Lists are in the order of the WAL, so only the size can be the same.
    for (bytes, _) in [golden!("17"), golden!("18")] {
        assert_eq!(encode(&decode(bytes).unwrap()).len(), bytes.len());
    }
}

#[test]
fn a_cut_or_changed_summary_is_never_believed() {
    let (bytes, _) = golden!("17_database");
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Err(SummaryError::Truncated), "cut at {end}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
    }
    let longer = [bytes, &[0]].concat();
    assert_eq!(decode(&longer), Err(SummaryError::Trailing));
    assert_eq!(decode_in_pieces(&longer, bytes.len()), Err(SummaryError::Trailing));
}

#[test]
fn what_no_server_writes_is_refused_though_its_checksum_is_right() {
    let file = |words: &[u32], rest: &[u8]| {
        let mut bytes: Vec<u8> = [MAGIC].iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(rest);
        bytes.extend([0; ENTRY_SIZE]);
        decode(&seal(bytes))
    };
    let entry = [1663, 5, 7, 0, NO_LIMIT, 0];
    assert!(file(&entry, &[]).is_ok());
    assert_eq!(file(&[entry, entry].concat(), &[]), Err(SummaryError::Order));
    assert_eq!(file(&[1663, 5, 7, 4, 0, 0], &[]), Err(SummaryError::Fork(4)));
    assert_eq!(file(&[1663, 5, 7, 0, 0, CHUNKS_MAX + 1], &[]), Err(SummaryError::Chunks(CHUNKS_MAX + 1)));
    assert_eq!(file(&[1663, 5, 7, 0, 0, 1], &[1, 0x10]), Err(SummaryError::ChunkSize(4097)));
    let words = |word: u32| decode(&seal(word.to_le_bytes().to_vec()));
    assert_eq!(words(MAGIC.swap_bytes()), Err(SummaryError::ByteOrder));
    assert_eq!(words(7), Err(SummaryError::Magic(7)));
}

#[test]
fn names_are_read_as_the_server_writes_them_and_no_other_way() {
    let text = "00000001000000000100002800000000010B1D38.summary";
    let name: WalSummaryName = text.parse().unwrap();
    assert_eq!(
        (name.timeline(), name.start(), name.end()),
        (TimelineId(1), Lsn(0x100_0028), Lsn(0x10B_1D38))
    );
    assert_eq!(name.to_string(), text);
    for bad in [
        "",
        "temp.summary",
        "00000001000000000100002800000000010B1D38",
        "00000001000000000100002800000000010b1d38.summary",
        "0000000100000000010000280000000001000028.summary",
        "00000000000000000100002800000000010B1D38.summary",
        "00000001000000000100002800000000010B1D38.summary.tmp",
        "+0000001000000000100002800000000010B1D38.summary",
        "é0000001000000000100002800000000010B1D3.summary",
    ] {
        assert!(bad.parse::<WalSummaryName>().is_err(), "{bad}");
    }
}

fn tables() -> impl Strategy<Value = Table> {
    let key = [1u32..4, 0u32..3, 0u32..5, 0u32..4];
    // Dense enough for bitmaps, wide enough for empty chunks in between.
    let dense = (0u32..200_000, 1u32..9_000).prop_map(|(first, count)| (first..first + count).collect());
    let sparse = prop::collection::btree_set(0u32..1 << 20, 0..20);
    let blocks = prop_oneof![dense, sparse, Just(BTreeSet::from([u32::MAX - 1]))];
    prop::collection::btree_map(key, (prop::option::of(0..u32::MAX), blocks), 0..6)
}

proptest! {
    #[test]
    fn a_summary_comes_back_as_it_was_written_however_it_is_cut_up(table in tables(), size in 1usize..5_000) {
        let bytes = encode(&table);
        prop_assert_eq!(decode(&bytes), Ok(table.clone()));
        prop_assert_eq!(decode_in_pieces(&bytes, size), Ok(table));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>, sealed: bool) {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(&bytes);
        let _ = decode(&bytes);
        let _ = decode(&if sealed { seal(file) } else { file });
    }

    #[test]
    fn damage_in_a_whole_summary_is_found(table in tables(), at: prop::sample::Index, change in 1u8..) {
        let mut bytes = encode(&table);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn no_name_makes_the_parser_panic(text in "[0-9A-F]{39,41}(\\.summary)?|\\PC{0,20}") {
        if let Ok(name) = text.parse::<WalSummaryName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }
}
