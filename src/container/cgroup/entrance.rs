//! The way into a cgroup that costs no time.
//!
//! Whoever writes the number of a process to `cgroup.procs` has the kernel wait until every processor has passed a quiet
//! point, so that no thread is made or ends meanwhile (`cgroup_threadgroup_rwsem`): 8 to 20 ms, more than all else that a
//! start takes. Two ways need no such wait. On version 1 a process with one thread moves itself by writing 0 to `tasks`
//! (since Linux 5.5); on version 2 it is made in there by clone3(2) (Linux 5.7). Older kernels move it as ever.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::unistd::Pid;

use crate::sys;

/// The directories of one cgroup, open.
#[derive(Debug, Default)]
pub(in crate::container) struct Entrance {
    /// The file `tasks` of each hierarchy of version 1.
    tasks: Vec<File>,
    /// Version 2: the directory, and its file `cgroup.procs`.
    unified: Vec<(File, File)>,
}

/// Where a process goes on.
pub(in crate::container) enum Forked {
    /// Here, as the parent of that one.
    Parent(Pid),
    /// In the copy, and whether that has got inside.
    Child(io::Result<()>),
}

impl Entrance {
    pub(in crate::container) fn open(dirs: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<Self> {
        let mut this = Self::default();
        for dir in dirs {
            let dir = dir.as_ref();
            let open = |name: &str| File::options().write(true).open(dir.join(name));
            match open("tasks") {
                Ok(tasks) => this.tasks.push(tasks),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    this.unified.push((File::open(dir)?, open("cgroup.procs")?));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(this)
    }

    /// Makes a copy of this process, which has one thread, inside.
    pub(in crate::container) fn fork(&self) -> io::Result<Forked> {
        let made = self.unified.first().map(|(dir, _)| sys::fork_into(dir.as_fd()));
        // What the kernel or a filter does not know is done by hand.
        let (pid, made) = match made {
            Some(Ok(pid)) => (pid, 1),
            Some(Err(_)) | None => (sys::fork()?, 0),
        };
        Ok(pid.map_or_else(|| Forked::Child(self.enter(made)), Forked::Parent))
    }

    /// 0 stands for the process that writes.
    fn enter(&self, made: usize) -> io::Result<()> {
        let others = self.unified.iter().skip(made).map(|(_, procs)| procs);
        self.tasks.iter().chain(others).try_for_each(|mut file| file.write_all(b"0"))
    }
}
