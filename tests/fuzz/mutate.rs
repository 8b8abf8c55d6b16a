//! Random changes of an input, the same in every run: what a fuzzer does, without its eyes.

use std::ops::Range;

const BLOCK_BYTES: usize = 512;
const MAX_BYTES: usize = 64 << 10;
/// Values at which code turns.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'/', b'.'];

/// Makes changes; see the module.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// `input` with one to four changes; some take a piece out of another input.
    pub(crate) fn change(&mut self, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let other = self.below(others.len());
            self.change_once(&mut bytes, &others[other]);
        }
        bytes.truncate(MAX_BYTES);
        bytes
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            bytes.push(EDGES[self.below(EDGES.len())]);
            return;
        }
        let at = self.below(bytes.len());
        match self.below(10) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = EDGES[self.below(EDGES.len())],
            2 => bytes[at] = u8::try_from(self.below(256)).unwrap_or(0),
            3 => bytes[at] = bytes[at].wrapping_add(1),
            4 => bytes.truncate(at),
            5 => {
                bytes.drain(self.piece(bytes.len()));
            }
            6 => {
                let piece = bytes[self.piece(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let piece = other[self.piece(other.len())].to_vec();
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece);
            }
            8 => {
                // Two blocks change places, as entries of an archive would.
                let (one, two) = (at / BLOCK_BYTES, self.below(bytes.len()) / BLOCK_BYTES);
                for offset in 0..BLOCK_BYTES {
                    let (one, two) = (one * BLOCK_BYTES + offset, two * BLOCK_BYTES + offset);
                    if one.max(two) < bytes.len() {
                        bytes.swap(one, two);
                    }
                }
            }
            _ => {
                // The head of this one, the tail of another.
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    /// A piece of something of that length, mostly short.
    fn piece(&mut self, length: usize) -> Range<usize> {
        if length == 0 {
            return 0..0;
        }
        let start = self.below(length);
        let most = if self.below(4) == 0 { length } else { 16 };
        start..(start + 1 + self.below(most)).min(length)
    }

    /// A number below `bound`, by xorshift.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % bound
    }
}
