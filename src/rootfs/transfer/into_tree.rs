//! Entries put into a directory, which may be one that a hostile workload writes at the same time.
//!
//! A file is made without a name, or under one of ours, finished through its descriptor, and put into its place by link or
//! rename: nobody sees half a file, and nothing is written through a link. What is mounted upon a name in a container would
//! be lost by a rename from outside, so such files are written where they stand.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::super::attributes::{Attributes, finish_dir, finish_file, finish_node, tolerate};
use super::super::path::ImagePath;
use super::super::pax::Xattrs;
use super::{Content, Item, Sink, TransferError, write_error};
use crate::sys::beneath::{Dir, FileKind, Metadata, copy_content, set_file_owner};

/// Mode of directories that no entry describes, and of all of them while they are filled.
const IMPLICIT_MODE: u32 = 0o755;
const WORKING_MODE: u32 = 0o700;
/// Bits that give the rights of an owner.
const PRIVILEGED_BITS: u32 = 0o6000;

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Those of the originals, with everything else that they are: set-user-ID bits, capabilities, devices.
    Kept,
    /// This user's and group's. What gave the rights of the old owner or of the system goes; devices are refused.
    Given(u32, u32),
}

/// Puts entries into a directory.
#[derive(Debug)]
pub struct TreeSink {
    top: Dir,
    ownership: Ownership,
    /// Begins the names of files on their way.
    prefix: String,
    counter: u64,
    /// The directory that the last entry stood in.
    parent: Option<(ImagePath, Dir)>,
    /// Directories made here that are still being filled, each in the one before it.
    filling: VecDeque<(ImagePath, Attributes, Xattrs)>,
}

impl TreeSink {
    /// Entries go below `top`; `nonce` is any number that tells this copy from others at the same time.
    #[must_use]
    pub fn new(top: Dir, ownership: Ownership, nonce: u64) -> Self {
        let prefix = format!(".dockless-cp-{nonce:016x}-");
        Self { top, ownership, prefix, counter: 0, parent: None, filling: VecDeque::new() }
    }

    fn attributes(&self, item: &Item<'_>) -> (Attributes, Xattrs) {
        let Ownership::Given(uid, gid) = self.ownership else { return (item.attributes, item.xattrs.clone()) };
        let mode = match item.kind {
            FileKind::Directory => item.attributes.mode,
            _ => item.attributes.mode & !PRIVILEGED_BITS,
        };
        let harmless = |name: &[u8]| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        let xattrs = item.xattrs.iter().filter(|(name, _)| harmless(name));
        let xattrs = xattrs.map(|(name, value)| (name.clone(), value.clone())).collect();
        (Attributes { uid, gid, mode, modified: item.attributes.modified }, xattrs)
    }

    /// Finishes the directories that `next` is not in; all of them without it.
    fn leave(&mut self, next: Option<&ImagePath>) -> Result<(), TransferError> {
        while let Some((path, attributes, xattrs)) = self.filling.pop_back() {
            if next.is_some_and(|next| next.strip(&path).is_some()) {
                self.filling.push_back((path, attributes, xattrs));
                break;
            }
            let describe = || {
                let dir = self.top.open_dir(path.as_os_str())?;
                for (name, value) in &xattrs {
                    let name = OsStr::from_bytes(name);
                    tolerate(name, dir.set_own_xattr(name, value))?;
                }
                finish_dir(&dir, &attributes)
            };
            match describe() {
                // Somebody has taken it away meanwhile.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                done => done.map_err(write_error(&path))?,
            }
        }
        Ok(())
    }

    /// Opens the directory that `path` stands in, with those above it that no entry was there for.
    fn enter(&mut self, path: &ImagePath) -> Result<Dir, TransferError> {
        let above = path.parent();
        if let Some((last, dir)) = &self.parent
            && *last == above
        {
            return dir.try_clone().map_err(write_error(&above));
        }
        let dir = match self.top.open_dir(above.as_os_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_way(&above),
            opened => opened,
        };
        let dir = dir.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP | Errno::NOTDIR) => TransferError::InTheWay {
                path: above.to_string(),
                found: "a link or a file",
                wanted: FileKind::Directory.words(),
            },
            _ => write_error(&above)(error),
        })?;
        self.parent = Some((above.clone(), dir.try_clone().map_err(write_error(&above))?));
        Ok(dir)
    }

    fn make_way(&self, path: &ImagePath) -> io::Result<Dir> {
        let mut dir = self.top.try_clone()?;
        for component in path.components() {
            let name = OsStr::from_bytes(component);
            if dir.stat(name)?.is_none() {
                dir.make_dir(name, IMPLICIT_MODE)?;
                if let Ownership::Given(uid, gid) = self.ownership {
                    dir.set_owner(name, uid, gid)?;
                }
            }
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    fn temporary(&mut self) -> OsString {
        self.counter += 1;
        format!("{}{}", self.prefix, self.counter).into()
    }

    fn directory(&mut self, item: &Item<'_>, dir: &Dir, found: Option<&Metadata>) -> Result<(), TransferError> {
        if found.is_none() {
            dir.make_dir(item.path.name(), WORKING_MODE).map_err(write_error(item.path))?;
            let (attributes, xattrs) = self.attributes(item);
            self.filling.push_back((item.path.clone(), attributes, xattrs));
        }
        Ok(())
    }

    fn file(
        &mut self,
        item: &Item<'_>,
        content: Content<'_>,
        dir: &Dir,
        found: Option<&Metadata>,
    ) -> Result<(), TransferError> {
        let (name, failed) = (item.path.name(), write_error(item.path));
        if found.is_some() && dir.is_mount_point(name).map_err(&failed)? {
            let file = dir.open_emptied(name).map_err(&failed)?;
            return write(item, content, &file);
        }
        let temporary = self.temporary();
        let (file, guard) = match dir.create_unnamed(0) {
            Ok(file) => (file, None),
            // Overlays have them since Linux 6.6 only, network file systems hardly ever.
            Err(_) => (dir.create_file(&temporary, 0).map_err(&failed)?, Some(Named { dir, name: &temporary })),
        };
        write(item, content, &file)?;
        let (attributes, xattrs) = self.attributes(item);
        let finished = set_file_owner(&file, attributes.uid, attributes.gid)
            // All bits count as taken by the umask: the file was made without any, and nobody looks in before it has its own.
            .and_then(|()| finish_file(&file, &attributes, &xattrs, 0o777));
        finished.map_err(&failed)?;
        if guard.is_some() {
            return dir.rename(&temporary, name).map_err(failed);
        }
        match dir.link_file(name, &file) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                dir.link_file(&temporary, &file).map_err(&failed)?;
                let _guard = Named { dir, name: &temporary };
                dir.rename(&temporary, name).map_err(failed)
            }
            linked => linked.map_err(failed),
        }
    }

    /// A link or a device, or another name of a file.
    fn node(&mut self, item: &Item<'_>, dir: &Dir, found: Option<&Metadata>) -> Result<(), TransferError> {
        let (name, failed) = (item.path.name(), write_error(item.path));
        if found.is_some() && dir.is_mount_point(name).map_err(&failed)? {
            return Err(failed(Errno::BUSY.into()));
        }
        let first = match item.same_as {
            Some(first) if first == item.path => return Ok(()),
            Some(first) => Some((self.top.open_dir(first.parent().as_os_str()).map_err(&failed)?, first.name())),
            None => None,
        };
        let temporary = self.temporary();
        // Goes in any case: a rename of one name of a file over another of its names does nothing.
        let _guard = Named { dir, name: &temporary };
        let (attributes, xattrs) = self.attributes(item);
        let made = match (&first, item.kind) {
            (Some((from, first)), _) => dir.link(&temporary, from, first),
            (None, FileKind::Symlink) => dir.make_symlink(&temporary, OsStr::from_bytes(item.link)),
            (None, kind) => dir.make_node(&temporary, kind, 0),
        };
        made.map_err(&failed)?;
        if first.is_none() {
            let described = dir
                .set_owner(&temporary, attributes.uid, attributes.gid)
                .and_then(|()| finish_node(dir, &temporary, item.kind, &attributes, &xattrs, 0o777));
            described.map_err(&failed)?;
        }
        dir.rename(&temporary, name).map_err(failed)
    }
}

impl Sink for TreeSink {
    #[expect(private_interfaces, reason = "as in the trait")]
    fn put(&mut self, item: &Item<'_>, content: Content<'_>) -> Result<(), TransferError> {
        // The destination itself is there, and stays what it is.
        if item.path.is_root() {
            return Ok(());
        }
        let is_device = matches!(item.kind, FileKind::CharDevice(_) | FileKind::BlockDevice(_));
        if is_device && self.ownership != Ownership::Kept {
            return Err(TransferError::Device { path: item.path.to_string(), kind: item.kind.words() });
        }
        self.leave(Some(item.path))?;
        let dir = self.enter(item.path)?;
        let found = dir.stat(item.path.name()).map_err(write_error(item.path))?;
        if let Some(found) = found
            && found.is_dir() != (item.kind == FileKind::Directory)
        {
            let (found, wanted) = (found.kind.words(), item.kind.words());
            return Err(TransferError::InTheWay { path: item.path.to_string(), found, wanted });
        }
        match item.kind {
            FileKind::Directory => self.directory(item, &dir, found.as_ref()),
            FileKind::Regular if item.same_as.is_none() => self.file(item, content, &dir, found.as_ref()),
            _ => self.node(item, &dir, found.as_ref()),
        }
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        self.leave(None)
    }
}

/// A name of ours that goes again, unless it was renamed.
struct Named<'a> {
    dir: &'a Dir,
    name: &'a OsStr,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        drop(self.dir.remove_file(self.name));
    }
}

fn write(item: &Item<'_>, content: Content<'_>, file: &File) -> Result<(), TransferError> {
    match content {
        Content::None => Ok(()),
        Content::File(from) => match copy_content(from, file, item.size) {
            // It became shorter while it was copied; its end is a hole, as far as it was promised.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            copied => copied.map_err(write_error(item.path)),
        },
        Content::Archive(read) => {
            read(&mut |offset, bytes| file.write_all_at(bytes, offset))?;
            file.set_len(item.size).map_err(write_error(item.path))
        }
    }
}
