//! Reading files of an image without mounting it.

use std::io::{self, Read};

use super::error::RootfsError;
use super::layers::Layers;
use super::merged::{Merged, Resolved};
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
        let failed = |source| RootfsError::Read { path: path.to_owned(), source };
        let (parent, name, place) = match self.merged.resolve(path.as_bytes()).map_err(failed)? {
            None => return Ok(None),
            Some(Resolved::Dir(_)) => return Err(failed(not_a_file(FileKind::Directory))),
            Some(Resolved::Other { metadata, .. }) if metadata.kind != FileKind::Regular => {
                return Err(failed(not_a_file(metadata.kind)));
            }
            Some(Resolved::Other { metadata, .. }) if metadata.size > max_bytes => {
                let (size, limit) = (ByteSize(metadata.size), ByteSize(max_bytes));
                return Err(RootfsError::FileTooLarge { path: path.to_owned(), size, limit });
            }
            Some(Resolved::Other { parent, name, place, .. }) => (parent, name, place),
        };
        let file = parent.part(place).open_file(&name).map_err(failed)?;
        let Some(file) = file else { return Ok(None) };
        let mut content = Vec::new();
        file.take(max_bytes).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
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
