//! Advisory locks between processes that die with their holder.
//!
//! Open-file-description locks (fcntl(2), `F_OFD_SETLK`): the kernel drops them when the last descriptor of the open file
//! is closed, so kill -9 leaves nothing to mend. The holder writes its pid into the file for others to show; the pid is
//! talk, never truth.
//!
//! A lock file may be removed by its exclusive holder. Whoever opened the old file before that would lock a nameless
//! inode, so every acquisition checks afterwards that the path still names the locked inode, and starts anew if not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Who else may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Other shared holders.
    Shared,
    /// Nobody.
    Exclusive,
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path` (made when missing, 0600) if nobody is in the way; `None` if somebody is.
    pub fn try_acquire(path: &Path, mode: LockMode) -> io::Result<Option<Self>> {
        Self::acquire_with(path, mode, |file| match set_lock(file, mode, Wait::No) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Takes the lock at `path`, waiting for it; `on_wait` is told the holder's pid, if it is known, before a wait begins.
    pub fn acquire(path: &Path, mode: LockMode, mut on_wait: impl FnMut(Option<u32>)) -> io::Result<Self> {
        let lock = Self::acquire_with(path, mode, |file| {
            match set_lock(file, mode, Wait::No) {
                Ok(()) => return Ok(true),
                Err(Errno::EAGAIN | Errno::EACCES) => on_wait(read_holder(file)),
                Err(errno) => return Err(errno.into()),
            }
            loop {
                match set_lock(file, mode, Wait::Yes) {
                    Ok(()) => return Ok(true),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        })?;
        lock.ok_or_else(|| io::Error::other("a lock that was waited for was not had"))
    }

    fn acquire_with(
        path: &Path,
        mode: LockMode,
        mut take: impl FnMut(&mut File) -> io::Result<bool>,
    ) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // A link would be opened where it points to, and would never be what is found under the name afterwards.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        loop {
            let mut file = options.open(path)?;
            if !take(&mut file)? {
                return Ok(None);
            }
            if !names(path, &file)? {
                continue;
            }
            if mode == LockMode::Exclusive {
                write_holder(&mut file);
            }
            return Ok(Some(Self { file, path: path.to_owned() }));
        }
    }

    /// Makes the file at `path` with this content, locked exclusively before anybody sees it; takes the place of what is there.
    ///
    /// `passing` is another name in the same directory, which the caller makes sure that nobody else uses meanwhile.
    pub fn publish(path: &Path, passing: &Path, content: &[u8]) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(passing)?;
        set_lock(&file, LockMode::Exclusive, Wait::No)?;
        let published = file.write_all(content).and_then(|()| std::fs::rename(passing, path));
        if let Err(error) = published {
            drop(std::fs::remove_file(passing));
            return Err(error);
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Releases an exclusive lock and removes its file, for locks whose name will not soon be wanted again.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Whether anybody holds the lock at `path`, and the pid in it if so. Does not take the lock for a moment either.
    pub fn holder(path: &Path) -> io::Result<Option<Option<u32>>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok((i32::from(found.l_type) != libc::F_UNLCK).then(|| read_holder(&mut file)))
    }

    /// The process that the lock at `path` was bound to ([`bind_lock_to_process`]), as the kernel knows it; not what the file says.
    pub fn owner(path: &Path) -> io::Result<Option<i32>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))?;
        // Of a lock that belongs to an open file the number is -1.
        Ok(Some(found.l_pid).filter(|pid| i32::from(found.l_type) != libc::F_UNLCK && *pid > 0))
    }

    /// The open file of the lock, for a process that is to hold it further.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }
}

#[derive(Clone, Copy)]
enum Wait {
    Yes,
    No,
}

fn set_lock(file: &File, mode: LockMode, wait: Wait) -> Result<(), Errno> {
    let whole = whole_file(kind_of(mode));
    let argument = match wait {
        Wait::Yes => FcntlArg::F_OFD_SETLKW(&whole),
        Wait::No => FcntlArg::F_OFD_SETLK(&whole),
    };
    fcntl(file, argument).map(drop)
}

const fn kind_of(mode: LockMode) -> i32 {
    match mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    }
}

/// Binds a lock that was handed over with its open file to the life of this process; `mode` is how it is held.
///
/// An open file is shared with every child that is forked, so its lock outlives this process for as long as one of them
/// keeps it open. A record lock (`F_SETLK`) belongs to the process alone, but cannot be handed over. Hence the exchange: at
/// any time one byte or the other is locked, so whoever asks for the whole file is refused throughout.
///
/// The kernel drops record locks when the process closes *any* descriptor of the file: `file` must stay open, and must be
/// opened nowhere else in the process.
pub fn bind_lock_to_process(file: &impl AsFd, mode: LockMode) -> io::Result<()> {
    let file = file.as_fd();
    fcntl(file, FcntlArg::F_OFD_SETLK(&part_of_file(libc::F_UNLCK, 1, 0)))?;
    fcntl(file, FcntlArg::F_SETLK(&part_of_file(kind_of(mode), 1, 0)))?;
    fcntl(file, FcntlArg::F_OFD_SETLK(&part_of_file(libc::F_UNLCK, 0, 1)))?;
    Ok(())
}

fn whole_file(kind: i32) -> libc::flock {
    part_of_file(kind, 0, 0)
}

/// `length` 0 is everything from `start` on.
fn part_of_file(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: length,
        // The kernel demands 0 here for open-file-description locks.
        l_pid: 0,
    }
}

fn names(path: &Path, file: &File) -> io::Result<bool> {
    let locked = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.dev() == locked.dev() && named.ino() == locked.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Best effort: a full disk must not keep a lock from being had.
fn write_holder(file: &mut File) {
    let pid = std::process::id().to_string();
    let written = file.rewind().and_then(|()| file.write_all(pid.as_bytes()));
    let _ = written.and_then(|()| file.set_len(pid.len() as u64));
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excludes_shares_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_acquire(&path, LockMode::Exclusive).unwrap().unwrap();
        assert!(Lock::try_acquire(&path, LockMode::Exclusive).unwrap().is_none());
        assert!(Lock::try_acquire(&path, LockMode::Shared).unwrap().is_none());
        assert_eq!(Lock::holder(&path).unwrap(), Some(Some(std::process::id())));
        drop(held);
        assert_eq!(Lock::holder(&path).unwrap(), None);
        let first = Lock::try_acquire(&path, LockMode::Shared).unwrap().unwrap();
        let second = Lock::try_acquire(&path, LockMode::Shared).unwrap();
        assert!(second.is_some() && Lock::try_acquire(&path, LockMode::Exclusive).unwrap().is_none());
        drop(first);
    }

    #[test]
    fn waiter_of_a_removed_lock_takes_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::try_acquire(&path, LockMode::Exclusive).unwrap().unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || Lock::acquire(&path, LockMode::Exclusive, |pid| told.send(pid).unwrap()).unwrap()
        });
        assert_eq!(hears.recv().unwrap(), Some(std::process::id()));
        held.remove().unwrap();
        let second = waiter.join().unwrap();
        assert!(names(&path, &second.file).unwrap());
    }

    #[test]
    fn a_bound_lock_ends_with_the_process_and_not_with_the_last_copy_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::try_acquire(&path, LockMode::Exclusive).unwrap().unwrap();
        let copy = lock.file().try_clone().unwrap();
        bind_lock_to_process(lock.file(), LockMode::Exclusive).unwrap();
        assert!(Lock::try_acquire(&path, LockMode::Exclusive).unwrap().is_none());
        // That attempt has closed a descriptor of the file, which to a record lock is the end of the process.
        assert!(Lock::try_acquire(&path, LockMode::Exclusive).unwrap().is_some());
        drop(copy);
    }

    #[test]
    fn a_bound_shared_lock_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::try_acquire(&path, LockMode::Shared).unwrap().unwrap();
        bind_lock_to_process(lock.file(), LockMode::Shared).unwrap();
        // The other is not closed before the third has been refused: see above.
        let second = Lock::try_acquire(&path, LockMode::Shared).unwrap().unwrap();
        assert!(Lock::try_acquire(&path, LockMode::Exclusive).unwrap().is_none());
        drop(second);
    }

    #[test]
    fn a_published_file_is_locked_from_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let (path, passing) = (dir.path().join("note"), dir.path().join("new"));
        let first = Lock::publish(&path, &passing, b"one").unwrap();
        let second = Lock::publish(&path, &passing, b"two").unwrap();
        drop(first);
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(Lock::holder(&path).unwrap(), Some(None));
        assert!(!passing.exists() && names(&path, second.file()).unwrap());
        drop(second);
        assert_eq!(Lock::holder(&path).unwrap(), None);
    }
}
