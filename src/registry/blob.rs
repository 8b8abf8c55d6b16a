//! Downloads of blobs: streamed into the store, resumed when they break off, verified before they have a name.
//!
//! The bytes come through `oci_distribution`, which shows neither status nor headers of an answer it did not like. So
//! when it fails with anything but a broken connection, the same blob is asked for once by our own request of one byte:
//! that obeys `Retry-After`, renews a token that ran out, or ends in an error that says what the server said.
//!
//! Every download asks for `bytes=<offset>-`, the first one for `bytes=0-`: a partial answer comes without that crate's
//! own hashing, which would be a second pass over what the store hashes anyway. The crate hides `Content-Range`; a range
//! of the wrong length is told by its length, one of the right length by the digest in the end. Either leads to one
//! download of the whole without a range.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use oci_distribution::client::{BlobResponse, LayerDescriptor, SizedStream};
use oci_distribution::errors::OciDistributionError;
use reqwest::Url;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Registry;
use super::answer::{Answer, shown};
use super::error::RegistryError;
use super::failure::{Failure, fault_of};
use super::retry::{Backoff, pause};
use super::session::{Body, Fetched, Session, Want, blob_path};
use crate::image::{Descriptor, Digest, Observer, PullEvent, Reference};
use crate::store::{BlobWriter, Store, StoreError};
use crate::sys::Lock;

/// Chunks between the network and the disk; each is at most some 400 KiB (hyper's largest read).
const CHUNKS_IN_FLIGHT: usize = 8;
/// Progress is told this often.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;
/// Progress after which failures are counted anew.
const PROGRESS_RESETS_BYTES: u64 = 1 << 20;
/// How long to wait before another look at a lock that somebody holds; it grows to the second.
const LOCK_LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Fetches a blob unless it is there, or waits for whoever is fetching it.
pub(super) async fn fetch(
    registry: &Registry,
    reference: &Reference,
    descriptor: &Descriptor,
    store: &Store,
    observer: &dyn Observer,
) -> Result<(), RegistryError> {
    if !store.has_blob(descriptor) {
        let lock = lock(store, &descriptor.digest, observer).await?;
        if !store.has_blob(descriptor) {
            let (lock, session) = (Arc::new(lock), registry.session(reference).await?);
            Download { session: &session, reference, descriptor, store, lock, observer }.run().await?;
        }
    }
    observer.pull(&PullEvent::Downloaded { digest: &descriptor.digest });
    Ok(())
}

/// Takes the lock of a digest by looking again and again, and not in a thread that waits: such a thread could not be
/// called off, and the process could not end before it.
async fn lock(store: &Store, digest: &Digest, observer: &dyn Observer) -> Result<BlobLock, RegistryError> {
    let (mut delay, longest) = LOCK_LOOK;
    let mut told = false;
    loop {
        if let Some(lock) = store.try_lock_digest(digest)? {
            return Ok(BlobLock(Some(lock)));
        }
        if !told {
            observer.pull(&PullEvent::Waiting { digest, holder_pid: store.digest_lock_holder(digest) });
            told = true;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(longest);
    }
}

/// The lock of a blob; its file goes with it.
struct BlobLock(Option<Lock>);

impl Drop for BlobLock {
    fn drop(&mut self) {
        // A file that stays behind is empty of meaning and reused.
        drop(self.0.take().map(Lock::remove));
    }
}

/// A blob on its way in and the lock that guards its place, dropped in this order.
struct Slot {
    writer: BlobWriter,
    _lock: Arc<BlobLock>,
}

struct Download<'a> {
    session: &'a Session,
    reference: &'a Reference,
    descriptor: &'a Descriptor,
    store: &'a Store,
    lock: Arc<BlobLock>,
    observer: &'a dyn Observer,
}

/// What has been tried so far.
struct Effort {
    backoff: Backoff,
    /// How far it had come when failures were last counted anew.
    furthest: u64,
    /// Whether ranges are asked for; not any more once they have gone wrong.
    ranged: bool,
    /// Whether the bytes come from more than one answer.
    resumed: bool,
}

/// Why a request brought no stream.
enum Trouble {
    /// The connection failed.
    Transport(Failure),
    /// The server answered something else; its status is known for some answers only.
    Answer { status: Option<u16>, text: String },
    /// It sent another range than the one that was asked for.
    WrongRange,
    /// The whole blob has another size.
    Size(u64),
}

impl Download<'_> {
    async fn run(&self) -> Result<(), RegistryError> {
        let backoff = self.session.transport().backoff();
        let mut effort = Effort { backoff, furthest: 0, ranged: true, resumed: false };
        loop {
            match self.whole(&mut effort).await {
                // Pieces that do not fit together are fetched once more as a whole.
                Err(RegistryError::Store(error @ (StoreError::Digest { .. } | StoreError::Size { .. })))
                    if effort.resumed =>
                {
                    tracing::debug!(%error, "a resumed download went wrong, starting anew without ranges");
                    effort.ranged = false;
                    effort.resumed = false;
                }
                outcome => return outcome,
            }
        }
    }

    async fn whole(&self, effort: &mut Effort) -> Result<(), RegistryError> {
        let (store, digest, size) = (self.store.clone(), self.descriptor.digest.clone(), self.descriptor.size);
        let writer = blocking(move || store.resume_blob(&digest, size)).await?;
        effort.resumed = writer.written() > 0;
        if effort.resumed {
            tracing::debug!(done = writer.written(), "going on where another process left off");
        }
        let mut slot = Slot { writer, _lock: Arc::clone(&self.lock) };
        // An empty blob needs no request; no range would fit it.
        while slot.writer.written() < self.descriptor.size {
            slot = self.advance(slot, effort).await?;
        }
        Ok(blocking(move || slot.writer.commit()).await?)
    }

    /// One request, and as much of its answer as comes.
    async fn advance(&self, mut slot: Slot, effort: &mut Effort) -> Result<Slot, RegistryError> {
        let offset = slot.writer.written();
        let (stream, from) = match self.request(effort.ranged.then_some(offset)).await? {
            Ok(answer) => answer,
            Err(trouble) => {
                self.recover(trouble, offset, effort).await?;
                return Ok(slot);
            }
        };
        if from != offset {
            slot.writer.restart()?;
        }
        effort.resumed = from > 0;
        let (slot, end) = self.pour(slot, stream).await?;
        let written = slot.writer.written();
        if written < self.descriptor.size {
            if written >= effort.furthest + PROGRESS_RESETS_BYTES {
                effort.backoff.reset();
                effort.furthest = written;
            }
            self.pause(effort, written, &end).await?;
        }
        Ok(slot)
    }

    /// Asks for the blob from `offset` on, or for all of it; returns the stream and where it begins.
    async fn request(&self, offset: Option<u64>) -> Result<Result<(SizedStream, u64), Trouble>, RegistryError> {
        let client = self.session.blob_client().await?;
        let (name, digest) = (self.session.repository_reference(), self.descriptor.digest.to_string());
        let layer = LayerDescriptor { digest: &digest, urls: &self.foreign_urls() };
        let size = self.descriptor.size;
        let limit = self.session.transport().answer_timeout();
        let answer = async {
            match offset {
                Some(offset) => client.pull_blob_stream_partial(&name, &layer, offset, None).await,
                None => client.pull_blob_stream(&name, &layer).await.map(BlobResponse::Full),
            }
        };
        Ok(match tokio::time::timeout(limit, answer).await {
            Err(_) => Err(Trouble::Transport(Failure::Deadline(limit))),
            Ok(Err(error)) => Err(trouble(error)),
            Ok(Ok(BlobResponse::Full(stream))) => match stream.content_length {
                Some(length) if length != size => Err(Trouble::Size(length)),
                _ => Ok((stream, 0)),
            },
            Ok(Ok(BlobResponse::Partial(stream))) => match (stream.content_length, offset) {
                (Some(length), Some(offset)) if length == size - offset => Ok((stream, offset)),
                (None, Some(offset)) => Ok((stream, offset)),
                _ => Err(Trouble::WrongRange),
            },
        })
    }

    /// Where a layer that its registry need not hold may be had. They are asked without any proof.
    fn foreign_urls(&self) -> Option<Vec<String>> {
        let transport = self.session.transport();
        let allowed = |url: &&String| url.parse().is_ok_and(|url: Url| transport.may_fetch(&url));
        let is_foreign = self.descriptor.media_type.is_foreign_layer();
        is_foreign.then(|| self.descriptor.urls.iter().filter(allowed).cloned().collect())
    }

    /// Makes ready for the next request, or says why there will be none.
    async fn recover(&self, trouble: Trouble, written: u64, effort: &mut Effort) -> Result<(), RegistryError> {
        match trouble {
            Trouble::Size(actual) => {
                let (digest, expected) = (self.descriptor.digest.clone(), self.descriptor.size);
                Err(StoreError::Size { digest, actual, more: false, expected }.into())
            }
            Trouble::WrongRange | Trouble::Answer { status: Some(400 | 416 | 501), .. } if effort.ranged => {
                effort.ranged = false;
                Ok(())
            }
            Trouble::WrongRange => self.pause(effort, written, "a range that nobody asked for").await,
            Trouble::Transport(failure) if failure.is_passing(true) => {
                self.pause(effort, written, &failure.to_string()).await
            }
            Trouble::Transport(failure) => Err(failure.into_error(&self.session.endpoint().host, &self.what())),
            Trouble::Answer { text, .. } => {
                if self.probe().await? {
                    // A fresh token: go on at once, but not for ever.
                    return effort.backoff.next(None).map(drop).ok_or_else(|| self.broken_off(effort, written, &text));
                }
                self.pause(effort, written, &text).await
            }
        }
    }

    /// Asks for one byte of the blob with our own request. If that works, says whether the proof was renewed for it.
    async fn probe(&self) -> Result<bool, RegistryError> {
        let before = self.session.generation().await;
        let path = blob_path(&self.descriptor.digest);
        let want = Want { path, what: &self.what(), accept: None, body: Body::Ignored };
        match self.session.fetch(&want, self.observer).await? {
            Fetched::Found { .. } => Ok(self.session.generation().await != before),
            Fetched::Missing(answer) => Err(RegistryError::NoBlob {
                host: self.session.endpoint().host.clone(),
                image: self.reference.to_string(),
                digest: self.descriptor.digest.clone(),
                answer: Box::new(answer),
            }),
        }
    }

    async fn pause(&self, effort: &mut Effort, written: u64, reason: &str) -> Result<(), RegistryError> {
        let Some(delay) = effort.backoff.next(None) else { return Err(self.broken_off(effort, written, reason)) };
        pause(delay, &format!("{}: {reason}", self.what()), self.observer).await;
        Ok(())
    }

    fn broken_off(&self, effort: &Effort, written: u64, reason: &str) -> RegistryError {
        RegistryError::Interrupted {
            host: self.session.endpoint().host.clone(),
            digest: self.descriptor.digest.clone(),
            done: written,
            total: self.descriptor.size,
            attempts: effort.backoff.failures(),
            reason: reason.to_owned(),
        }
    }

    fn what(&self) -> String {
        format!("layer {} of {}", self.descriptor.digest.short(), self.reference)
    }

    /// Takes in a stream; the network is read here, hashing and writing go on in a thread beside it.
    async fn pour(&self, slot: Slot, mut stream: SizedStream) -> Result<(Slot, String), RegistryError> {
        let (mut done, total) = (slot.writer.written(), self.descriptor.size);
        let (chunks, arriving) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let writing = tokio::task::spawn_blocking(move || write_all(slot, arriving));
        let mut told = done;
        let end = loop {
            match stream.try_next().await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    if chunks.send(chunk).await.is_err() {
                        break String::new();
                    }
                    if done >= told + PROGRESS_STEP_BYTES || done == total {
                        told = done;
                        self.observer.pull(&PullEvent::Downloading { digest: &self.descriptor.digest, done, total });
                    }
                }
                Ok(None) => break "the answer ended early".to_owned(),
                Err(error) => break describe(&error),
            }
        };
        drop(chunks);
        let slot = joined(writing).await?;
        Ok((slot, end))
    }
}

fn write_all<C: AsRef<[u8]>>(mut slot: Slot, mut arriving: mpsc::Receiver<C>) -> Result<Slot, StoreError> {
    while let Some(chunk) = arriving.blocking_recv() {
        slot.writer.write(chunk.as_ref())?;
    }
    Ok(slot)
}

fn trouble(error: OciDistributionError) -> Trouble {
    match error {
        OciDistributionError::RequestError(error) => Trouble::Transport(error.into()),
        OciDistributionError::UnauthorizedError { .. } => answered(Some(401), "401 Unauthorized".to_owned()),
        OciDistributionError::ServerError { code, message, .. } => {
            answered(Some(code), Answer::parse(code, message.as_bytes()).to_string())
        }
        OciDistributionError::RegistryError { envelope, .. } => answered(None, shown(&envelope.to_string())),
        other => answered(None, shown(&other.to_string())),
    }
}

const fn answered(status: Option<u16>, text: String) -> Trouble {
    Trouble::Answer { status, text }
}

/// How a stream broke off, in words.
fn describe(error: &std::io::Error) -> String {
    let cause = error.get_ref();
    if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<reqwest::Error>()) {
        return fault_of(error).to_string();
    }
    shown(&error.to_string())
}

/// Runs work that blocks beside the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and so are we.
        Err(_) => std::future::pending().await,
    }
}
