//! Where a path of a container leads when mounts are made one after the other: through links of the image, and of the
//! directories that were mounted before.
//!
//! A runtime mounts by path, and follows links inside the root. So an image could have a link to `/dev` or `/proc` at a place where
//! the user mounts something harmless.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::path::{ImagePath, Step, Trail};
use crate::sys::beneath::{Dir, FileKind, Metadata};

/// What a mount shows at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cover {
    /// A directory of this machine, or a file.
    Bind(PathBuf),
    /// A file system that the image has nothing in: a new one, or the kernel's.
    Fresh,
}

/// A root file system with some mounts on it.
#[derive(Debug)]
pub struct MountPlaces {
    root: Dir,
    /// The later one covers the earlier.
    mounts: Vec<(ImagePath, Cover)>,
}

impl MountPlaces {
    /// Without mounts so far.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: Dir::open(root)?.across_mounts(), mounts: Vec::new() })
    }

    /// Something is mounted at a place that was found by [`MountPlaces::find`].
    pub fn add(&mut self, place: ImagePath, cover: Cover) {
        self.mounts.push((place, cover));
    }

    /// Where a path leads. What is not there leads where it says.
    ///
    /// # Errors
    /// `ELOOP`, a name that no file can have, and what the disk says.
    pub fn find(&self, path: &[u8]) -> io::Result<ImagePath> {
        let mut trail = Trail::new(path);
        let mut at = ImagePath::root();
        while let Some(step) = trail.step() {
            let Step::Down(name) = step else {
                at = at.parent();
                continue;
            };
            let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
            let next = at.join(name.as_encoded_bytes()).map_err(bad)?;
            let is_place = self.mounts.iter().any(|(place, _)| *place == next);
            let found = if is_place { None } else { self.look(&at, &name)? };
            match found {
                Some((dir, found)) if found.kind == FileKind::Symlink => {
                    if trail.follow(&dir.read_link(&name)?)? {
                        at = ImagePath::root();
                    }
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    /// What has this name in the directory that is seen at `at`, and that directory.
    fn look(&self, at: &ImagePath, name: &OsStr) -> io::Result<Option<(Dir, Metadata)>> {
        let covering = self.mounts.iter().rev().filter_map(|(place, cover)| Some((place, cover, at.strip(place)?)));
        // The innermost, and of several at one place the last.
        let covering = covering.rev().max_by_key(|(place, ..)| place.as_bytes().len());
        let opened = match covering {
            Some((_, Cover::Fresh, _)) => return Ok(None),
            Some((_, Cover::Bind(source), rest)) => {
                let rest = ImagePath::parse(rest).unwrap_or_default();
                Dir::open(source).and_then(|dir| dir.across_mounts().open_dir(rest.as_os_str()))
            }
            None => self.root.open_dir(at.as_os_str()),
        };
        let dir = match opened {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            opened => opened?,
        };
        Ok(dir.stat(name)?.map(|found| (dir, found)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(places: &MountPlaces, path: &str) -> String {
        let place = places.find(path.as_bytes()).unwrap();
        format!("/{}", String::from_utf8_lossy(place.as_bytes()))
    }

    #[test]
    fn links_lead_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("x/y")).unwrap();
        for (link, target) in
            [("a", "/proc"), ("b", "/"), ("x/up", "../../../../dev"), ("x/y/c", "../../a"), ("l", "l")]
        {
            symlink(target, root.path().join(link)).unwrap();
        }
        let places = MountPlaces::new(root.path()).unwrap();
        for (path, expected) in [
            ("/a", "/proc"),
            ("/a/self/attr", "/proc/self/attr"),
            ("/b", "/"),
            ("/b/b/x/up/null", "/dev/null"),
            ("/x/y/c/sys", "/proc/sys"),
            ("/x/../a/../x", "/x"),
            ("/nothing/here/../a", "/nothing/a"),
        ] {
            assert_eq!(found(&places, path), expected, "{path}");
        }
        assert_eq!(places.find(b"/l/x").unwrap_err().raw_os_error(), Some(nix::libc::ELOOP));
    }

    #[test]
    fn what_is_mounted_hides_the_image() {
        let (root, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(root.path().join("data/sub")).unwrap();
        symlink("/proc", root.path().join("data/link")).unwrap();
        symlink("/dev", source.path().join("other")).unwrap();
        symlink("/data", root.path().join("way")).unwrap();
        let mut places = MountPlaces::new(root.path()).unwrap();
        assert_eq!(found(&places, "/data/link/x"), "/proc/x");
        places.add(places.find(b"/way").unwrap(), Cover::Bind(source.path().to_owned()));
        assert_eq!(found(&places, "/data/link/x"), "/data/link/x");
        assert_eq!(found(&places, "/way/other/x"), "/dev/x");
        places.add(places.find(b"/data").unwrap(), Cover::Fresh);
        assert_eq!(found(&places, "/way/other/x"), "/data/other/x");
        // A file that is mounted has nothing below.
        places.add(places.find(b"/file").unwrap(), Cover::Bind(source.path().join("none")));
        assert_eq!(found(&places, "/file/x"), "/file/x");
    }
}
