//! Artifacts: directories of a container that are kept when it is gone.
//!
//! A declared artifact is an empty directory that is bind-mounted into the container. With `mount: true` it is in the
//! store, and its files are visible while the run goes on; else it is in the run's directory and is saved when the run
//! ends, whatever the run's end was: all artifacts of a run become visible at once or none does.
//!
//! ```text
//! <store>/runs/<run>/artifacts/        what is not saved yet; moves, as a whole, to …/saved
//!     files/<path>                     `output`: relative to the working directory
//!     absolute/<path>                  `/models`
//!     home/<path>                      `~/models`
//! <store>/artifacts/<run>/             (0700)
//!     manifest.json                    what was declared, written before the run starts
//!     live/{files,absolute,home}/…     artifacts with `mount: true`
//!     saving/                          a copy that is being made, when the run's directory is on another file system
//!     saved/manifest.json              the final manifest; it becomes visible with the files and not before
//!     saved/{files,absolute,home}/…    artifacts with `mount: false`
//! <store>/artifacts/.removing-<run>    going away
//! ```
//!
//! Because a declared path always stands below one of three directories, none can collide with a manifest.
//!
//! `manifest.json`, with no other keys than these ([`Manifest`]):
//!
//! ```json
//! {
//!   "schema": 1,
//!   "run": "clever-otter-1",
//!   "outcome": "done",
//!   "saved_at": "2024-05-01T12:00:00Z",
//!   "artifacts": [
//!     {"path": "output", "container_path": "/workflow/output", "mount": false, "files": 1, "bytes": 14}
//!   ]
//! }
//! ```
//!
//! `outcome` (`done`, `failed`, `interrupted`) and `saved_at` are absent while the run goes on.
//!
//! What a container wrote is hostile: it is walked by descriptors, links are kept and never followed, devices, sockets
//! and FIFOs are left out, setuid and setgid bits and file capabilities are taken away. Nobody may write to it while it is
//! saved: the container and all its processes are gone.
//!
//! Artifacts may go to a bucket instead (`s3://bucket/prefix`); `remote/mod.rs` says how they stand there.
//!
//! A crash while saving loses nothing: until the last rename all is in the run's directory, and
//! [`save`](ArtifactStore::save) can be called again.

mod copy;
mod error;
mod manifest;
mod path;
mod remote;
mod save;
mod settle;
mod store;
mod take;
#[cfg(test)]
mod tests;
mod tree;

pub use error::ArtifactError;
pub use manifest::{Manifest, Outcome, SavedArtifact};
pub use path::{ArtifactPath, ArtifactPathError, Declared, overlap};
pub use remote::{
    ArtifactStoreUrl, ArtifactStoreUrlError, Finish, Patience, Remote, RemoteError, RemoteSettings, S3Url, SecretText,
    UPLOADER_ARGV0, UploadEvent, UploadRequest, Uploader, prepare_remote, prepared_remote, save_remote, uploader_entry,
};
pub use save::{SaveRequest, Saved, Warning};
pub use settle::Owner;
pub use store::{ArtifactStore, Prepared};
pub use take::{Copied, FileKind, ListedFile, Listing};
