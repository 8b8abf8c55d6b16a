//! What a path leads to beneath a root, for a source or a destination.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::sys::beneath::{Dir, FileKind, Metadata};

/// Most symbolic links in the last place of a path, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What a path leads to.
#[derive(Debug)]
pub enum Spot {
    /// A directory.
    Dir(Dir),
    /// Something else, and where.
    Other {
        /// The directory it stands in.
        parent: Dir,
        /// Its name there.
        name: OsString,
        /// What it is.
        metadata: Metadata,
    },
    /// Nothing, in a directory that is there.
    Missing {
        /// The directory.
        parent: Dir,
        /// The name that is free.
        name: OsString,
    },
}

/// Finds what `path` leads to beneath `root`; links on the way are followed inside the root, the last one only with `follow`.
///
/// # Errors
/// `ENOENT` and `ENOTDIR` when the way there is not.
pub fn find(root: &Dir, path: &[u8], follow: bool) -> io::Result<Spot> {
    let mut path = path.to_vec();
    for _ in 0..MAX_LINKS {
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = slash.map_or((&b""[..], &path[..]), |at| (&path[..=at], &path[at + 1..]));
        if matches!(name, b"" | b"." | b"..") {
            return root.open_in_root(OsStr::from_bytes(&path)).map(Spot::Dir);
        }
        let (parent, name) = (root.open_in_root(OsStr::from_bytes(above))?, OsStr::from_bytes(name));
        match parent.stat(name)? {
            None => return Ok(Spot::Missing { parent, name: name.to_owned() }),
            Some(metadata) if metadata.is_dir() => return parent.open_dir(name).map(Spot::Dir),
            Some(metadata) if metadata.kind == FileKind::Symlink && follow => {
                let target = parent.read_link(name)?;
                path = if target.starts_with(b"/") { target } else { [above, &target].concat() };
            }
            Some(metadata) => return Ok(Spot::Other { parent, name: name.to_owned(), metadata }),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}
