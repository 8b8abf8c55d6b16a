//! Looking at what a run has written, by descriptors and never through a link.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, EntryKind, encode_path, object_for};
use crate::artifact::copy::{MAX_ATTRIBUTE_BYTES, may_keep, proc_path};
use crate::artifact::error::ArtifactError;
use crate::artifact::settle::{CLOSED_MODE, OPEN_MODE, Owner, Tally, new_owner};
use crate::artifact::store::Prepared;
use crate::artifact::tree::{self, Identity, TreeError, Visitor, identity, open_below, open_top, walk};

/// A file that was changed more recently than this may change again without its times showing it: kernels count in ticks.
const TICK: Duration = Duration::from_millis(100);

/// What tells that a file has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
            inode: stat.st_ino,
        }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the next change will show.
    pub(super) fn is_settled(&self) -> bool {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
        let changed =
            UNIX_EPOCH + Duration::from_secs(unsigned(self.ctime.0)) + Duration::from_nanos(unsigned(self.ctime.1));
        SystemTime::now().duration_since(changed).map_or_else(|early| early.duration() > TICK, |age| age > TICK)
    }
}

/// Something that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// As it will stand in the index; of a file, without its hash.
    pub(super) entry: Entry,
    pub(super) stamp: Stamp,
    /// Which artifact it is in.
    pub(super) artifact: usize,
    /// Its path in the artifact.
    pub(super) path: PathBuf,
    /// A further name of a file that is uploaded under the (encoded) path given here.
    pub(super) same_as: Option<String>,
}

/// All that was found, by its encoded path.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) found: BTreeMap<String, Found>,
    /// For each artifact.
    pub(super) tallies: Vec<Tally>,
}

/// Whether the container still writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// It does: only artifacts with `mount: true` are looked at, and what goes meanwhile is passed over.
    Live,
    /// It is gone.
    End,
}

pub(super) fn scan(prepared: &[Prepared], moment: Moment, owner: Option<Owner>) -> Result<Scan, ArtifactError> {
    let mut scan = Scan::default();
    let mut first_names = HashMap::new();
    for (artifact, one) in prepared.iter().enumerate() {
        let mut scanner = Scanner {
            artifact,
            base: one.declared.path.store_path(),
            owner,
            moment,
            found: &mut scan.found,
            first_names: &mut first_names,
            tally: Tally::default(),
            names: vec![0; MAX_ATTRIBUTE_BYTES],
        };
        if moment == Moment::End || one.declared.mount {
            let top = open_top(&one.host_dir).map_err(ArtifactError::io("open", &one.host_dir))?;
            scanner.top(top.as_fd()).map_err(ArtifactError::tree(&one.host_dir))?;
            walk(top.as_fd(), &mut scanner).map_err(ArtifactError::tree(&one.host_dir))?;
        }
        let tally = scanner.tally;
        scan.tallies.push(tally);
    }
    Ok(scan)
}

/// Opens a regular file for reading; `None` when it is gone or something else by now.
pub(super) fn open_source(top: &Path, path: &Path) -> Result<Option<(OwnedFd, Stat)>, ArtifactError> {
    let open = || {
        let top = open_top(top)?;
        let parent = open_below(top.as_fd(), path.parent().unwrap_or(Path::new("")))?;
        // Without NONBLOCK, what turned out to be a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, path.file_name().unwrap_or_default(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some((file, stat)))
    };
    match open() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        opened => opened.map_err(ArtifactError::io("open", &top.join(path))),
    }
}

struct Scanner<'a> {
    artifact: usize,
    /// Where the artifact is below the run.
    base: PathBuf,
    owner: Option<Owner>,
    moment: Moment,
    found: &'a mut BTreeMap<String, Found>,
    /// Under which path a file with several names is uploaded.
    first_names: &'a mut HashMap<Identity, String>,
    tally: Tally,
    /// Room for the names of attributes.
    names: Vec<u8>,
}

impl Visitor for Scanner<'_> {
    fn leaf(&mut self, entry: &tree::Entry<'_>) -> Result<(), TreeError> {
        self.tally.entries += 1;
        match entry.kind() {
            FileType::RegularFile => self.file(entry),
            FileType::Symlink => match rustix::fs::readlinkat(entry.dir, entry.name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) if self.is_live() => {}
                read => {
                    let target = read.map_err(TreeError::at("read the link", entry.path))?;
                    self.tally.files += 1;
                    let target = Some(super::entry::encode(target.to_bytes()));
                    self.add(entry.path, entry.stat, EntryKind::Link, None).entry.target = target;
                }
            },
            other => self.tally.skip(entry.path, other),
        }
        Ok(())
    }

    fn enter(&mut self, entry: &tree::Entry<'_>) -> Result<bool, TreeError> {
        self.tally.entries += 1;
        self.note_attributes(entry);
        self.add(entry.path, entry.stat, EntryKind::Directory, None);
        Ok(true)
    }

    fn leave(&mut self, _entry: &tree::Entry<'_>, _inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        Ok(())
    }

    fn is_live(&self) -> bool {
        self.moment == Moment::Live
    }
}

impl Scanner<'_> {
    fn top(&mut self, top: BorrowedFd<'_>) -> Result<(), TreeError> {
        let mut stat = rustix::fs::fstat(top).map_err(TreeError::at("read", Path::new("")))?;
        if stat.st_mode & 0o7777 == OPEN_MODE {
            stat.st_mode = stat.st_mode & !0o7777 | CLOSED_MODE;
        }
        self.add(Path::new(""), &stat, EntryKind::Directory, None);
        Ok(())
    }

    fn file(&mut self, entry: &tree::Entry<'_>) {
        self.tally.files += 1;
        self.tally.privileged += u64::from(entry.stat.st_mode & 0o6000 != 0);
        self.note_attributes(entry);
        let path = encode_path(&self.base.join(entry.path));
        let first = if entry.stat.st_nlink > 1 {
            self.first_names.entry(identity(entry.stat)).or_insert_with(|| path.clone()).clone()
        } else {
            path.clone()
        };
        let same_as = (first != path).then_some(first);
        if same_as.is_none() {
            self.tally.bytes += u64::try_from(entry.stat.st_size).unwrap_or_default();
        }
        let object = same_as
            .as_ref()
            .map_or_else(|| object_for(&path), |first| Some(object_for(first).unwrap_or_else(|| first.clone())));
        let found = self.add(entry.path, entry.stat, EntryKind::File, same_as);
        found.entry.size = found.stamp.size;
        found.entry.object = object;
    }

    fn add(&mut self, path: &Path, stat: &Stat, kind: EntryKind, same_as: Option<String>) -> &mut Found {
        // Joined with nothing, a path would end in a slash.
        let whole = if path.as_os_str().is_empty() { self.base.clone() } else { self.base.join(path) };
        let name = encode_path(&whole);
        let (uid, gid) = new_owner(stat, self.owner);
        let kept = if kind == EntryKind::Directory { 0o3777 } else { 0o1777 };
        let entry = Entry {
            path: name.clone(),
            kind,
            mode: stat.st_mode & kept,
            uid: uid.map_or(stat.st_uid, rustix::fs::Uid::as_raw),
            gid: gid.map_or(stat.st_gid, rustix::fs::Gid::as_raw),
            mtime: stat.st_mtime,
            mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            size: 0,
            sha256: None,
            object: None,
            target: None,
        };
        let found = Found { entry, stamp: Stamp::of(stat), artifact: self.artifact, path: path.to_owned(), same_as };
        self.found.entry(name).or_insert(found)
    }

    /// Attributes are not kept; that is told, once the run has ended.
    fn note_attributes(&mut self, entry: &tree::Entry<'_>) {
        if self.moment == Moment::Live {
            return;
        }
        let path = proc_path(entry.dir).join(OsStr::from_bytes(entry.name.to_bytes()));
        let Ok(length) = rustix::fs::llistxattr(&path, &mut self.names[..]) else { return };
        let mut names = self.names[..length].split(|byte| *byte == 0);
        self.tally.lost_attributes += u64::from(names.any(may_keep));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::artifact::path::Declared;
    use crate::artifact::remote::prepare_remote;

    #[test]
    fn a_run_that_goes_on_may_remove_what_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let declared = Declared::new("out".parse().unwrap(), true, Path::new("/workflow"), None).unwrap();
        let prepared = prepare_remote(&"a".parse().unwrap(), dir.path(), &[declared]).unwrap();
        let (top, done) = (prepared[0].host_dir.clone(), AtomicBool::new(false));
        std::fs::write(top.join("steady"), "x").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::create_dir_all(top.join("a/b")).unwrap();
                    std::fs::write(top.join("a/b/c"), "").unwrap();
                    std::os::unix::fs::symlink("x", top.join("a/link")).unwrap();
                    std::fs::remove_dir_all(top.join("a")).unwrap();
                }
            });
            for _ in 0..300 {
                let scanned = scan(&prepared, Moment::Live, None);
                let found = scanned.map(|scan| scan.found.contains_key("files/out/steady"));
                done.store(found.is_err(), Ordering::Relaxed);
                assert!(found.unwrap());
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let stamp = Stamp::of(&rustix::fs::stat(&path).unwrap());
        assert!(!stamp.is_settled());
        std::thread::sleep(2 * TICK);
        assert!(stamp.is_settled());
        let (found, _) = open_source(dir.path(), Path::new("file")).unwrap().unwrap();
        drop(found);
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        assert!(open_source(dir.path(), Path::new("link")).unwrap().is_none());
        assert!(open_source(dir.path(), Path::new("none")).unwrap().is_none());
        assert!(open_source(dir.path(), Path::new("")).unwrap().is_none());
    }
}
