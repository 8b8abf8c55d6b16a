//! Named contents of a directory or an archive.
//!
//! An archive is looked through once and then read at the places where its members are. Names are cleaned; one that
//! climbs (`..`) is nobody's. Of two members of one name the later one counts, as it does to whoever unpacks them. Links
//! are followed inside the archive only (docker before 25 and skopeo write layers that are there twice as links).
//!
//! Streams and compressed archives are uncompressed into a file without a name in the store first.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::TransportError;
use crate::image::{Form, LocalSource, MAX_DOCUMENT_BYTES, Reference};
use crate::rootfs::{Inflate, MemberKind, Members, StreamError, TarError};
use crate::store::Store;
use crate::sys::beneath::Dir;
use crate::words::printable;

/// What tells that it is an OCI layout.
pub(super) const MARK: &str = "oci-layout";
/// What tells that docker wrote it.
pub(super) const MANIFEST: &str = "manifest.json";
/// Most members of an archive: an image has a few for each layer.
const MAX_MEMBERS: usize = 100_000;
/// Longest name, and target of a link, that is remembered; no document of ours asks for a longer one.
const MAX_NAME_BYTES: usize = 512;
/// Links that are followed from one to the next.
const MAX_LINKS: usize = 8;
/// Most uncompressed bytes of an archive that has to be uncompressed first.
const MAX_ARCHIVE_BYTES: u64 = 4 << 40;
/// Bytes between two looks at the free space.
const SPACE_STEP_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct Files {
    what: String,
    place: Place,
}

enum Place {
    Dir(Dir),
    Archive { file: Arc<File>, members: HashMap<String, MemberKind> },
}

/// Content that was found. Reading ends at its size, or with an error.
#[derive(Clone)]
pub(super) struct Content {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Content {
    /// Bytes that are still to be read; at first, its size.
    pub(super) const fn size(&self) -> u64 {
        self.left
    }
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..wanted], self.offset)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Files {
    /// What `source` says it is.
    pub(super) fn of(store: &Store, source: &LocalSource) -> Result<Self, TransportError> {
        let path = &source.path;
        let what = format!("{}:{}", source.form.name(), path.display());
        let is_dir = std::fs::metadata(path).map_err(|source| cannot_open(path, source))?.is_dir();
        let wrong = |found, expected, hint| TransportError::WrongKind { path: path.clone(), found, expected, hint };
        match (source.form, is_dir) {
            (Form::OciDir, false) => {
                let hint = format!("`oci-archive:{0}` or `docker-archive:{0}` reads a file", path.display());
                return Err(wrong("a file", "the directory of an OCI layout", hint));
            }
            (Form::OciArchive | Form::DockerArchive, true) => {
                return Err(wrong("a directory", "a file", format!("`oci:{}` reads an OCI layout", path.display())));
            }
            _ => {}
        }
        let files = Self::open(store, path, what)?;
        let (mark, other, transport) = match source.form {
            Form::DockerArchive => (MANIFEST, MARK, "oci-archive"),
            Form::OciDir | Form::OciArchive => (MARK, MANIFEST, "docker-archive"),
        };
        if files.has(mark)? {
            return Ok(files);
        }
        if files.has(other)? {
            let found = format!("it has no `{mark}`, and it has `{other}`");
            let hint = format!("`{transport}:{}` reads it", path.display());
            return Err(TransportError::NotImage { what: files.what, found, hint });
        }
        Err(files.no_image())
    }

    /// A directory, a file or a FIFO.
    pub(super) fn open(store: &Store, path: &Path, what: String) -> Result<Self, TransportError> {
        let open = |source| cannot_open(path, source);
        if std::fs::metadata(path).map_err(open)?.is_dir() {
            return Ok(Self { what, place: Place::Dir(Dir::open(path).map_err(open)?) });
        }
        let file = File::open(path).map_err(open)?;
        if !file.metadata().map_err(open)?.is_file() {
            return Self::spool(store, file, what);
        }
        let plain = inflate(&file, &what)?.suffix().is_empty();
        if plain {
            Self::index(file, what)
        } else {
            (&file).rewind().map_err(open).and_then(|()| Self::spool(store, file, what))
        }
    }

    /// A stream, compressed or not.
    pub(super) fn spool(store: &Store, stream: impl Read, what: String) -> Result<Self, TransportError> {
        let mut stream = inflate(stream, &what)?;
        let mut file = store.spool()?;
        let (mut buffer, mut written, mut checked) = (vec![0; BUFFER_BYTES], 0_u64, None);
        loop {
            if checked.is_none_or(|checked| written >= checked + SPACE_STEP_BYTES) {
                store.check_space(SPACE_STEP_BYTES)?;
                checked = Some(written);
            }
            let read =
                stream.read(&mut buffer).map_err(|source| TransportError::Read { what: what.clone(), source })?;
            if read == 0 {
                break;
            }
            let write = |source| TransportError::Write { what: "the store".to_owned(), source };
            file.write_all(&buffer[..read]).map_err(write)?;
            written += read as u64;
            if written > MAX_ARCHIVE_BYTES {
                return Err(TransportError::too_large(&what, "the archive", MAX_ARCHIVE_BYTES));
            }
        }
        Self::index(file, what)
    }

    fn index(file: File, what: String) -> Result<Self, TransportError> {
        let mut start = [0; 512];
        let length =
            file.read_at(&mut start, 0).map_err(|source| TransportError::Read { what: what.clone(), source })?;
        let tar = |source| match source {
            // What fails at its very beginning never was an archive.
            TarError::Malformed { offset: 0..=512, .. } => no_archive(&what, &start[..length]),
            TarError::Truncated { .. } if length < start.len() => no_archive(&what, &start[..length]),
            source => TransportError::Tar { what: what.clone(), source },
        };
        if length == 0 {
            return Err(no_archive(&what, &[]));
        }
        let mut members = HashMap::new();
        for (count, member) in Members::of(&file).map_err(tar)?.enumerate() {
            let member = member.map_err(tar)?;
            if count >= MAX_MEMBERS {
                let limit = format!("{MAX_MEMBERS} members");
                return Err(TransportError::TooLarge { what, name: "the archive".to_owned(), limit });
            }
            let kind = match member.kind {
                MemberKind::Symlink(target) | MemberKind::Hardlink(target) if target.len() > MAX_NAME_BYTES => {
                    MemberKind::Other
                }
                kind => kind,
            };
            if let Some(name) = clean(&member.name) {
                members.insert(name, kind);
            }
        }
        Ok(Self { what, place: Place::Archive { file: Arc::new(file), members } })
    }

    /// The place, as the user named it.
    pub(super) fn what(&self) -> String {
        self.what.clone()
    }

    /// Whether there is something of that name.
    pub(super) fn has(&self, name: &str) -> Result<bool, TransportError> {
        Ok(self.find(name)?.is_some())
    }

    /// The content of that name; `None` where there is none, or no file.
    pub(super) fn find(&self, name: &str) -> Result<Option<Content>, TransportError> {
        match &self.place {
            Place::Dir(dir) => {
                let found = open_beneath(dir, name);
                let found =
                    found.map_err(|source| TransportError::Read { what: format!("{}/{name}", self.what), source });
                Ok(found?.map(|(file, left)| Content { file: Arc::new(file), offset: 0, left }))
            }
            Place::Archive { file, members } => {
                let Some((offset, size)) = self.resolve(members, name)? else { return Ok(None) };
                Ok(Some(Content { file: Arc::clone(file), offset, left: size }))
            }
        }
    }

    /// The same for something that documents say is there.
    pub(super) fn get(&self, name: &str) -> Result<Content, TransportError> {
        self.find(name)?.ok_or_else(|| TransportError::Missing { what: self.what(), name: printable(name) })
    }

    /// A small content as a whole.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, TransportError> {
        let mut content = self.get(name)?;
        if content.size() > MAX_DOCUMENT_BYTES {
            return Err(TransportError::too_large(&self.what, &format!("`{}`", printable(name)), MAX_DOCUMENT_BYTES));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|source| TransportError::Read { what: self.what(), source })?;
        Ok(bytes)
    }

    /// A name for an image that has none.
    pub(super) fn made_name(&self, repository: &str, tag: &str) -> Result<Reference, TransportError> {
        let none = |_| TransportError::NoImage {
            what: self.what(),
            wanted: "a name for its image".to_owned(),
            there: "nothing to make one from".to_owned(),
        };
        format!("{repository}:{tag}").parse().map_err(none)
    }

    /// Says what is here instead of an image.
    pub(super) fn no_image(&self) -> TransportError {
        let mut hint = "expected an OCI layout or an archive that `docker save`, `podman save` or `skopeo copy` wrote";
        let found = match &self.place {
            Place::Dir(_) => "the directory has no `oci-layout`".to_owned(),
            Place::Archive { members, .. } if members.is_empty() => "the archive is empty".to_owned(),
            Place::Archive { members, .. } => {
                let mut names: Vec<&str> = members.keys().map(String::as_str).collect();
                names.sort_unstable();
                if names.iter().any(|name| matches!(*name, "etc" | "usr" | "bin" | "etc/passwd")) {
                    hint = "it looks like a root file system (`docker export`); `docker save` keeps the image";
                }
                let shown: Vec<String> = names.iter().take(3).map(|name| format!("`{}`", printable(name))).collect();
                format!("the archive has neither `oci-layout` nor `manifest.json`, but {}", shown.join(", "))
            }
        };
        TransportError::NotImage { what: self.what(), found, hint: hint.to_owned() }
    }

    fn resolve(&self, members: &HashMap<String, MemberKind>, name: &str) -> Result<Option<(u64, u64)>, TransportError> {
        let nowhere = || TransportError::Link { what: self.what(), name: printable(name) };
        let Some(mut current) = clean(name.as_bytes()) else { return Ok(None) };
        for followed in 0..=MAX_LINKS {
            let next = match members.get(&current) {
                Some(MemberKind::File { offset, size }) => return Ok(Some((*offset, *size))),
                Some(MemberKind::Symlink(target)) => beside(&current, target),
                Some(MemberKind::Hardlink(target)) => clean(target),
                Some(MemberKind::Other) | None if followed == 0 => return Ok(None),
                Some(MemberKind::Other) | None => return Err(nowhere()),
            };
            current = next.ok_or_else(nowhere)?;
        }
        Err(nowhere())
    }
}

fn cannot_open(path: &Path, source: io::Error) -> TransportError {
    TransportError::Open { path: path.to_owned(), source }
}

fn inflate<R: Read>(reader: R, what: &str) -> Result<Inflate<R>, TransportError> {
    Inflate::new(reader).map_err(|source| match source {
        StreamError::Read(source) => TransportError::Read { what: what.to_owned(), source },
        source => TransportError::Stream { what: what.to_owned(), source },
    })
}

/// Opens a regular file below a directory without following a link; a FIFO is not opened.
fn open_beneath(dir: &Dir, name: &str) -> io::Result<Option<(File, u64)>> {
    let opened = match name.rsplit_once('/') {
        Some((parent, name)) => dir.open_dir(OsStr::new(parent)).and_then(|dir| dir.open_file(OsStr::new(name))),
        None => dir.open_file(OsStr::new(name)),
    };
    match opened {
        Ok(Some(file)) => file.metadata().map(|metadata| Some((file, metadata.len()))),
        Ok(None) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name from the root of the archive, without `.` and empty parts; `None` for one that climbs or that nobody asks for.
fn clean(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME_BYTES)?;
    walk(Vec::new(), name, false)
}

/// Where a symbolic link of that name leads.
fn beside<'n>(link: &'n str, target: &'n [u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| target.len() <= MAX_NAME_BYTES)?;
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { link.split('/').collect() };
    parts.pop();
    walk(parts, target, true)
}

fn walk<'n>(mut parts: Vec<&'n str>, name: &'n str, may_climb: bool) -> Option<String> {
    for part in name.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." {
            parts.push(part);
        } else if !may_climb || parts.pop().is_none() {
            return None;
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Says what a file is that is no archive.
fn no_archive(what: &str, start: &[u8]) -> TransportError {
    let found = match start {
        [] => "the file is empty",
        [b'P', b'K', ..] => "it is a zip file",
        [0x7f, b'E', b'L', b'F', ..] => "it is a program",
        [b'h', b's', b'q', b's', ..] => "it is a squashfs image",
        [b'{' | b'[', ..] => "it is JSON",
        [b'#', b'!', ..] => "it is a script",
        _ => "it is no tar archive",
    };
    let hint = "expected what `docker save`, `podman save` or `skopeo copy` wrote, or `dockless save`";
    TransportError::NotImage { what: what.to_owned(), found: found.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_archive() {
        for (name, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/.", Some("a/b")),
            ("/a", Some("a")),
            ("../a", None),
            ("a/../b", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(clean(name.as_bytes()).as_deref(), expected, "{name}");
        }
        for (link, target, expected) in [
            ("x/layer.tar", "../y/layer.tar", Some("y/layer.tar")),
            ("x/layer.tar", "other.tar", Some("x/other.tar")),
            ("x/layer.tar", "/y.tar", Some("y.tar")),
            ("x/layer.tar", "../../y", None),
            ("x", "..", None),
        ] {
            assert_eq!(beside(link, target.as_bytes()).as_deref(), expected, "{link} -> {target}");
        }
        assert_eq!(clean(&[b'a'; MAX_NAME_BYTES + 1]), None);
    }

    #[test]
    fn links_are_followed_inside_and_not_in_circles() {
        let members = HashMap::from([
            ("a".to_owned(), MemberKind::Symlink(b"b".to_vec())),
            ("b".to_owned(), MemberKind::Hardlink(b"./c".to_vec())),
            ("c".to_owned(), MemberKind::File { offset: 512, size: 3 }),
            ("x".to_owned(), MemberKind::Symlink(b"y".to_vec())),
            ("y".to_owned(), MemberKind::Symlink(b"x".to_vec())),
            ("out".to_owned(), MemberKind::Symlink(b"../../etc/passwd".to_vec())),
        ]);
        let file = Arc::new(tempfile::tempfile().unwrap());
        let files = Files { what: "x".to_owned(), place: Place::Archive { file, members } };
        assert_eq!(files.find("a").unwrap().unwrap().size(), 3);
        assert!(files.find("none").unwrap().is_none());
        for name in ["x", "out"] {
            assert!(matches!(files.find(name), Err(TransportError::Link { .. })), "{name}");
        }
        // The archive is shorter than it says.
        assert!(files.read("c").is_err());
    }
}
