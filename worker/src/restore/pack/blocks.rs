//! Which blocks are wanted, in which frames they lie, and which frames are fetched together. Values only.

use pgconvoy_core::format::pack::{PackBody, PackRange};
use std::ops::Range;

/// Large enough that a store's answer time does not matter, small enough for three of them and a frame in a slot's 24 MiB.
pub(super) const FETCH_BYTES: u64 = 4 << 20;

/// Stored bytes between wanted frames that are fetched along: a second request would cost more.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// Blocks of one part of the pack's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) part: usize,
    pub(super) blocks: Range<u32>,
}

impl Wanted {
    /// How many there are is for the footer to say.
    pub(super) fn whole(part: usize) -> Self {
        Wanted { part, blocks: 0..u32::MAX }
    }
}

/// Wanted blocks that lie one after another in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// 0 is the pack itself, k the k-th of the packs that it refers to.
    pub(super) object: usize,
    pub(super) frame: usize,
    pub(super) skip: usize,
    pub(super) wanted: Wanted,
}

/// Where the wanted blocks of a range lie. The range has been validated.
pub(super) fn find(wanted: &Wanted, range: &PackRange, body: &PackBody, pieces: &mut Vec<Piece>) {
    let mut first = 0u32;
    for run in &range.runs {
        let end = first.saturating_add(run.blocks());
        let begin = wanted.blocks.start.max(first);
        let blocks = begin..wanted.blocks.end.min(end);
        if !blocks.is_empty() {
            let object = run.pack() as usize;
            let frame = match object {
                0 => run.frame(),
                foreign => body.foreign[foreign - 1].frames[run.frame() as usize].0,
            };
            let before = (begin - first) as usize * range.block_size as usize;
            let skip = run.skip() as usize + before;
            pieces.push(Piece {
                object,
                frame: frame as usize,
                skip,
                wanted: Wanted { part: wanted.part, blocks },
            });
        }
        first = end;
    }
}

/// Frames that lie near each other and are fetched in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) object: usize,
    pub(super) frames: Range<usize>,
    /// The pieces that lie in them.
    pub(super) pieces: Range<usize>,
}

/// Sorts the pieces by where they lie and cuts them into windows. `stored` tells a frame's length.
pub(super) fn windows(pieces: &mut [Piece], stored: impl Fn(usize, usize) -> u64) -> Vec<Window> {
    pieces.sort_unstable_by_key(|piece| (piece.object, piece.frame, piece.skip));
    let mut windows: Vec<Window> = Vec::new();
    let mut bytes = 0u64;
    for (index, piece) in pieces.iter().enumerate() {
        let length = stored(piece.object, piece.frame);
        if let Some(last) = windows.last_mut().filter(|last| last.object == piece.object) {
            let more = match last.frames.end > piece.frame {
                true => 0,
                false => gap(last.frames.end..piece.frame, |frame| stored(piece.object, frame))
                    .map_or(u64::MAX, |gap| gap + length),
            };
            if bytes.saturating_add(more) <= FETCH_BYTES || more == 0 {
                bytes += more;
                last.frames.end = piece.frame + 1;
                last.pieces.end = index + 1;
                continue;
            }
        }
        bytes = length;
        windows.push(Window {
            object: piece.object,
            frames: piece.frame..piece.frame + 1,
            pieces: index..index + 1,
        });
    }
    windows
}

/// Stored bytes of frames that nobody wants, if they are few.
fn gap(frames: Range<usize>, stored: impl Fn(usize) -> u64) -> Option<u64> {
    frames.map(stored).try_fold(0u64, |sum, length| {
        let sum = sum.saturating_add(length);
        (sum <= GAP_BYTES_MAX).then_some(sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(frame: usize, skip: usize) -> Piece {
        Piece { object: 0, frame, skip, wanted: Wanted::whole(0) }
    }

    #[test]
    fn neighbouring_frames_share_a_request_up_to_its_limit() {
        let mut pieces = [piece(3, 0), piece(0, 9), piece(0, 0), piece(1, 0), piece(4, 0)];
        let found = windows(&mut pieces, |_, frame| if frame == 4 { FETCH_BYTES } else { 100 });
        let frames: Vec<(Range<usize>, Range<usize>)> =
            found.into_iter().map(|window| (window.frames, window.pieces)).collect();
        assert_eq!(frames, [(0..4, 0..4), (4..5, 4..5)], "frame 2 is fetched along");
    }

    #[test]
    fn what_lies_far_apart_is_fetched_apart() {
        let mut pieces = [piece(0, 0), piece(3, 0), piece(5, 0)];
        let found = windows(&mut pieces, |_, frame| if frame == 4 { 1 } else { GAP_BYTES_MAX / 2 + 1 });
        let frames: Vec<(usize, usize)> =
            found.iter().map(|window| (window.frames.start, window.frames.end)).collect();
        assert_eq!(frames, [(0, 1), (3, 6)]);
    }

    #[test]
    fn a_frame_over_the_limit_is_fetched_alone() {
        let mut pieces = [piece(0, 0), piece(1, 0)];
        let found = windows(&mut pieces, |_, _| 2 * FETCH_BYTES);
        assert_eq!(found.len(), 2);
    }
}
