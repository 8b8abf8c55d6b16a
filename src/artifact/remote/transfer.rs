//! Sending files: small ones whole, large ones in parts, many at a time in bounded memory.
//!
//! Bytes that are on their way count against [`MEMORY_BYTES`]; one part may be larger than that only for files of more
//! than 560 GiB. Each file is read once and in order, so that its sha256 comes along; its parts travel side by side.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::PutPayload;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::client::Client;
use super::entry::{hex, sha256_hex};
use super::error::RemoteError;
use super::journal::{Journal, Multipart, SentFile, SentPart};
use super::scan::{Found, Stamp, open_source};
use crate::artifact::error::ArtifactError;

const MIB: u64 = 1 << 20;
/// Size of a part, and of the largest file that is sent whole. S3 wants 5 MiB at least.
pub(super) const PART_BYTES: u64 = 8 * MIB;
/// S3 takes 10,000.
const MAX_PARTS: u64 = 9_000;
/// What may be on its way at once.
const MEMORY_BYTES: u64 = 64 * MIB;
/// Files that are sent side by side.
pub(super) const FILES_AT_ONCE: usize = 16;

/// Sends the files of one run.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    client: Client,
    /// The key of the run, without a slash behind it.
    run_key: String,
    journal: Arc<Mutex<Journal>>,
    memory: Arc<Semaphore>,
}

/// A piece of a file that was read.
struct Piece {
    bytes: Vec<u8>,
    sha256: String,
    hasher: Sha256,
}

impl Transfer {
    pub(super) fn new(client: Client, run_key: String, journal: Journal) -> Self {
        let permits = usize::try_from(MEMORY_BYTES / MIB).unwrap_or(1);
        Self { client, run_key, journal: Arc::new(Mutex::new(journal)), memory: Arc::new(Semaphore::new(permits)) }
    }

    /// The same with another patience.
    pub(super) fn with_client(&self, client: Client) -> Self {
        Self { client, ..self.clone() }
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a file, unless it is gone; what was sent is in the journal then.
    pub(super) async fn send(&self, top: &Path, found: &Found) -> Result<Option<SentFile>, ArtifactError> {
        let source_path = top.join(&found.path);
        let (top, path) = (top.to_owned(), found.path.clone());
        let opened = spawn_blocking(move || open_source(&top, &path)).await.map_err(joined(&source_path))??;
        let Some((file, stat)) = opened else { return Ok(None) };
        let before = Stamp::of(&stat);
        let settled = before.is_settled();
        let source = Source { file: Arc::new(file), path: source_path, stamp: before };
        let key = format!("{}/{}", self.run_key, found.entry.object());
        let (size, sha256) = if before.size() <= PART_BYTES {
            self.send_whole(&source, &key).await?
        } else {
            match self.send_parts(&source, &found.entry.path, &key).await {
                // The upload in the journal is gone on the server.
                Err(ArtifactError::Remote(error)) if error.is_missing() => {
                    self.journal().gone(&found.entry.path);
                    self.send_parts(&source, &found.entry.path, &key).await?
                }
                sent => sent?,
            }
        };
        let after = rustix::fs::fstat(&source.file).map_err(ArtifactError::io("read", &source.path))?;
        let stamp = (settled && Stamp::of(&after) == before && size == before.size()).then_some(before);
        let sent = SentFile { stamp, size, sha256 };
        self.journal().sent(&found.entry.path, sent.clone());
        Ok(Some(sent))
    }

    async fn send_whole(&self, source: &Source, key: &str) -> Result<(u64, String), ArtifactError> {
        let _room = self.room(source.stamp.size()).await;
        let piece = source.read(0, source.stamp.size(), Sha256::new()).await?;
        let size = piece.bytes.len() as u64;
        self.client.put(key, PutPayload::from(piece.bytes)).await?;
        Ok((size, piece.sha256))
    }

    async fn send_parts(&self, source: &Source, path: &str, key: &str) -> Result<(u64, String), ArtifactError> {
        let multipart = self.begin(source, path, key).await?;
        let Multipart { upload, part_bytes, .. } = &multipart;
        let mut sent: BTreeMap<usize, String> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let (mut offset, mut hasher) = (0, Sha256::new());
        for index in 0.. {
            let wanted = (*part_bytes).min(source.stamp.size() - offset);
            let room = self.room(wanted).await;
            let piece = source.read(offset, wanted, hasher).await?;
            hasher = piece.hasher;
            if piece.bytes.is_empty() && index > 0 {
                break;
            }
            offset += piece.bytes.len() as u64;
            let last = (piece.bytes.len() as u64) < *part_bytes || offset == source.stamp.size();
            match multipart.parts.get(&index).filter(|part| part.sha256 == piece.sha256) {
                Some(part) => drop(sent.insert(index, part.id.clone())),
                None => drop(tasks.spawn(self.clone().send_part(
                    [path, key, upload].map(str::to_owned),
                    index,
                    (piece.bytes, piece.sha256),
                    room,
                ))),
            }
            while let Some(done) = tasks.try_join_next() {
                sent.extend([done.map_err(joined(&source.path))??]);
            }
            if last {
                break;
            }
        }
        while let Some(done) = tasks.join_next().await {
            sent.extend([done.map_err(joined(&source.path))??]);
        }
        let parts: Vec<String> = sent.into_values().collect();
        self.client.complete(key, upload, &parts).await?;
        Ok((offset, hex(&hasher.finalize())))
    }

    /// Goes on with the upload in the journal if it is of this very file; else begins one.
    async fn begin(&self, source: &Source, path: &str, key: &str) -> Result<Multipart, RemoteError> {
        let part_bytes = part_bytes(source.stamp.size());
        let begun = self.journal().multipart(path);
        if let Some(begun) = begun {
            if begun.stamp == source.stamp && begun.key == key && begun.part_bytes == part_bytes {
                return Ok(begun);
            }
            self.abort(path, &begun).await?;
        }
        let upload = self.client.start_multipart(key).await?;
        let multipart =
            Multipart { stamp: source.stamp, key: key.to_owned(), upload, part_bytes, parts: BTreeMap::new() };
        self.journal().begin(path, &multipart);
        Ok(multipart)
    }

    /// Frees what an upload that will not be completed takes at the server.
    pub(super) async fn abort(&self, path: &str, multipart: &Multipart) -> Result<(), RemoteError> {
        self.client.abort(&multipart.key, &multipart.upload).await?;
        self.journal().gone(path);
        Ok(())
    }

    async fn send_part(
        self,
        [path, key, upload]: [String; 3],
        index: usize,
        (bytes, sha256): (Vec<u8>, String),
        room: OwnedSemaphorePermit,
    ) -> Result<(usize, String), RemoteError> {
        let id = self.client.put_part(&key, &upload, index, PutPayload::from(bytes)).await?;
        drop(room);
        self.journal().sent_part(&path, &upload, index, SentPart { id: id.clone(), sha256 });
        Ok((index, id))
    }

    /// Waits until so many bytes may be held.
    async fn room(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permits = bytes.div_ceil(MIB).clamp(1, MEMORY_BYTES / MIB);
        let permits = u32::try_from(permits).unwrap_or(1);
        let room = Arc::clone(&self.memory).acquire_many_owned(permits).await;
        room.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }
}

/// An open file that is sent as it was when it was opened, as far as it lets us.
struct Source {
    file: Arc<OwnedFd>,
    path: PathBuf,
    stamp: Stamp,
}

impl Source {
    /// Reads at most `length` bytes, fewer at the end of the file.
    async fn read(&self, offset: u64, length: u64, mut hasher: Sha256) -> Result<Piece, ArtifactError> {
        let file = Arc::clone(&self.file);
        let read = spawn_blocking(move || {
            let bytes = read_at(&file, offset, length)?;
            hasher.update(&bytes);
            let sha256 = sha256_hex(&bytes);
            Ok(Piece { bytes, sha256, hasher })
        });
        read.await.map_err(joined(&self.path))?.map_err(ArtifactError::io::<Errno>("read", &self.path))
    }
}

fn read_at(file: &OwnedFd, offset: u64, length: u64) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::FBIG)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(file, &mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn part_bytes(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS).next_multiple_of(MIB).max(PART_BYTES)
}

/// For `map_err`: a task that panicked or was cancelled.
fn joined(path: &Path) -> impl FnOnce(JoinError) -> ArtifactError {
    let failed = ArtifactError::io::<io::Error>("read", path);
    move |error| failed(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_s3_wants_them() {
        for (size, part) in [(PART_BYTES + 1, 8), (9_000 * PART_BYTES, 8), (9_000 * PART_BYTES + 1, 9), (5 << 40, 583)]
        {
            assert_eq!(part_bytes(size), part * MIB, "{size}");
            assert!(size.div_ceil(part_bytes(size)) <= MAX_PARTS);
        }
    }
}
