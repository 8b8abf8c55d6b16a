//! Owner, mode, times and extended attributes of files, set in the order that loses none of them.
//!
//! chown(2) clears set-user-ID bits and `security.capability`; writing clears them too; where there is an access ACL, its mask
//! is the group's part of the mode, which bsdtar writes otherwise. Hence: content, owner, attributes, mode, ACL, times.
//! Calls that would change nothing are left out, as a layer has many files of root's with a usual mode.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::pax::Xattrs;
use crate::sys::beneath::{
    Dir, FileKind, Metadata, PLAIN_WHITEOUT, Time, WHITEOUT, copy_content, set_file_mode, set_file_owner,
    set_file_times, set_file_xattr,
};

/// The overlays that a tree is for (kernel, `filesystems/overlayfs.rst`, "User xattr").
///
/// Whiteouts are character devices 0:0 for both kinds: since Linux 5.8 everybody may make those, and overlays in user
/// namespaces came with 5.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Marks {
    /// Those that root mounts.
    #[default]
    Trusted,
    /// Those that are mounted with `userxattr`, as in a user namespace, where `trusted.*` cannot be set, nor devices made.
    User,
    /// None: on an overlay, where no other one can be mounted, nobody can make whiteouts either. Such trees are copied.
    /// They need nothing but device nodes: whiteouts are others, and an opaque directory has one with the name that an
    /// archive has for that, which no file of an image can have.
    Plain,
}

impl Marks {
    /// What can be made in `dir`, which must be empty, and is so afterwards. Where nothing can, the layers tell why.
    pub(super) fn that_fit(dir: &Dir) -> Self {
        let name = OsStr::new("probe");
        let try_trusted = || {
            dir.make_node(name, WHITEOUT, 0)?;
            dir.remove_file(name)?;
            dir.make_dir(name, DEFAULT_DIR_MODE)?;
            let marked = dir.open_dir(name).and_then(|inner| Self::Trusted.set_opaque(&inner));
            dir.remove_empty_dir(name).and(marked)
        };
        let try_plain = || dir.make_node(name, PLAIN_WHITEOUT, 0).and_then(|()| dir.remove_file(name));
        if try_trusted().is_err() && try_plain().is_ok() { Self::Plain } else { Self::Trusted }
    }

    /// What hides a name of the layers below.
    pub(super) const fn whiteout(self) -> FileKind {
        match self {
            Self::Trusted | Self::User => WHITEOUT,
            Self::Plain => PLAIN_WHITEOUT,
        }
    }

    /// Makes a directory hide what layers below have there. Everything else is in it by now.
    pub(super) fn set_opaque(self, dir: &Dir) -> io::Result<()> {
        match self {
            Self::Trusted => dir.set_own_xattr(OsStr::new(TRUSTED_OPAQUE_XATTR), b"y"),
            Self::User => dir.set_own_xattr(OsStr::new(USER_OPAQUE_XATTR), b"y"),
            Self::Plain => dir.make_node(OsStr::new(OPAQUE_NAME), PLAIN_WHITEOUT, 0),
        }
    }

    /// Whether the directory `name` in `dir` hides what layers below have there.
    pub(super) fn is_opaque(self, dir: &Dir, name: &OsStr) -> io::Result<bool> {
        let has = |attribute: &str| Ok(dir.xattr(name, OsStr::new(attribute))?.is_some_and(|value| value == b"y"));
        match self {
            Self::Trusted => has(TRUSTED_OPAQUE_XATTR),
            Self::User => has(USER_OPAQUE_XATTR),
            Self::Plain => {
                let mark = dir.open_dir(name)?.stat(OsStr::new(OPAQUE_NAME))?;
                // A store that was moved may have layers of both kinds.
                if mark.is_some_and(|mark| mark.is_whiteout()) { Ok(true) } else { has(TRUSTED_OPAQUE_XATTR) }
            }
        }
    }
}

/// The attribute of an opaque directory in an overlay that root mounts, and in one with `userxattr`.
const TRUSTED_OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const USER_OPAQUE_XATTR: &str = "user.overlay.opaque";
/// An opaque directory in an archive, and in a plain tree.
pub(super) const OPAQUE_NAME: &str = ".wh..wh..opq";

/// What new files inherit; set on a directory only after they are made.
const DEFAULT_ACL_XATTR: &str = "system.posix_acl_default";
/// What a file is open to beyond its mode.
const ACCESS_ACL_XATTR: &str = "system.posix_acl_access";

/// Mode of directories that no entry describes.
const DEFAULT_DIR_MODE: u32 = 0o755;

/// All but the extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub modified: Time,
}

impl Attributes {
    /// Of a directory that no entry describes: root's, 0755, of the epoch so that equal layers unpack to equal trees.
    pub(super) const IMPLICIT: Self =
        Self { uid: 0, gid: 0, mode: DEFAULT_DIR_MODE, modified: Time { seconds: 0, nanoseconds: 0 } };

    fn has_owner(&self) -> bool {
        (self.uid, self.gid) != (0, 0)
    }

    /// Whether creation with this mode left something of it out.
    fn needs_mode(&self, umask: u32) -> bool {
        self.mode & 0o777 & !umask != self.mode
    }
}

impl From<&Metadata> for Attributes {
    fn from(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid, gid: metadata.gid, mode: metadata.mode, modified: metadata.modified }
    }
}

/// Whether an attribute of an image is taken over: not those that belong to the host's policy or to the overlay itself.
pub(super) fn is_wanted(attribute: &OsStr) -> bool {
    let name = attribute.as_bytes();
    name != b"security.selinux" && !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
}

/// Whether an attribute is an access control list, which must wait until the mode is set and, on a directory, until what is in
/// it is made.
pub(super) fn is_acl(attribute: &OsStr) -> bool {
    attribute == DEFAULT_ACL_XATTR || attribute == ACCESS_ACL_XATTR
}

/// Lets pass what a file system cannot store: no attributes at all, or `user.*` on links and devices (xattr(7)).
pub(super) fn tolerate(attribute: &OsStr, result: io::Result<()>) -> io::Result<()> {
    use rustix::io::Errno;
    let Err(error) = result else { return Ok(()) };
    match Errno::from_io_error(&error) {
        Some(Errno::NOTSUP) => Ok(()),
        Some(Errno::PERM) if attribute.as_bytes().starts_with(b"user.") => Ok(()),
        // Without rights over the machine these are not to be had, and what runs in a user namespace could not read them.
        Some(Errno::PERM) if attribute.as_bytes().starts_with(b"trusted.") => Ok(()),
        // Which one it was tells more than what; file systems call the disk full when a value is too large for them.
        _ => Err(io::Error::new(error.kind(), format!("attribute `{}`: {error}", attribute.display()))),
    }
}

/// Finishes a file that was just made by us with `attributes.mode` and has its content.
pub(super) fn finish_file(file: &File, attributes: &Attributes, xattrs: &Xattrs, umask: u32) -> io::Result<()> {
    if attributes.has_owner() {
        set_file_owner(file, attributes.uid, attributes.gid)?;
    }
    let set = |acls: bool| {
        let mut wanted = xattrs.iter().map(|(name, value)| (OsStr::from_bytes(name), value));
        wanted.try_for_each(|(name, value)| {
            let is_now = is_wanted(name) && is_acl(name) == acls;
            if is_now { tolerate(name, set_file_xattr(file, name, value)) } else { Ok(()) }
        })
    };
    set(false)?;
    if attributes.needs_mode(umask) || !xattrs.is_empty() {
        set_file_mode(file, attributes.mode)?;
    }
    set(true)?;
    set_file_times(file, attributes.modified)
}

/// Finishes a link, device or FIFO that was just made by us with `attributes.mode`.
pub(super) fn finish_node(
    dir: &Dir,
    name: &OsStr,
    kind: FileKind,
    attributes: &Attributes,
    xattrs: &Xattrs,
    umask: u32,
) -> io::Result<()> {
    if attributes.has_owner() {
        dir.set_owner(name, attributes.uid, attributes.gid)?;
    }
    let set = |acls: bool| {
        let mut wanted = xattrs.iter().map(|(attribute, value)| (OsStr::from_bytes(attribute), value));
        wanted.try_for_each(|(attribute, value)| {
            let is_now = is_wanted(attribute) && is_acl(attribute) == acls;
            if is_now { tolerate(attribute, dir.set_xattr(name, attribute, value)) } else { Ok(()) }
        })
    };
    set(false)?;
    if kind != FileKind::Symlink && (attributes.needs_mode(umask) || !xattrs.is_empty()) {
        dir.set_mode(name, attributes.mode)?;
    }
    set(true)?;
    dir.set_times(name, attributes.modified)
}

/// Sets all but the extended attributes of a directory that has its content.
pub(super) fn finish_dir(dir: &Dir, attributes: &Attributes) -> io::Result<()> {
    let now = dir.metadata()?;
    if (now.uid, now.gid) != (attributes.uid, attributes.gid) {
        dir.set_own_owner(attributes.uid, attributes.gid)?;
    }
    if now.mode != attributes.mode || (now.uid, now.gid) != (attributes.uid, attributes.gid) {
        dir.set_own_mode(attributes.mode)?;
    }
    dir.set_own_times(attributes.modified)
}

/// The extended attributes of `name` (`.` for the directory itself) that are taken over.
pub(super) fn read_xattrs(dir: &Dir, name: &OsStr) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for attribute in dir.xattr_names(name)?.iter().filter(|attribute| is_wanted(attribute)) {
        if let Some(value) = dir.xattr(name, attribute)? {
            xattrs.insert(attribute.as_bytes().to_vec(), value);
        }
    }
    Ok(xattrs)
}

/// Gives the directory `to`, which has its content, everything that `from` is.
pub(super) fn copy_dir_attributes(from: &Dir, to: &Dir) -> io::Result<()> {
    let attributes = Attributes::from(&from.metadata()?);
    for (name, value) in read_xattrs(from, OsStr::new("."))? {
        let name = OsStr::from_bytes(&name);
        tolerate(name, to.set_own_xattr(name, &value))?;
    }
    finish_dir(to, &attributes)
}

/// A file, link or node that is to be made again elsewhere.
pub(super) struct Original<'a> {
    pub dir: &'a Dir,
    pub name: &'a OsStr,
    pub metadata: &'a Metadata,
}

/// Makes a copy of anything but a directory, with all metadata, under a name that is free.
pub(super) fn copy_node(original: &Original<'_>, to: &Dir, name: &OsStr, umask: u32) -> io::Result<()> {
    let Original { dir: from, name: from_name, metadata } = original;
    let attributes = Attributes::from(*metadata);
    let xattrs = read_xattrs(from, from_name)?;
    match metadata.kind {
        FileKind::Regular => {
            let source = from.open_file(from_name)?.ok_or(io::ErrorKind::NotFound)?;
            let target = to.create_file(name, attributes.mode & 0o777)?;
            copy_content(&source, &target, metadata.size)?;
            return finish_file(&target, &attributes, &xattrs, umask);
        }
        FileKind::Symlink => {
            let target = from.read_link(from_name)?;
            to.make_symlink(name, OsStr::from_bytes(&target))?;
        }
        FileKind::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        kind => to.make_node(name, kind, attributes.mode & 0o777)?,
    }
    finish_node(to, name, metadata.kind, &attributes, &xattrs, umask)
}
