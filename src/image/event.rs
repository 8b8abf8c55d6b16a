//! What happens while an image is fetched and unpacked, told to whoever shows it.

use super::{Digest, Reference};

/// One step of a pull. Sizes are in bytes.
#[derive(Debug, Clone)]
pub enum PullEvent<'a> {
    /// The reference was resolved to a manifest; `layers` will follow.
    Resolved {
        /// What was asked for.
        reference: &'a Reference,
        /// Digest of the chosen manifest.
        manifest: &'a Digest,
        /// Each layer's digest and compressed size.
        layers: &'a [(Digest, u64)],
    },
    /// The layer is already unpacked; nothing will be fetched.
    LayerExists {
        /// The compressed layer.
        digest: &'a Digest,
    },
    /// Another process is fetching or unpacking the same; this one waits for it.
    Waiting {
        /// The blob or layer waited for.
        digest: &'a Digest,
        /// Who holds the lock, when known.
        holder_pid: Option<u32>,
    },
    /// More bytes of a layer have arrived.
    Downloading {
        /// The compressed layer.
        digest: &'a Digest,
        /// Bytes so far, those of an earlier attempt included.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The layer is in the store and verified.
    Downloaded {
        /// The compressed layer.
        digest: &'a Digest,
    },
    /// A request failed and is tried again.
    Retrying {
        /// What failed, in words.
        what: &'a str,
        /// Milliseconds until the next attempt.
        delay_ms: u64,
    },
    /// More compressed bytes have been unpacked.
    Unpacking {
        /// The compressed layer.
        digest: &'a Digest,
        /// Compressed bytes read so far.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// The layer is unpacked, verified and in place.
    Unpacked {
        /// The compressed layer.
        digest: &'a Digest,
    },
}

/// Hears of each step. Called from several threads.
pub trait Observer: Send + Sync {
    /// Called for each step, in the order of each layer.
    fn pull(&self, event: &PullEvent<'_>);

    /// Called when something else than the image is waited for, and when that changes.
    fn waiting(&self, _text: &str) {}
}

/// An observer that shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn pull(&self, _event: &PullEvent<'_>) {}
}
