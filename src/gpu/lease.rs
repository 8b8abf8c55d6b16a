//! A GPU, or a MIG device, belongs to one run at a time, or to runs that all share.
//!
//! The kernel's locks say whose a GPU is (`lease/place.rs` lists the files), so that whoever is killed lets go of it. Who looks and then
//! takes holds the ledger for that moment: all is had or nothing. Who waits stands in line; only the first in line collects
//! GPUs as they come free, so that many small runs cannot keep a large one waiting for ever, and no two of them wait for each
//! other. Who does not wait takes what is free at once.
//!
//! The locks are taken by the command line and then handed to the supervisor as open files ([`Leases::descriptors`]), which binds
//! them to its own life ([`Handed`]). A note that its holder has left behind tells that it was killed, and whose container may
//! still run on the GPU: [`Leases::orphans`].

mod line;
mod place;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use self::line::Ticket;
use self::place::{Own, Place};
use super::chosen::Unit;
use super::select::Selection;
use super::{Chosen, GpuRequest, GpuUuid, Grant, Holder, Inventory, SelectError, Taken};
use crate::store::RunName;
use crate::sys::{Lock, LockMode, bind_lock_to_process};

/// How often those who wait look.
const POLL: Duration = Duration::from_millis(100);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// What is asked for is not there, or not free and was not to be waited for.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The time to wait is over.
    #[error("waited {} for GPUs", span(*.waited))]
    Waited {
        /// How long.
        waited: Duration,
        /// What was still missing.
        #[source]
        source: SelectError,
    },
    /// The time to wait is over, and others stand before.
    #[error("waited {} for GPUs, and {ahead} of those who wait came before\nhint: wait longer, or without a limit: `--gpu-wait`", span(*.waited))]
    InLine {
        /// How long.
        waited: Duration,
        /// How many come first.
        ahead: usize,
    },
    /// Whoever waits does not want to any more.
    #[error("gave up waiting for GPUs")]
    GivenUp,
    /// A container's name that is no file name.
    #[error("`{}` is not the name of a container, expected letters, digits, `_`, `.` and `-`, 128 at most", .0.escape_debug())]
    Id(String),
    /// The directory cannot be made or read.
    #[error("cannot open the directory `{path}`, in which GPUs are leased")]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can write to the directory.
    #[error(
        "`{path}`, in which GPUs are leased, is not a directory of our own user that nobody else may write to\nhint: `chmod 0700`, or remove it"
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
    /// A lock cannot be had at all (not: is held by another).
    #[error("cannot lock `{path}`")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A note cannot be written or removed.
    #[error("cannot write `{path}`")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// `90` seconds as `1m30s`.
fn span(waited: Duration) -> String {
    let seconds = waited.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts = parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}"));
    let text = parts.collect::<Vec<_>>().concat();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// How long to wait for GPUs that others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until they are free.
    Forever,
    /// So long.
    Until(Duration),
}

/// What is asked for, by whom, and where.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Which GPUs.
    pub request: &'a GpuRequest,
    /// What there is.
    pub inventory: &'a Inventory,
    /// What of it is ours to give.
    pub grant: &'a Grant,
    /// Where the whole machine leases; made when missing.
    pub dir: &'a Path,
    /// The run.
    pub run: &'a RunName,
    /// Root of its store.
    pub store: &'a Path,
    /// Name of its container and of that's cgroup; no other run ever has it.
    pub id: &'a str,
    /// The time now, RFC 3339.
    pub since: &'a str,
    /// Other runs that share may have the same GPUs.
    pub shared: bool,
}

/// What one who waits is told, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// So many are before in line.
    pub ahead: usize,
    /// For whom and what it is waited; `None` while others are before.
    pub missing: Option<SelectError>,
}

/// GPUs and the right to use them.
#[derive(Debug)]
pub struct Leased {
    /// In the order of the bus.
    pub chosen: Vec<Chosen>,
    /// `None` when no GPUs were asked for.
    pub leases: Option<Leases>,
}

/// Chooses and leases what is asked for: all of it or nothing.
///
/// `on_wait` is called every tenth of a second while it is waited, and can end that. What cannot be had even when nobody holds
/// anything is not waited for.
pub fn acquire(
    asking: &Asking<'_>,
    wait: Wait,
    mut on_wait: impl FnMut(&Waiting) -> ControlFlow<()>,
) -> Result<Leased, LeaseError> {
    if asking.request.is_none() {
        return Ok(Leased { chosen: Vec::new(), leases: None });
    }
    let selection = Selection::new(asking.request, asking.inventory, asking.grant)?;
    selection.choose(&[])?;
    let mut collector = Collector::new(asking, selection)?;
    let limit = match wait {
        Wait::No => return Ok(collector.take_all()??),
        Wait::Forever => None,
        Wait::Until(limit) => Some(limit),
    };
    let began = Instant::now();
    let ticket = Ticket::take(&collector.place)?;
    loop {
        let ahead = ticket.ahead()?;
        let missing = if ahead > 0 {
            None
        } else {
            match collector.take_all()? {
                Ok(leased) => return Ok(leased),
                Err(missing) if !missing.can_come_free() => return Err(missing.into()),
                Err(missing) => {
                    collector.take_some()?;
                    Some(missing)
                }
            }
        };
        let waited = began.elapsed();
        let left = limit.map_or(POLL, |limit| limit.saturating_sub(waited));
        if left.is_zero() {
            return Err(match missing {
                Some(source) => LeaseError::Waited { waited, source },
                None => LeaseError::InLine { waited, ahead },
            });
        }
        if on_wait(&Waiting { ahead, missing }).is_break() {
            return Err(LeaseError::GivenUp);
        }
        sleep(left.min(POLL));
    }
}

/// What a request has so far.
struct Collector<'a> {
    selection: Selection<'a>,
    uuids: Vec<&'a GpuUuid>,
    place: Place,
    leases: Option<Leases>,
}

impl<'a> Collector<'a> {
    fn new(asking: &Asking<'a>, selection: Selection<'a>) -> Result<Self, LeaseError> {
        if !Holder::is_id(asking.id) {
            return Err(LeaseError::Id(asking.id.to_owned()));
        }
        let place = Place::open(asking.dir)?;
        let holder = Holder {
            run: asking.run.clone(),
            store: asking.store.to_owned(),
            id: asking.id.to_owned(),
            uuids: Vec::new(),
            shared: asking.shared,
            waiting: true,
            since: asking.since.to_owned(),
        };
        let leases = Leases { place: place.clone(), note: None, locks: BTreeMap::new(), holder, orphans: Vec::new() };
        let uuids = asking.inventory.gpus.iter().flat_map(Unit::of).map(|unit| unit.uuid()).collect();
        Ok(Self { selection, uuids, place, leases: Some(leases) })
    }

    /// Takes all if all is free.
    fn take_all(&mut self) -> Result<Result<Leased, SelectError>, LeaseError> {
        let Some(mut leases) = self.leases.take() else { return Err(LeaseError::GivenUp) };
        let _ledger = self.place.ledger()?;
        let mut taken = self.taken(&leases)?;
        loop {
            let units = match self.selection.choose(&taken) {
                Ok(units) => units,
                Err(missing) => {
                    self.leases = Some(leases);
                    return Ok(Err(missing));
                }
            };
            match leases.lock(&units)? {
                None => {
                    let wanted: Vec<&GpuUuid> = units.iter().map(Unit::uuid).collect();
                    leases.locks.retain(|uuid, _| wanted.contains(&uuid));
                    leases.write_note(false)?;
                    leases.find_orphans()?;
                    let chosen = units.iter().map(Unit::chosen).collect();
                    return Ok(Ok(Leased { chosen, leases: Some(leases) }));
                }
                // Somebody who does not know of the ledger.
                Some(uuid) => taken.push(Taken { uuid, by: None, blocks: true }),
            }
        }
    }

    /// Takes what is free of what is needed, to keep it until there is enough.
    fn take_some(&mut self) -> Result<(), LeaseError> {
        let Some(mut leases) = self.leases.take() else { return Err(LeaseError::GivenUp) };
        let _ledger = self.place.ledger()?;
        let mut free = self.selection.free(&self.taken(&leases)?);
        // What is had already stays; beyond that the order of the bus.
        free.sort_by_key(|unit| !leases.locks.contains_key(unit.uuid()));
        free.truncate(self.selection.enough());
        let before = leases.locks.len();
        for unit in free {
            // One that is lost to somebody is looked at again the next time.
            leases.lock(&[unit])?;
        }
        if leases.locks.len() != before {
            leases.write_note(true)?;
        }
        self.leases = Some(leases);
        Ok(())
    }

    fn taken(&self, leases: &Leases) -> Result<Vec<Taken>, LeaseError> {
        let own = Own { id: &leases.holder.id, shared: leases.holder.shared, held: &leases.locks };
        self.place.taken(self.uuids.iter().copied(), &own)
    }
}

/// Locks on GPUs, with the note that says whose they are. Dropped, they are given back.
#[derive(Debug)]
pub struct Leases {
    place: Place,
    note: Option<Lock>,
    locks: BTreeMap<GpuUuid, Lock>,
    holder: Holder,
    orphans: Vec<Holder>,
}

impl Leases {
    /// What the note says.
    #[must_use]
    pub const fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The open files, for the process that holds them further; the note's is the first. See [`Handed::adopt`].
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.note.iter().chain(self.locks.values()).map(|lock| lock.file().as_fd()).collect()
    }

    /// Runs that held one of these and were killed: what is left in their cgroups may still use it, and has to be killed
    /// before it is given to another. Their notes stay until [`Self::forget_orphans`].
    #[must_use]
    pub fn orphans(&self) -> &[Holder] {
        &self.orphans
    }

    /// Nothing of those runs is left.
    pub fn forget_orphans(&mut self) -> Result<(), LeaseError> {
        let _ledger = self.place.ledger()?;
        for orphan in std::mem::take(&mut self.orphans) {
            self.place.forget(&orphan.id)?;
        }
        Ok(())
    }

    /// Another process has the descriptors: closes them here, without giving back.
    pub fn hand_over(mut self) {
        self.note = None;
    }

    /// Locks these that are not locked yet, in the order of their UUIDs; none of them if one cannot be had, which is returned.
    fn lock(&mut self, units: &[Unit<'_>]) -> Result<Option<GpuUuid>, LeaseError> {
        let mut uuids: Vec<&GpuUuid> = units.iter().map(Unit::uuid).collect();
        uuids.retain(|uuid| !self.locks.contains_key(uuid));
        uuids.sort();
        let mut locks = BTreeMap::new();
        for uuid in uuids {
            match self.place.take(uuid, self.holder.shared)? {
                Some(lock) => drop(locks.insert(uuid.clone(), lock)),
                None => return Ok(Some(uuid.clone())),
            }
        }
        self.locks.append(&mut locks);
        Ok(None)
    }

    fn write_note(&mut self, waiting: bool) -> Result<(), LeaseError> {
        self.holder.uuids = self.locks.keys().cloned().collect();
        self.holder.waiting = waiting;
        self.note = Some(self.place.publish(&self.holder)?);
        Ok(())
    }

    /// One that was killed while it waited has no container.
    fn find_orphans(&mut self) -> Result<(), LeaseError> {
        for note in self.place.notes()?.into_iter().filter(|note| !note.is_live) {
            if note.holder.waiting {
                self.place.forget(&note.holder.id)?;
            } else if note.holder.uuids.iter().any(|uuid| self.locks.contains_key(uuid)) {
                self.orphans.push(note.holder);
            }
        }
        Ok(())
    }
}

impl Drop for Leases {
    /// The note goes before the locks: a note without its locks would be that of one who was killed.
    fn drop(&mut self) {
        if self.note.is_some() {
            drop(std::fs::remove_file(self.place.note_path(&self.holder.id)));
        }
    }
}

/// Leases in the process that holds them for as long as the run lasts.
#[derive(Debug)]
pub struct Handed {
    files: Vec<OwnedFd>,
    note: PathBuf,
}

impl Handed {
    /// Takes over the open files of [`Leases::descriptors`] and binds their locks to the life of this process, whatever it forks.
    ///
    /// From then on the process must not look into the directory: to close any descriptor of a lock's file ends the lock.
    pub fn adopt(dir: &Path, id: &str, shared: bool, files: Vec<OwnedFd>) -> io::Result<Self> {
        for (number, file) in files.iter().enumerate() {
            let mode = if shared && number > 0 { LockMode::Shared } else { LockMode::Exclusive };
            bind_lock_to_process(file, mode)?;
        }
        Ok(Self { files, note: Place::at(dir).note_path(id) })
    }

    /// Gives the GPUs back, when nothing of the run is left. Without this, as when the process is killed, the note tells the
    /// next holder that there may be.
    pub fn release(self) -> io::Result<()> {
        let removed = std::fs::remove_file(&self.note);
        drop(self.files);
        removed
    }
}

/// Who holds GPUs at the moment, sorted by container; those that wait for more too.
pub fn holders(dir: &Path) -> Result<Vec<Holder>, LeaseError> {
    let notes = Place::at(dir).notes()?;
    Ok(notes.into_iter().filter(|note| note.is_live).map(|note| note.holder).collect())
}

/// Runs that held GPUs and were killed, and whose containers may still be there.
pub fn orphans(dir: &Path) -> Result<Vec<Holder>, LeaseError> {
    let notes = Place::at(dir).notes()?;
    Ok(notes.into_iter().filter(|note| !note.is_live && !note.holder.waiting).map(|note| note.holder).collect())
}

/// Nothing is left of the run with this container: its note goes, if it was killed. One that lives keeps it.
pub fn forget(dir: &Path, id: &str) -> Result<(), LeaseError> {
    if !Holder::is_id(id) || !dir.is_dir() {
        return Ok(());
    }
    let place = Place::at(dir);
    let _ledger = place.ledger()?;
    place.forget(id)
}

/// What is held of these GPUs and MIG devices, for lists: also what a process holds that left no note.
pub fn taken(dir: &Path, inventory: &Inventory) -> Result<Vec<Taken>, LeaseError> {
    let held = BTreeMap::new();
    let own = Own { id: "", shared: false, held: &held };
    Place::at(dir).taken(inventory.gpus.iter().flat_map(Unit::of).map(|unit| unit.uuid()), &own)
}

#[cfg(test)]
mod tests;
