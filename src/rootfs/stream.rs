//! From a compressed blob to its uncompressed bytes, hashed on the way: three threads with bounded queues between them.
//!
//! ```text
//! blob ── inflate ──┬── hash      (the digest of all bytes, to the very end)
//!                   └── take      (the caller's thread: entries of the archive, files)
//! ```
//!
//! What a blob is compressed with is told by its first bytes; media types are often wrong. Gzip may come in several
//! members (RFC 1952, 2.2) with zeros behind the last one, zstd in several frames, some of them to be skipped (RFC 8878,
//! 3.1). Anything else behind the end is an error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use crate::image::{Algorithm, ByteSize, Digest, Hasher};

/// Size of the buffers that pass between the threads.
const CHUNK_BYTES: usize = 1 << 20;
/// Buffers that may wait in each queue.
const QUEUE_CHUNKS: usize = 4;
/// Compressed bytes read at once.
const INPUT_BYTES: usize = 256 << 10;
/// Largest window of a zstd frame, as a power of two: what zstd itself takes without being asked (128 MiB).
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// `inflateInit2`'s largest window, which every gzip stream fits in.
const GZIP_WINDOW_BITS: u8 = 15;

/// Why a blob could not be uncompressed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The blob itself cannot be read.
    #[error("cannot read the blob")]
    Read(#[source] io::Error),
    /// The compressed data is not what it should be.
    #[error("the {format} data is damaged at byte {offset}")]
    Damaged {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Where in the blob, about.
        offset: u64,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// The compressed data stops before its end.
    #[error("the {format} data ends early, at byte {offset}")]
    Truncated {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// The blob's size.
        offset: u64,
    },
    /// Something follows the compressed data.
    #[error("garbage follows the {format} data at byte {offset}")]
    Trailing {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Where in the blob.
        offset: u64,
    },
    /// A compression that layers do not use.
    #[error("it is compressed with {format}, expected gzip, zstd or none")]
    Unsupported {
        /// Its name.
        format: &'static str,
    },
    /// Too much comes out.
    #[error("it holds more than {limit} uncompressed")]
    TooLarge {
        /// The bound in bytes.
        limit: ByteSize,
    },
    /// No thread to be had.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A piece of the uncompressed stream.
type Chunk = Arc<Vec<u8>>;

/// What to uncompress, and how far.
pub(super) struct Source<'a> {
    pub blob: File,
    /// Bound of the uncompressed bytes.
    pub max_bytes: u64,
    /// The digest to make of the uncompressed bytes.
    pub algorithm: Algorithm,
    /// Told the compressed bytes read so far, every quarter of a megabyte.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Uncompresses `source` into `take` and returns what that made with the digest of the whole stream.
///
/// `take` may stop early, with an error or without; the digest is right only if it read to the end. An error of the stream
/// wins over one of `take`, which would be its consequence.
pub(super) fn uncompress<T, E>(
    source: Source<'_>,
    take: impl FnOnce(ChunkReader) -> Result<T, E>,
) -> Result<(T, Digest), E>
where
    E: From<StreamError>,
{
    let (to_hash, hash_input) = sync_channel(QUEUE_CHUNKS);
    let (to_take, take_input) = sync_channel(QUEUE_CHUNKS);
    let algorithm = source.algorithm;
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let hash = named("hash").spawn_scoped(scope, move || hash(&hash_input, algorithm));
        let hash = hash.map_err(StreamError::Thread)?;
        let inflate = named("inflate").spawn_scoped(scope, move || inflate(source, &to_hash, &to_take));
        let inflate = inflate.map_err(StreamError::Thread)?;
        let taken = take(ChunkReader { input: take_input, chunk: Arc::default(), position: 0 });
        let inflated = inflate.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let digest = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        inflated?;
        Ok((taken?, digest))
    })
}

fn hash(input: &Receiver<Chunk>, algorithm: Algorithm) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    for chunk in input {
        hasher.update(&chunk);
    }
    hasher.finish()
}

fn inflate(source: Source<'_>, hash: &SyncSender<Chunk>, take: &SyncSender<Chunk>) -> Result<(), StreamError> {
    let reader = Counted { file: source.blob, read: 0, progress: source.progress };
    let mut decoder = Decoder::new(BufReader::with_capacity(INPUT_BYTES, reader))?;
    let mut buffers = Buffers::default();
    let mut total: u64 = 0;
    loop {
        let chunk = buffers.fill(|bytes| decoder.read(bytes))?;
        if chunk.is_empty() {
            return Ok(());
        }
        total += chunk.len() as u64;
        if total > source.max_bytes {
            return Err(StreamError::TooLarge { limit: ByteSize(source.max_bytes) });
        }
        // A taker that has seen enough hangs up; that is no error here.
        if hash.send(Arc::clone(&chunk)).is_err() || take.send(chunk).is_err() {
            return Ok(());
        }
    }
}

/// Buffers that are used again once nobody else holds them. The queues bound how many there can be.
#[derive(Default)]
struct Buffers(Vec<Chunk>);

impl Buffers {
    fn fill<E>(&mut self, mut read: impl FnMut(&mut [u8]) -> Result<usize, E>) -> Result<Chunk, E> {
        let free = self.0.iter_mut().position(|chunk| Arc::get_mut(chunk).is_some());
        let mut chunk = free.map_or_else(Arc::default, |free| self.0.swap_remove(free));
        let bytes = Arc::make_mut(&mut chunk);
        bytes.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        while filled < bytes.len() {
            match read(&mut bytes[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        bytes.truncate(filled);
        self.0.push(Arc::clone(&chunk));
        Ok(chunk)
    }
}

/// The uncompressed stream as its taker reads it.
pub(super) struct ChunkReader {
    input: Receiver<Chunk>,
    chunk: Chunk,
    position: usize,
}

impl Read for ChunkReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.chunk.len() {
            // The sender is gone at the end of the stream, or after an error that it reports itself.
            self.chunk = self.input.recv().unwrap_or_default();
            self.position = 0;
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

/// Counts what is read.
struct Counted<'a> {
    file: File,
    read: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(into)?;
        self.read += length as u64;
        (self.progress)(self.read);
        Ok(length)
    }
}

/// A decompressor over `R`.
pub(super) struct Decoder<R> {
    input: R,
    /// Bytes of the input that were used.
    offset: u64,
    method: Method,
}

enum Method {
    Plain,
    Gzip(Option<Box<Decompress>>),
    Zstd { decoder: ZstdDecoder<'static>, inside_frame: bool },
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(mut input: R) -> Result<Self, StreamError> {
        let start = input.fill_buf().map_err(StreamError::Read)?;
        let method = match start {
            [0x1f, 0x8b, ..] => Method::Gzip(None),
            // A frame, or one of the sixteen marks of a frame to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let broken = |source| StreamError::Damaged { format: "zstd", offset: 0, source };
                let mut decoder = ZstdDecoder::new().map_err(broken)?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG)).map_err(broken)?;
                Method::Zstd { decoder, inside_frame: false }
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(StreamError::Unsupported { format: "xz" }),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => {
                return Err(StreamError::Unsupported { format: "bzip2" });
            }
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err(StreamError::Unsupported { format: "lz4" }),
            _ => Method::Plain,
        };
        Ok(Self { input, offset: 0, method })
    }

    /// What a media type of these bytes ends in.
    pub(super) const fn suffix(&self) -> &'static str {
        match self.method {
            Method::Plain => "",
            Method::Gzip(_) => "+gzip",
            Method::Zstd { .. } => "+zstd",
        }
    }

    /// Writes the next uncompressed bytes to `into`; 0 at the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, StreamError> {
        match &mut self.method {
            Method::Plain => self.input.read(into).map_err(StreamError::Read),
            Method::Gzip(member) => read_gzip(&mut self.input, &mut self.offset, member, into),
            Method::Zstd { decoder, inside_frame } => {
                read_zstd(&mut self.input, &mut self.offset, decoder, inside_frame, into)
            }
        }
    }
}

fn read_gzip(
    input: &mut impl BufRead,
    offset: &mut u64,
    member: &mut Option<Box<Decompress>>,
    into: &mut [u8],
) -> Result<usize, StreamError> {
    const FORMAT: &str = "gzip";
    loop {
        let available = input.fill_buf().map_err(StreamError::Read)?;
        let Some(decompress) = member else {
            match available.first() {
                None => return Ok(0),
                Some(0x1f) => *member = Some(Box::new(Decompress::new_gzip(GZIP_WINDOW_BITS))),
                Some(0) => skip_zeros(input, offset)?,
                Some(_) => return Err(StreamError::Trailing { format: FORMAT, offset: *offset }),
            }
            continue;
        };
        let at_end = available.is_empty();
        let (read, written) = (decompress.total_in(), decompress.total_out());
        let status = decompress.decompress(available, into, FlushDecompress::None);
        let status =
            status.map_err(|error| StreamError::Damaged { format: FORMAT, offset: *offset, source: error.into() })?;
        let read = decompress.total_in() - read;
        let written = usize::try_from(decompress.total_out() - written).unwrap_or(into.len());
        input.consume(usize::try_from(read).unwrap_or(0));
        *offset += read;
        if status == Status::StreamEnd {
            *member = None;
        }
        if written > 0 {
            return Ok(written);
        }
        if at_end && status != Status::StreamEnd {
            return Err(StreamError::Truncated { format: FORMAT, offset: *offset });
        }
    }
}

/// Passes over the zeros that tapes and careless writers leave behind the last member; only they may stand there.
fn skip_zeros(input: &mut impl BufRead, offset: &mut u64) -> Result<(), StreamError> {
    loop {
        let available = input.fill_buf().map_err(StreamError::Read)?;
        if available.is_empty() {
            return Ok(());
        }
        if let Some(other) = available.iter().position(|byte| *byte != 0) {
            return Err(StreamError::Trailing { format: "gzip", offset: *offset + other as u64 });
        }
        let length = available.len();
        input.consume(length);
        *offset += length as u64;
    }
}

fn read_zstd(
    input: &mut impl BufRead,
    offset: &mut u64,
    decoder: &mut ZstdDecoder<'static>,
    inside_frame: &mut bool,
    into: &mut [u8],
) -> Result<usize, StreamError> {
    const FORMAT: &str = "zstd";
    loop {
        let available = input.fill_buf().map_err(StreamError::Read)?;
        let at_end = available.is_empty();
        if !*inside_frame {
            match available {
                [] => return Ok(0),
                [0x28 | 0x50..=0x5f, ..] => *inside_frame = true,
                _ => return Err(StreamError::Trailing { format: FORMAT, offset: *offset }),
            }
        }
        let (mut source, mut target) = (InBuffer::around(available), OutBuffer::around(&mut *into));
        let wanted = decoder.run(&mut source, &mut target).map_err(|source| StreamError::Damaged {
            format: FORMAT,
            offset: *offset,
            source,
        })?;
        let (read, written) = (source.pos(), target.pos());
        input.consume(read);
        *offset += read as u64;
        *inside_frame = wanted != 0;
        if written > 0 {
            return Ok(written);
        }
        if at_end && *inside_frame {
            return Err(StreamError::Truncated { format: FORMAT, offset: *offset });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn skippable(length: u8) -> Vec<u8> {
        [&[0x5a, 0x2a, 0x4d, 0x18, length, 0, 0, 0], vec![0xee; length.into()].as_slice()].concat()
    }

    fn all(blob: &[u8]) -> Result<Vec<u8>, StreamError> {
        let mut decoder = Decoder::new(BufReader::with_capacity(7, blob))?;
        let (mut bytes, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match decoder.read(&mut buffer)? {
                0 => return Ok(bytes),
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    fn text() -> Vec<u8> {
        (0..20_000_u32).flat_map(|n| (n * n).to_be_bytes()).collect()
    }

    #[test]
    fn what_it_is_is_told_by_its_first_bytes() {
        let text = text();
        let (half, rest) = text.split_at(30_000);
        for (what, blob) in [
            ("plain", text.clone()),
            ("gzip", gzip(&text)),
            ("gzip of several members", [gzip(half), gzip(b""), gzip(rest)].concat()),
            ("gzip with zeros behind it", [gzip(&text), vec![0; 1500]].concat()),
            ("zstd", zstd_frame(&text)),
            ("zstd of several frames", [zstd_frame(half), skippable(9), zstd_frame(rest), skippable(0)].concat()),
            ("zstd that begins with a skippable frame", [skippable(200), zstd_frame(&text)].concat()),
        ] {
            assert!(all(&blob).unwrap_or_else(|error| panic!("{what}: {error}")) == text, "{what}: content differs");
        }
        assert_eq!(all(b"").unwrap(), b"");
        assert_eq!(all(&gzip(b"")).unwrap(), b"");
        assert_eq!(all(&zstd_frame(b"")).unwrap(), b"");
        assert!(matches!(all(b"\xfd7zXZ\0"), Err(StreamError::Unsupported { format: "xz" })));
    }

    #[test]
    fn what_ends_early_or_late_is_an_error() {
        let text = text();
        for (format, blob) in [("gzip", gzip(&text)), ("zstd", zstd_frame(&text))] {
            for cut in [10, blob.len() / 2, blob.len() - 1] {
                let error = all(&blob[..cut]).unwrap_err();
                assert!(matches!(error, StreamError::Truncated { .. }), "{format} cut at {cut}: {error}");
            }
            let trailing = all(&[blob.as_slice(), b"garbage"].concat()).unwrap_err();
            assert!(matches!(trailing, StreamError::Trailing { .. }), "{format}: {trailing}");
            let mut damaged = blob.clone();
            let middle = damaged.len() / 2;
            damaged[middle..middle + 40].fill(0xaa);
            // Zstd frames need not carry a checksum; then the digest of the whole tells.
            assert!(all(&damaged).map_or(true, |bytes| bytes != text), "damaged {format} gave the same");
        }
        assert!(all(&[gzip(&text), vec![0; 10], gzip(&text)].concat()).is_err());
        assert!(all(&[zstd_frame(&text), vec![0; 10]].concat()).is_err());
    }

    fn source<'a>(bytes: &[u8], max_bytes: u64, progress: &'a (dyn Fn(u64) + Sync)) -> Source<'a> {
        use std::io::Seek;
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(bytes).unwrap();
        blob.rewind().unwrap();
        Source { blob, max_bytes, algorithm: Algorithm::Sha256, progress }
    }

    #[test]
    fn threads_agree_on_content_and_digest() {
        let text = text().repeat(150);
        let seen = std::sync::atomic::AtomicU64::new(0);
        let progress = |read| seen.store(read, std::sync::atomic::Ordering::Relaxed);
        let blob = gzip(&text);
        let (taken, digest) = uncompress(source(&blob, u64::MAX, &progress), |mut reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            Ok::<_, StreamError>(bytes)
        })
        .unwrap();
        assert!(taken == text, "content differs");
        assert_eq!(digest, Digest::sha256(&text));
        assert_eq!(seen.into_inner(), blob.len() as u64);
    }

    #[test]
    fn a_bomb_is_stopped_and_a_taker_may_leave() {
        let bomb = gzip(&vec![0; 20 << 20]);
        let stopped = uncompress(source(&bomb, 4 << 20, &|_| {}), |mut reader| {
            Ok::<_, StreamError>(io::copy(&mut reader, &mut io::sink()).unwrap())
        });
        assert!(matches!(stopped, Err(StreamError::TooLarge { .. })));
        uncompress(source(&bomb, u64::MAX, &|_| {}), |_| Ok::<_, StreamError>(())).unwrap();
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_or_hang(
            magic in prop::sample::select(vec![&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x51\x2a\x4d\x18"]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = all(&[magic, &bytes].concat());
        }
    }
}
