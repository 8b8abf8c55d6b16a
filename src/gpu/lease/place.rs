//! The directory that GPUs are leased in, one for the whole machine:
//!
//! ```text
//! ledger           locked for moments, by whoever looks and then takes
//! gpu.<UUID>       locked by whoever holds the GPU or MIG device; shared by sharing runs
//! holder.<id>      whose they are, as JSON; locked by the holder, so one that is not locked is of a holder that was killed
//! ticket.<number>  locked by who waits; the lowest number is the first in line
//! new              a note before it has its name; belongs to who has the ledger
//! ```
//!
//! Only the locks count. A file that stays when its process is killed is found to be unlocked.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::LeaseError;
use crate::gpu::{GpuUuid, Holder, Taken};
use crate::sys::{Lock, LockMode};

/// Far above a note of all GPUs of a machine.
const MAX_NOTE_BYTES: u64 = 256 << 10;
const NOTE: &str = "holder.";

/// A directory of leases.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

/// A note, and whether its holder lives.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) holder: Holder,
    pub(super) is_live: bool,
}

impl Place {
    /// Makes the directory when it is missing. One that others may write to is refused: locks in it prove nothing.
    pub(super) fn open(dir: &Path) -> Result<Self, LeaseError> {
        let failed = |source| LeaseError::Dir { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let metadata = fs::symlink_metadata(dir).map_err(failed)?;
        let is_ours = metadata.uid() == nix::unistd::geteuid().as_raw();
        if !metadata.is_dir() || !is_ours || metadata.mode() & 0o022 != 0 {
            return Err(LeaseError::Unsafe { path: dir.to_owned() });
        }
        Ok(Self::at(dir))
    }

    pub(super) fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// Nobody else looks and takes while this is held.
    pub(super) fn ledger(&self) -> Result<Lock, LeaseError> {
        let path = self.0.join("ledger");
        Lock::acquire(&path, LockMode::Exclusive, |_| {}).map_err(|source| LeaseError::Lock { path, source })
    }

    pub(super) fn note_path(&self, id: &str) -> PathBuf {
        self.0.join(format!("{NOTE}{id}"))
    }

    pub(super) fn ticket_path(&self, number: u64) -> PathBuf {
        self.0.join(format!("ticket.{number:020}"))
    }

    /// Takes a GPU if nobody is in the way.
    pub(super) fn take(&self, uuid: &GpuUuid, shared: bool) -> Result<Option<Lock>, LeaseError> {
        let path = self.gpu_path(uuid);
        let mode = if shared { LockMode::Shared } else { LockMode::Exclusive };
        Lock::try_acquire(&path, mode).map_err(|source| LeaseError::Lock { path, source })
    }

    /// Writes the note of a holder, locked from its first moment. The caller has the ledger.
    pub(super) fn publish(&self, holder: &Holder) -> Result<Lock, LeaseError> {
        let path = self.note_path(&holder.id);
        let publish = || Lock::publish(&path, &self.0.join("new"), &serde_json::to_vec(holder)?);
        publish().map_err(|source| LeaseError::Note { path: path.clone(), source })
    }

    /// Removes the note of a holder that was killed; one that lives keeps it. The caller has the ledger.
    pub(super) fn forget(&self, id: &str) -> Result<(), LeaseError> {
        let path = self.note_path(id);
        let forget = || match Lock::holder(&path)? {
            Some(_) => Ok(()),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        forget().map_err(|source| LeaseError::Note { path: path.clone(), source })
    }

    /// All notes, in the order of their names. What is damaged tells nothing.
    pub(super) fn notes(&self) -> Result<Vec<Note>, LeaseError> {
        let mut notes = Vec::new();
        for name in self.names(NOTE)? {
            let path = self.note_path(&name);
            // Read first: one that is locked afterwards was locked then.
            let Ok(holder) = read_note(&path) else { continue };
            let is_live = match Lock::holder(&path) {
                Ok(locked) => locked.is_some(),
                Err(source) => return Err(LeaseError::Lock { path, source }),
            };
            // One that gives back removes its note before it unlocks it.
            if holder.id == name && (is_live || path.exists()) {
                notes.push(Note { holder, is_live });
            }
        }
        Ok(notes)
    }

    /// What others than `own` hold of `uuids`.
    pub(super) fn taken<'a>(
        &self,
        uuids: impl Iterator<Item = &'a GpuUuid>,
        own: &Own<'_>,
    ) -> Result<Vec<Taken>, LeaseError> {
        let notes = self.notes()?;
        let others: Vec<&Holder> =
            notes.iter().filter(|note| note.is_live && note.holder.id != own.id).map(|note| &note.holder).collect();
        let mut taken = Vec::new();
        for uuid in uuids {
            let holders = others.iter().filter(|holder| holder.uuids.contains(uuid));
            let path = self.gpu_path(uuid);
            let is_locked = Lock::holder(&path).map_err(|source| LeaseError::Lock { path, source })?.is_some();
            if !is_locked {
                continue;
            }
            let before = taken.len();
            taken.extend(holders.map(|holder| Taken {
                uuid: uuid.clone(),
                blocks: !(own.shared && holder.shared),
                by: Some((*holder).clone()),
            }));
            if taken.len() == before && !own.has(uuid) {
                taken.push(Taken { uuid: uuid.clone(), by: None, blocks: true });
            }
        }
        Ok(taken)
    }

    /// Numbers of the tickets that somebody holds, ascending, and of those that nobody does.
    pub(super) fn tickets(&self) -> Result<(Vec<u64>, Vec<u64>), LeaseError> {
        let (mut held, mut left) = (Vec::new(), Vec::new());
        for number in self.names("ticket.")?.iter().filter_map(|number| number.parse().ok()) {
            let path = self.ticket_path(number);
            match Lock::holder(&path).map_err(|source| LeaseError::Lock { path, source })? {
                Some(_) => held.push(number),
                None => left.push(number),
            }
        }
        Ok((held, left))
    }

    fn gpu_path(&self, uuid: &GpuUuid) -> PathBuf {
        self.0.join(format!("gpu.{uuid}"))
    }

    /// What follows `prefix` in the names that begin with it; nothing where there is no directory.
    fn names(&self, prefix: &str) -> Result<Vec<String>, LeaseError> {
        let failed = |source| LeaseError::Dir { path: self.0.clone(), source };
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_prefix(prefix)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

/// What the one who looks holds itself.
pub(super) struct Own<'a> {
    pub(super) id: &'a str,
    pub(super) shared: bool,
    pub(super) held: &'a std::collections::BTreeMap<GpuUuid, Lock>,
}

impl Own<'_> {
    fn has(&self, uuid: &GpuUuid) -> bool {
        self.held.contains_key(uuid)
    }
}

fn read_note(path: &Path) -> io::Result<Holder> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_NOTE_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
