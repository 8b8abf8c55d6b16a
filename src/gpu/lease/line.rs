//! Who waits, first come, first served. A ticket is a locked file with a number; a waiter that is killed lets go of its lock, so
//! nobody waits behind it. (The kernel's own queue of waiters for a lock is not in order before Linux 5.0, and cannot be left
//! after some time without a signal.)

use std::fs;

use super::LeaseError;
use super::place::Place;
use crate::sys::{Lock, LockMode};

/// A place in line; left when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    place: Place,
    number: u64,
    _lock: Lock,
}

impl Ticket {
    /// Takes the last place.
    pub(super) fn take(place: &Place) -> Result<Self, LeaseError> {
        let _ledger = place.ledger()?;
        let (held, left) = place.tickets()?;
        for number in left {
            // Somebody else may have been faster; what stays is found again.
            drop(fs::remove_file(place.ticket_path(number)));
        }
        let number = held.last().map_or(1, |last| last.saturating_add(1));
        let path = place.ticket_path(number);
        let locked = Lock::try_acquire(&path, LockMode::Exclusive);
        let locked = locked.and_then(|lock| lock.ok_or_else(|| std::io::ErrorKind::WouldBlock.into()));
        let lock = locked.map_err(|source| LeaseError::Lock { path, source })?;
        Ok(Self { place: place.clone(), number, _lock: lock })
    }

    /// How many are before this one. A ticket with a lower number was locked before this one got its own, so that it is not
    /// locked means that it was left.
    pub(super) fn ahead(&self) -> Result<usize, LeaseError> {
        let (held, _) = self.place.tickets()?;
        Ok(held.iter().take_while(|number| **number < self.number).count())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(fs::remove_file(self.place.ticket_path(self.number)));
    }
}
