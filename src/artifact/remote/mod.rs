//! Artifacts in an object store, `s3://bucket/prefix`.
//!
//! ```text
//! <prefix>/<run>/manifest.json              the run is saved; written when all it names is there
//! <prefix>/<run>/unfinished.json            the run goes on, or its save was cut short; also takes the run's name
//! <prefix>/<run>/index-<sha256>.jsonl       a line for each file, link and directory; a manifest names its index
//! <prefix>/<run>/{files,absolute,home}/…    the files, where the local store has them
//! <prefix>/<run>/long/<sha256>              a file whose path is too long for a key
//! <store>/runs/<run>/artifacts/             all artifacts until they are saved, with `mount: true` too
//! <store>/runs/<run>/artifacts/manifest.json what was declared
//! <store>/runs/<run>/upload.jsonl           what is in the bucket already
//! ```
//!
//! A run is saved when `manifest.json` is there; [`Remote::runs`] lists no other. With `mount: true` the unfinished
//! manifest and its index follow what the run writes, so that its files can be listed and copied; each file is replaced as
//! a whole, and what is copied while it changes is not verified.
//!
//! Kept: content, names of any bytes, modes without setuid and setgid, owners, times of change, links as links, several
//! names of one file, empty directories. Not kept: devices, sockets, FIFOs and extended attributes, which is told.
//!
//! Memory: 64 MiB of content on its way, and about 500 bytes for each file.
//!
//! Uploads that were begun and never completed cost money at some providers. They are in the journal, and the next attempt
//! to save completes or aborts them; a bucket's rule that removes unfinished uploads after some days is still a good idea.

mod client;
mod entry;
mod error;
mod fetch;
mod journal;
mod process;
mod save;
mod scan;
mod settings;
mod staging;
mod take;
mod transfer;
mod url;

pub use error::RemoteError;
pub use process::{UPLOADER_ARGV0, UploadEvent, Uploader, uploader_entry};
pub use save::{Finish, UploadRequest};
pub use settings::{Patience, RemoteSettings, SecretText};
pub use staging::{prepare_remote, prepared_remote};
pub use take::{Remote, save_remote};
pub use url::{ArtifactStoreUrl, ArtifactStoreUrlError, S3Url};
