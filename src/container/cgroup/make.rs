//! Making the cgroup of a run, with those above it that are missing.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{XattrFlags, setxattr};

use super::entrance::Entrance;
use super::hierarchy::{Version, used};
use super::{Cgroup, CgroupError, HANDED_ON, MADE_BY_US, Place, has_processes, is_root};
use crate::store::CgroupMode;

/// What a cgroup of version 1 must have before a process may be in it.
const SETS: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

impl Cgroup {
    /// Makes it in every hierarchy. The parents that are missing are marked as ours.
    pub fn make(&self) -> Result<(), CgroupError> {
        // Whoever removes an empty parent waits until there is something in it.
        let _guard = self.lock(FlockArg::LockShared);
        for place in &self.places {
            place.make_parents()?;
            if place.hierarchy.version == Version::V2 {
                place.hand_controllers_on(self.mode);
            }
            make_dir(&place.dir)?;
            if place.hierarchy.controls("cpuset") {
                place.fill_sets();
            }
        }
        Ok(())
    }

    /// The way into it, once it is made; the way to nowhere for a run that stays in its caller's.
    pub(in crate::container) fn entrance(&self) -> io::Result<Entrance> {
        Entrance::open(self.places.iter().map(|place| &place.dir))
    }

    /// A lock that all stores on the machine share.
    pub(super) fn lock(&self, how: FlockArg) -> Option<Flock<File>> {
        let root = File::open(&used(&self.hierarchies).next()?.mount).ok()?;
        Flock::lock(root, how).ok()
    }
}

impl Place {
    fn make_parents(&self) -> Result<(), CgroupError> {
        let Some(parent) = self.dir.parent() else { return Ok(()) };
        let missing: Vec<&Path> =
            parent.ancestors().take_while(|dir| *dir != self.hierarchy.mount && !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            if make_dir(dir)? {
                // A kernel without such attributes leaves a parent behind, which is empty.
                let _ = setxattr(dir, MADE_BY_US, b"1", XattrFlags::empty());
            }
        }
        Ok(())
    }

    /// Lets the controllers that there are reach the cgroup, as far as the kernel permits; limits that need one that does not
    /// were refused before ([`Cgroup::check_limits`]). Below the caller's cgroup for `nested`, else all the way down.
    fn hand_controllers_on(&self, mode: CgroupMode) {
        let top = self.top(mode);
        let above: Vec<&Path> = self.dir.ancestors().skip(1).take_while(|dir| dir.starts_with(top)).collect();
        for dir in above.into_iter().rev() {
            if !is_root(dir) && has_processes(dir) {
                break;
            }
            let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            for controller in controllers.split_whitespace().filter(|name| HANDED_ON.contains(name)) {
                // One that cannot be handed on stays out; it is missed when somebody asks for its limit.
                drop(fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")));
            }
        }
    }

    /// Gives those that have no processors and no memory nodes yet all that the one above has.
    fn fill_sets(&self) {
        let mut chain: Vec<&Path> =
            self.dir.ancestors().take_while(|dir| dir.starts_with(&self.hierarchy.mount)).collect();
        chain.reverse();
        for (above, dir) in chain.iter().zip(chain.iter().skip(1)) {
            for name in SETS {
                let read = |dir: &Path| fs::read_to_string(dir.join(name)).unwrap_or_default();
                if read(dir).trim().is_empty() {
                    // Where that fails the first process cannot enter, and says so.
                    drop(fs::write(dir.join(name), read(above).trim()));
                }
            }
        }
    }
}

/// Whether it was not there before.
fn make_dir(dir: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(CgroupError::Make { path: dir.to_owned(), source }),
    }
}
