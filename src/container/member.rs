//! A process of a container, held so that it cannot become another one: what it is in, and its root directory.
//!
//! A number is only a number. It is opened as a pidfd first; what is read of `/proc/PID` after that belongs to the process
//! if the pidfd says afterwards that it still lives, since its number cannot be given to another one before.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::sys;
use crate::sys::beneath::Dir;

/// The namespaces that are entered, in this order: the user namespace first, as it gives the right to the others; the mounts
/// last, as the others are opened by then.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// See the module.
#[derive(Debug)]
pub struct Member {
    pid: Pid,
    pidfd: OwnedFd,
}

/// One namespace, open.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) file: File,
    pub(super) kind: CloneFlags,
}

impl Member {
    /// The process `pid` if it is a child of `parent`, who must know it by that number still.
    pub(super) fn child_of(pid: i32, parent: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid);
        let this = Self { pid, pidfd: sys::pidfd(pid)? };
        let status = fs::read_to_string(this.proc("status"))?;
        let found = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
        this.check_alive()?;
        if found == Some(parent) { Ok(this) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// A process that somebody else has looked for.
    pub fn adopt(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        let this = Self { pid: Pid::from_raw(pid), pidfd };
        this.check_alive().map(|()| this)
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// What holds it.
    #[must_use]
    pub const fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Its root directory, whatever mount namespace that is in, with all that is mounted there.
    pub fn root(&self) -> io::Result<Dir> {
        let root = Dir::open(&self.proc("root"))?;
        self.check_alive().map(|()| root.across_mounts())
    }

    /// Whether it is paused: nothing that comes to it would run.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let says =
            |path: PathBuf, words: &[&str]| fs::read_to_string(path).is_ok_and(|text| words.contains(&text.trim()));
        let dirs = self.cgroups().unwrap_or_default();
        dirs.iter().any(|dir| {
            says(dir.join("freezer.state"), &["FROZEN", "FREEZING"]) || says(dir.join("cgroup.freeze"), &["1"])
        })
    }

    /// Its namespaces that are not our own.
    pub(super) fn namespaces(&self) -> io::Result<Vec<Namespace>> {
        use std::os::unix::fs::MetadataExt;
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        let mut found = Vec::new();
        for (name, kind) in NAMESPACES {
            let file = match File::open(self.proc("ns").join(name)) {
                // A kernel without that kind.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            // Entering one's own user namespace again is an error; the others would change nothing.
            if identity(&file)? != identity(&File::open(Path::new("/proc/self/ns").join(name))?)? {
                found.push(Namespace { file, kind });
            }
        }
        self.check_alive().map(|()| found)
    }

    /// The directories of the cgroups it is in, one for each hierarchy that is mounted here.
    fn cgroups(&self) -> io::Result<Vec<PathBuf>> {
        self.cgroups_without("")
    }

    /// Those that this process is not in already: a run that has none of its own stays in its caller's, and that one may be
    /// mounted read-only.
    pub(super) fn cgroups_to_join(&self) -> io::Result<Vec<PathBuf>> {
        self.cgroups_without(&fs::read_to_string("/proc/self/cgroup")?)
    }

    fn cgroups_without(&self, known: &str) -> io::Result<Vec<PathBuf>> {
        let own = fs::read_to_string(self.proc("cgroup"))?;
        self.check_alive()?;
        let others = own.lines().filter(|line| !known.lines().any(|known| known == *line));
        Ok(cgroup_dirs(others, &fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn proc(&self, name: impl AsRef<OsStr>) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name.as_ref())
    }

    /// Whether its mounts are neither those of process `other` nor ours.
    pub(super) fn has_own_mounts(&self, other: i32) -> bool {
        use std::os::unix::fs::MetadataExt;
        let namespace = |path: PathBuf| fs::metadata(path).ok().map(|namespace| (namespace.dev(), namespace.ino()));
        let its = namespace(self.proc("ns/mnt"));
        let others = [format!("/proc/{other}/ns/mnt"), "/proc/self/ns/mnt".to_owned()];
        its.is_some() && others.into_iter().all(|other| namespace(other.into()).is_some_and(|other| Some(other) != its))
    }

    pub(super) fn check_alive(&self) -> io::Result<()> {
        if sys::has_ended(self.pidfd.as_fd()) { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }
}

/// From `/proc/PID/cgroup` (`id:controllers:path`) and the mounts of this machine.
fn cgroup_dirs<'a>(own: impl Iterator<Item = &'a str>, mountinfo: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in own {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        dirs.extend(mountinfo.lines().find_map(|mount| mounted_at(mount, controllers, path)));
    }
    dirs
}

fn mounted_at(mount: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    let (left, right) = mount.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, target) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    let is_it = match kind {
        "cgroup2" => controllers.is_empty(),
        "cgroup" => {
            !controllers.is_empty()
                && controllers.split(',').all(|wanted| options.split(',').any(|option| option == wanted))
        }
        _ => false,
    };
    // What is above the mount cannot be reached through it.
    let path = Path::new(path).strip_prefix(root).ok()?;
    is_it.then(|| Path::new(target).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_where_they_are_mounted() {
        let mounts = "\
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let own = "4:cpu,cpuacct:/dockless/a\n3:memory:/outer/b\n2:memory:/elsewhere\n1:name=systemd:/\n0::/c\n";
        let found = cgroup_dirs(own.lines(), mounts);
        let expected = ["cpu,cpuacct/dockless/a", "memory/b", "systemd", "unified/c"];
        assert_eq!(found, expected.map(|path| Path::new("/sys/fs/cgroup").join(path)));
    }

    #[test]
    fn a_number_alone_is_not_believed() {
        let own = std::process::id().cast_signed();
        let parent = nix::unistd::getppid().as_raw();
        assert!(Member::child_of(own, parent).is_ok());
        assert!(Member::child_of(own, parent + 1).is_err());
        assert!(Member::child_of(i32::MAX, parent).is_err());
    }
}
