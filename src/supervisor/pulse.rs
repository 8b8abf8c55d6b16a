//! What has to be looked at again and again while a container runs, because nobody tells of it: how full its `/dev/shm` is,
//! whether the kernel has killed one of its processes, and whether its time is over.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::statvfs::fstatvfs;
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::container::Cgroup;
use crate::image::ByteSize;

/// Between two looks.
const BEAT: Duration = Duration::from_secs(1);

/// What the looks have found so far.
#[derive(Debug)]
pub(super) struct Pulse {
    /// The container's own `/dev/shm`.
    shm: Option<OwnedFd>,
    shm_peak: u64,
    oom_kills: u64,
    next: Instant,
    deadline: Option<Instant>,
}

/// What one look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// All processes killed for want of memory until now, when there are more than at the last look.
    pub(super) oom_kills: Option<u64>,
    /// The time of the run is over; told once.
    pub(super) is_too_late: bool,
}

impl Pulse {
    /// For a container whose root file system is made and whose workload does not run yet: what stands at `/dev/shm` is still
    /// what we mounted there.
    pub(super) fn new(init: Pid, shm_size: Option<ByteSize>, deadline: Option<Instant>) -> Self {
        let next = Instant::now() + BEAT;
        Self { shm: own_shm(init, shm_size), shm_peak: 0, oom_kills: 0, next, deadline }
    }

    /// How long nothing has to be looked at.
    pub(super) fn rest(&self) -> Duration {
        let next = self.deadline.map_or(self.next, |deadline| deadline.min(self.next));
        next.saturating_duration_since(Instant::now())
    }

    /// Looks, if it is time to.
    pub(super) fn beat(&mut self, cgroup: &Cgroup) -> Beat {
        let now = Instant::now();
        let is_too_late = self.deadline.take_if(|deadline| now >= *deadline).is_some();
        if now < self.next {
            return Beat { oom_kills: None, is_too_late };
        }
        self.next = now + BEAT;
        self.look_at_shm();
        let kills = cgroup.usage().oom_kills;
        let has_more = kills > self.oom_kills;
        self.oom_kills = kills.max(self.oom_kills);
        Beat { oom_kills: has_more.then_some(kills), is_too_late }
    }

    /// The most that was in `/dev/shm`, now included; `None` for a container that has none of its own.
    pub(super) fn shm_peak(&mut self) -> Option<ByteSize> {
        self.look_at_shm();
        self.shm.as_ref().map(|_| ByteSize(self.shm_peak))
    }

    fn look_at_shm(&mut self) {
        let Some(found) = self.shm.as_ref().and_then(|shm| fstatvfs(shm).ok()) else { return };
        self.shm_peak = self.shm_peak.max((found.blocks() - found.blocks_free()) * found.fragment_size());
    }
}

/// Where the container has a file system of its own there, which is known by its size.
fn own_shm(init: Pid, size: Option<ByteSize>) -> Option<OwnedFd> {
    let path = format!("/proc/{init}/root/dev/shm");
    let shm = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    let found = fstatvfs(&shm).ok()?;
    let total = found.blocks() * found.fragment_size();
    // The kernel rounds up to whole pages.
    let is_own = size.is_some_and(|size| total >= size.0 && total - size.0 < found.fragment_size());
    is_own.then_some(shm)
}
