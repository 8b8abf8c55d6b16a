//! Archives and directories out of the store. They are written aside and renamed, so that they are there whole or not at
//! all; a file has no name while it is written, where the file system can do that.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tar::{Builder, Header};

use super::TransportError;
use super::plan::{Checked, Item, Plan, SaveFormat, plan};
use crate::image::Platform;
use crate::store::{Store, StoredImage};
use crate::sys::{remove_tree, sync_dir};

/// Where images are written to.
pub enum Destination<'a> {
    /// A file, or the directory of a layout.
    Path(&'a Path),
    /// A stream.
    Stream(&'a mut dyn Write),
}

/// Writes images in one format; of an index in a docker archive, the image for `platform`. The caller holds
/// [`Store::shared`].
pub fn save(
    store: &Store,
    images: &[StoredImage],
    format: SaveFormat,
    platform: &Platform,
    destination: Destination<'_>,
) -> Result<(), TransportError> {
    let plan = plan(store, images, format, platform)?;
    match destination {
        Destination::Path(path) if format == SaveFormat::OciDir => write_dir(store, &plan, path),
        Destination::Path(path) => write_file(store, &plan, path),
        Destination::Stream(stream) => write_archive(store, &plan, stream, "standard output"),
    }
}

fn write_archive(store: &Store, plan: &Plan, stream: &mut dyn Write, what: &str) -> Result<(), TransportError> {
    let write = |source| TransportError::Write { what: what.to_owned(), source };
    let mut builder = Builder::new(io::BufWriter::with_capacity(256 << 10, stream));
    for (name, item) in plan {
        let mut header = Header::new_gnu();
        header.set_size(item.size());
        header.set_mode(0o644);
        header.set_mtime(0);
        copy(store, item, |content| builder.append_data(&mut header, name, content).map_err(write))?;
    }
    let mut stream = builder.into_inner().map_err(write)?;
    stream.flush().map_err(write)
}

/// Hands the content to `take` and verifies it.
fn copy(
    store: &Store,
    item: &Item,
    take: impl FnOnce(&mut dyn io::Read) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    let (content, digest) = item.open(store)?;
    let mut content = Checked::new(content, digest.as_ref(), item.size());
    take(&mut content)?;
    let right = content.finish(digest.as_ref());
    let right = right.map_err(|source| TransportError::Read { what: "the store".to_owned(), source })?;
    match digest {
        Some(digest) if !right => Err(TransportError::Damaged { digest }),
        _ => Ok(()),
    }
}

fn write_file(store: &Store, plan: &Plan, path: &Path) -> Result<(), TransportError> {
    let what = path.display().to_string();
    let write = |source| TransportError::Write { what: what.clone(), source };
    replace_file(path, write, |file| write_archive(store, plan, file, &what))
}

/// Fills a file that takes its name only when all is in it; a device or FIFO is written to as it is. `failed` makes an error
/// of what happens to the file.
pub fn replace_file<E>(
    path: &Path,
    failed: impl Fn(io::Error) -> E,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let write = &failed;
    // A link is followed, and a device or FIFO is written to: it has no place that a file could take.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => {
            return Err(write(io::ErrorKind::IsADirectory.into()));
        }
        Ok(found) if !found.is_file() => {
            let mut device = OpenOptions::new().write(true).open(&path).map_err(write)?;
            return fill(&mut device);
        }
        _ => {}
    }
    let mut aside = Aside::file(&path).map_err(write)?;
    fill(&mut aside.file)?;
    aside.publish(&path).map_err(write)
}

/// A file beside the one that it will replace.
struct Aside {
    file: File,
    path: PathBuf,
    /// Whether it has its name already.
    named: bool,
}

impl Aside {
    fn file(target: &Path) -> io::Result<Self> {
        let path = beside(target)?;
        let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(parent(target), unnamed, Mode::from_raw_mode(0o600)) {
            Ok(file) => Ok(Self { file: file.into(), path, named: false }),
            // What kernels and file systems say that do not know it.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
                Ok(Self { file, path, named: true })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn publish(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.named {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, own, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
            self.named = true;
        }
        std::fs::rename(&self.path, target)?;
        self.named = false;
        sync_dir(parent(target))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.named {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn write_dir(store: &Store, plan: &Plan, path: &Path) -> Result<(), TransportError> {
    let write = |source| TransportError::Write { what: path.display().to_string(), source };
    match path.read_dir().map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Err(TransportError::Exists { path: path.to_owned() }),
        Err(source) => return Err(write(source)),
    }
    let aside = beside(path).map_err(write)?;
    DirBuilder::new().mode(0o700).create(&aside).map_err(write)?;
    let written = write_layout(store, plan, &aside)
        .and_then(|()| std::fs::rename(&aside, path).and_then(|()| sync_dir(parent(path))).map_err(write));
    written.inspect_err(|_| drop(remove_tree(&aside)))
}

fn write_layout(store: &Store, plan: &Plan, dir: &Path) -> Result<(), TransportError> {
    for (name, item) in plan {
        let path = dir.join(name);
        let write = |source| TransportError::Write { what: path.display().to_string(), source };
        let parent = parent(&path);
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(write)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path).map_err(write)?;
        copy(store, item, |content| io::copy(content, &mut file).map(drop).map_err(write))?;
        file.sync_all().and_then(|()| sync_dir(parent)).map_err(write)?;
    }
    Ok(())
}

/// A name beside `target` that no other process uses.
fn beside(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(target.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id())))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
