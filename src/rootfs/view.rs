//! Reading files of an image without mounting it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};

use super::error::RootfsError;
use super::layers::Layers;
use super::merged::{Found, Merged, Resolved};
use crate::image::ByteSize;
use crate::sys::beneath::FileKind;

/// The merged layers of an image, open for reading.
#[derive(Debug)]
pub struct View {
    merged: Merged,
}

impl View {
    /// Opens the layers.
    pub fn open(layers: &Layers) -> Result<Self, RootfsError> {
        Ok(Self { merged: layers.open()? })
    }

    /// The content of the file at `path`; `None` when there is none. Links are followed inside the image's root.
    ///
    /// # Errors
    /// [`RootfsError::FileTooLarge`] above `max_bytes`; [`RootfsError::Read`] for anything but a regular file, which is
    /// not even opened: a named pipe would never answer.
    pub fn read_file(&self, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, RootfsError> {
        let Some((file, size)) = self.open_sized(path)? else { return Ok(None) };
        if size > max_bytes {
            let (size, limit) = (ByteSize(size), ByteSize(max_bytes));
            return Err(RootfsError::FileTooLarge { path: path.to_owned(), size, limit });
        }
        let mut content = Vec::new();
        let read = file.take(max_bytes).read_to_end(&mut content);
        read.map_err(|source| RootfsError::Read { path: path.to_owned(), source })?;
        Ok(Some(content))
    }

    /// The file at `path`, open for reading; `None` when there is none. Links are followed inside the image's root. For files
    /// of which only parts are wanted; the reader sees to it that it does not read too much.
    ///
    /// # Errors
    /// [`RootfsError::Read`] for anything but a regular file, as [`View::read_file`].
    pub fn open_file(&self, path: &str) -> Result<Option<File>, RootfsError> {
        Ok(self.open_sized(path)?.map(|(file, _)| file))
    }

    fn open_sized(&self, path: &str) -> Result<Option<(File, u64)>, RootfsError> {
        let failed = |source| RootfsError::Read { path: path.to_owned(), source };
        let (parent, name, place, size) = match self.merged.resolve(path.as_bytes()).map_err(failed)? {
            None => return Ok(None),
            Some(Resolved::Dir(_)) => return Err(failed(not_a_file(FileKind::Directory))),
            Some(Resolved::Other { metadata, .. }) if metadata.kind != FileKind::Regular => {
                return Err(failed(not_a_file(metadata.kind)));
            }
            Some(Resolved::Other { parent, name, place, metadata }) => (parent, name, place, metadata.size),
        };
        let file = parent.part(place).open_file(&name).map_err(failed)?;
        Ok(file.map(|file| (file, size)))
    }

    /// What stands in the directory at `path`, in order, links in it as they are; `None` when no directory is there. Names
    /// that are no UTF-8 are left out.
    ///
    /// # Errors
    /// [`RootfsError::Read`] when there are more than `max_names`, those counted that an upper layer hides.
    pub fn names(&self, path: &str, max_names: usize) -> Result<Option<Vec<(String, FileKind)>>, RootfsError> {
        self.list(path, max_names).map_err(|source| RootfsError::Read { path: path.to_owned(), source })
    }

    fn list(&self, path: &str, max_names: usize) -> io::Result<Option<Vec<(String, FileKind)>>> {
        let Some(Resolved::Dir(node)) = self.merged.resolve(path.as_bytes())? else { return Ok(None) };
        let open = self.merged.enter(&node)?;
        let names = open.names()?;
        if names.len() > max_names {
            let message = format!("it has {} names, expected at most {max_names}", names.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut found = Vec::new();
        for name in names.iter().filter_map(|name| name.to_str()) {
            match open.child(OsStr::new(name))? {
                None => {}
                Some(Found::Dir(_)) => found.push((name.to_owned(), FileKind::Directory)),
                Some(Found::Other(_, metadata)) => found.push((name.to_owned(), metadata.kind)),
            }
        }
        Ok(Some(found))
    }

    /// What `path` leads to, links followed inside the image's root; `None` when nothing is there.
    pub fn kind(&self, path: &str) -> Result<Option<FileKind>, RootfsError> {
        let found = self.merged.resolve(path.as_bytes());
        let found = found.map_err(|source| RootfsError::Read { path: path.to_owned(), source })?;
        Ok(found.map(|found| match found {
            Resolved::Dir(_) => FileKind::Directory,
            Resolved::Other { metadata, .. } => metadata.kind,
        }))
    }

    /// Whether `path` leads to a directory that has something in it.
    pub fn is_filled_dir(&self, path: &str) -> Result<bool, RootfsError> {
        self.has_entries(path).map_err(|source| RootfsError::Read { path: path.to_owned(), source })
    }

    fn has_entries(&self, path: &str) -> io::Result<bool> {
        let Some(Resolved::Dir(node)) = self.merged.resolve(path.as_bytes())? else { return Ok(false) };
        let open = self.merged.enter(&node)?;
        // A name may be there only to hide what lower layers have.
        for name in open.names()? {
            if open.child(&name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn not_a_file(kind: FileKind) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {}, expected a regular file", kind.words()))
}
