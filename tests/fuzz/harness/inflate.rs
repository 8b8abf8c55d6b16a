//! Compressed streams.

use std::io::{self, Read, Write};

use dockless::rootfs::{Inflate, StreamError};

use super::choices::Choices;

/// More than this is not taken out of a stream: bombs go on for long.
const MOST_BYTES: usize = 8 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The first byte chooses: bytes as they are, with a mark in front, or a stream that is made of choices.
pub(super) fn run(input: &[u8]) {
    let Some((&what, rest)) = input.split_first() else { return };
    match what % 4 {
        0 => drop(both_ways(rest)),
        1 => drop(both_ways(&[GZIP, rest].concat())),
        2 => drop(both_ways(&[ZSTD, rest].concat())),
        _ => round_trip(&mut Choices::new(rest)),
    }
}

/// What comes out of a stream, up to a bound; it must not matter in which pieces it goes in and out.
fn both_ways(blob: &[u8]) -> Result<Vec<u8>, String> {
    const FEW_BYTES: usize = 64 << 10;
    let at_once = out_of(blob, 256 << 10, MOST_BYTES);
    let in_pieces = out_of(Dribble { bytes: blob, turn: 0 }, 7, FEW_BYTES);
    match (&at_once, &in_pieces) {
        (Ok(bytes), _) if bytes.len() < FEW_BYTES => assert_eq!(at_once, in_pieces, "at once and in pieces"),
        // Libzstd does not hold the size in a frame's header against an empty last block when it sees the frame in pieces.
        (Err(_), Ok(_)) if blob.starts_with(ZSTD) || is_skippable(blob) => {}
        (Err(error), Ok(bytes)) => assert!(bytes.len() >= FEW_BYTES, "at once {error}, in pieces {bytes:?}"),
        _ => {}
    }
    at_once
}

fn out_of(blob: impl Read, piece_bytes: usize, most_bytes: usize) -> Result<Vec<u8>, String> {
    let told = |error: StreamError| error.to_string();
    let (mut stream, mut bytes, mut piece) = (Inflate::new(blob).map_err(told)?, Vec::new(), vec![0; piece_bytes]);
    while bytes.len() < most_bytes {
        match stream.read(&mut piece).map_err(|error| error.to_string())? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
    Ok(bytes)
}

/// Gives a few bytes at a time.
struct Dribble<'a> {
    bytes: &'a [u8],
    turn: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        // What is compressed with what is told by the first bytes, for which the first piece must do.
        let length = (if self.turn == 1 { 8 } else { 1 + self.turn % 5 }).min(into.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(length);
        into[..length].copy_from_slice(now);
        self.bytes = later;
        Ok(length)
    }
}

/// Members or frames with choices of content and level: out comes what went in, or an error where something is missing or
/// too much.
fn round_trip(choices: &mut Choices<'_>) {
    let (is_gzip, ending) = (choices.below(2) == 0, choices.below(4));
    let cut = usize::from(choices.number());
    let (mut blob, mut expected, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=choices.below(4) {
        let content = content(choices);
        starts.push((blob.len(), expected.len()));
        if is_gzip {
            blob.extend(gzip(&content));
        } else {
            if choices.below(3) == 0 {
                blob.extend(skippable(choices.byte()));
            }
            blob.extend(zstd_frame(&content));
        }
        expected.extend(content);
    }
    match ending {
        0 => {
            let what = if is_gzip { vec![0; cut % 2000] } else { skippable(choices.byte()) };
            assert_eq!(both_ways(&[blob, what].concat()), Ok(expected));
        }
        1 => {
            // Fewer bytes would not even tell what it is.
            blob.truncate((cut % blob.len()).max(4));
            // A stream that ends between two members is whole.
            let prefixes: Vec<&[u8]> = starts.iter().map(|(_, length)| &expected[..*length]).collect();
            let read = both_ways(&blob);
            assert!(read.is_err() || prefixes.iter().any(|prefix| read.as_deref() == Ok(*prefix)), "cut: {read:?}");
        }
        2 => {
            blob.push(b'x');
            both_ways(&blob).unwrap_err();
        }
        _ => assert_eq!(both_ways(&blob), Ok(expected)),
    }
}

fn content(choices: &mut Choices<'_>) -> Vec<u8> {
    let (length, step) = (usize::from(choices.number()) % 20_000, choices.byte());
    let mut value = choices.byte();
    let next = |_| {
        value = value.wrapping_mul(step | 1).wrapping_add(step >> 4);
        value
    };
    (0..length).map(next).collect()
}

/// A frame of zstd that is passed over.
pub(super) fn skippable(length: u8) -> Vec<u8> {
    [&[0x50 | length & 0xf, 0x2a, 0x4d, 0x18, length, 0, 0, 0], vec![length; length.into()].as_slice()].concat()
}

fn is_skippable(blob: &[u8]) -> bool {
    matches!(blob, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The start of a frame of zstd with a window of 2^`log` bytes, and its end.
pub(super) fn window(log: u8) -> Vec<u8> {
    [ZSTD, &[0, (log - 10) << 3], &[1, 0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_above_128_mib_are_refused() {
        assert_eq!(both_ways(&window(27)), Ok(Vec::new()));
        for log in [28, 31, 41] {
            assert!(both_ways(&window(log)).unwrap_err().contains("damaged"), "{log}");
        }
    }
}
