//! Who holds GPUs: what a run writes beside its locks for others to read. Pure.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::GpuUuid;
use crate::store::RunName;
use crate::words::printable;

/// A run that holds GPUs, as its note says. The locks are the truth; this only tells whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The run.
    pub run: RunName,
    /// Root of the store that its record is in.
    pub store: PathBuf,
    /// Name of its container and of that's cgroup: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, 128 bytes at most.
    pub id: String,
    /// GPUs and MIG devices.
    pub uuids: Vec<GpuUuid>,
    /// Whether other sharing runs may have them as well.
    pub shared: bool,
    /// It keeps these while it waits for more; no container of it runs.
    pub waiting: bool,
    /// Since when, RFC 3339.
    pub since: String,
}

impl Holder {
    /// Whether a name of a container is safe as a file name.
    #[must_use]
    pub fn is_id(id: &str) -> bool {
        id.len() <= 128
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
            && id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
    }
}

/// ``run `calm-fox-1` of store `/var/lib/dockless` since 2024-05-01T12:00:00Z``.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, store, since, .. } = self;
        let (store, since) = (printable(&store.to_string_lossy()), printable(since));
        write!(f, "run `{run}` of store `{store}` since {since}")?;
        f.write_str(if self.waiting { ", which waits for more" } else { "" })
    }
}

/// A GPU or MIG device that is held at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub uuid: GpuUuid,
    /// By whom; `None` when there is a lock without a note.
    pub by: Option<Holder>,
    /// Whether it cannot be had; what sharing runs hold, another of them can have.
    pub blocks: bool,
}
