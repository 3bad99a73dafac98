//! lz4 on the way from a source, where a compute worker asked for it.
//!
//! Compressing costs the database's host more than sending what it saves, unless it saves much. So a sample decides for each
//! chunk: two pages of it are compressed first, and what does not shrink well goes as it is, at the price of the sample.

use bytes::{BufMut, Bytes, BytesMut};
use pgconvoy_core::failure::Failure;
use pgconvoy_repository::codec::{Codec, Compressor, Decompressor};
use std::collections::VecDeque;

/// Two pages of the usual size.
const SAMPLE_BYTES: usize = 16 << 10;
/// What a sample must shrink to, in hundredths of it.
const PAYS_BELOW_PERCENT: usize = 50;

pub(crate) struct Squeezer {
    compressor: Compressor,
    sample: Vec<u8>,
}

impl Squeezer {
    pub(crate) fn new() -> Result<Squeezer, Failure> {
        let compressor = Compressor::new(Codec::Lz4, Codec::Lz4.default_level())?;
        Ok(Squeezer { compressor, sample: Vec::new() })
    }

    /// What is shorter and to be sent instead of these bytes, if anything.
    pub(crate) fn squeeze(&mut self, raw: &[u8]) -> Result<Option<Bytes>, Failure> {
        if !self.pays(raw)? {
            return Ok(None);
        }
        let mut stored = Vec::with_capacity(raw.len() / 2);
        let codec = self.compressor.compress(raw, &mut stored)?;
        Ok((codec == Codec::Lz4).then(|| stored.into()))
    }

    fn pays(&mut self, raw: &[u8]) -> Result<bool, Failure> {
        let sample = &raw[..raw.len().min(SAMPLE_BYTES)];
        self.sample.clear();
        self.compressor.compress(sample, &mut self.sample)?;
        Ok(self.sample.len() * 100 < sample.len() * PAYS_BELOW_PERCENT)
    }
}

/// The way back.
pub(crate) fn unsqueeze(
    stored: VecDeque<Bytes>,
    length: usize,
    raw: usize,
) -> Result<VecDeque<Bytes>, Failure> {
    if length == raw {
        return Ok(stored);
    }
    let stored = joined(stored, length);
    let mut bytes = Vec::with_capacity(raw);
    Decompressor::new().decompress(Codec::Lz4, &stored, raw, &mut bytes)?;
    Ok(VecDeque::from([bytes.into()]))
}

fn joined(mut pieces: VecDeque<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(length);
    pieces.iter().for_each(|piece| joined.put_slice(piece));
    joined.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    fn random(bytes: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn what_shrinks_well_is_shorter_on_the_way_and_the_same_behind_it() {
        let raw: Vec<u8> = (0..200_000_usize).map(|at| u8::try_from(at / 1000).unwrap()).collect();
        let sent = Squeezer::new().unwrap().squeeze(&raw).unwrap().unwrap();
        assert!(sent.len() * 10 < raw.len(), "{}", sent.len());
        let length = sent.len();
        let pieces = VecDeque::from([sent.slice(..100), sent.slice(100..)]);
        let back = unsqueeze(pieces, length, raw.len()).unwrap();
        assert_eq!(back.iter().flatten().copied().collect::<Vec<u8>>(), raw);
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is_and_costs_no_more_than_its_sample() {
        let mut raw = random(200_000);
        // Only its sample would be compressed: the rest is not looked at.
        raw[100_000..].fill(0);
        let sent = Squeezer::new().unwrap().squeeze(&raw).unwrap();
        assert_eq!(sent, None);
    }

    #[test]
    fn what_is_no_lz4_is_an_error() {
        assert!(unsqueeze(VecDeque::from([Bytes::from(random(1000))]), 1000, 8192).is_err());
        assert!(unsqueeze(VecDeque::from([Bytes::from_static(&[0])]), 1, 8192).is_err());
    }
}
