//! The unpacked layers of an image against what its blobs unpack to.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Mutex;

use super::findings::{Finding, FindingKind, FindingState};
use super::image::Of;
use super::{Checker, EngineError};
use crate::image::{Digest, Image, Silent};
use crate::rootfs::{RootfsError, Unpacker, compare_trees, possible_keys, standing};
use crate::store::StoreError;
use crate::words::describe;

/// Layers unpacked at a time.
const UNPACKS: usize = 2;
/// How much larger a layer is guessed to be than its blob, when nothing is known of it.
const GUESSED_GROWTH: u64 = 4;

impl Checker<'_> {
    pub(super) fn image_layers(&mut self, of: &Of, image: &Image) -> Result<(), EngineError> {
        let keys = possible_keys(image);
        if keys.is_empty() {
            return Ok(());
        }
        if !keys.iter().flatten().any(|key| self.is_there(key)) {
            let problem = "is not unpacked".to_owned();
            let finding = Finding::new(FindingKind::Image, &of.label, FindingState::Notice, problem).image(&of.label);
            self.findings.add(finding.hint("the first run unpacks it"));
            return Ok(());
        }
        let found = standing(self.store, image);
        let looks_whole = found.iter().all(Option::is_some);
        let known = found.iter().flatten().all(|key| self.layers.contains_key(key));
        if looks_whole && known {
            for key in found.iter().flatten() {
                self.findings.also_needed(FindingKind::Layer, &key.to_string(), &of.label);
            }
            return Ok(());
        }
        if self.request.quick && (looks_whole || !self.request.repair) {
            self.look_at_layers(of, image, &found);
            return Ok(());
        }
        match self.unpack_and_compare(of, image, &found) {
            // A full disk, or a blob that never was a layer: the others can still be checked.
            Err(EngineError::Rootfs(error)) => self.unchecked(of, &describe(&error)),
            Err(EngineError::Store(error @ (StoreError::Space { .. } | StoreError::Write { .. }))) => {
                self.unchecked(of, &describe(&error));
            }
            other => return other,
        }
        Ok(())
    }

    fn unchecked(&mut self, of: &Of, reason: &str) {
        let (reason, hint) = reason.split_once("\nhint: ").unwrap_or((reason, "try again"));
        let problem = format!("its layers could not be checked: {reason}");
        let finding = Finding::new(FindingKind::Image, &of.label, FindingState::Unchecked, problem);
        self.findings.add(finding.image(&of.label).hint(hint));
    }

    /// Tells of the layers that are not there or have no description.
    fn look_at_layers(&mut self, of: &Of, image: &Image, found: &[Option<Digest>]) {
        for (found, [diff_id, chain]) in found.iter().zip(possible_keys(image)) {
            if found.is_some() {
                continue;
            }
            let key = if self.store.layer_dir(&diff_id).exists() { &diff_id } else { &chain };
            if self.is_yet_to_come(of, key) {
                continue;
            }
            let damage = self.damage_in_sight(key).unwrap_or_else(|| "does not belong to this image".to_owned());
            self.damaged_layer(of, key, &damage);
        }
    }

    fn is_there(&self, key: &Digest) -> bool {
        self.store.layer_dir(key).symlink_metadata().is_ok()
    }

    /// Whether a layer is missing as it never was there: images that share some layers need not all have been run.
    fn is_yet_to_come(&self, of: &Of, key: &Digest) -> bool {
        !of.was_unpacked && !self.is_there(key)
    }

    /// What is wrong with a layer as far as can be told without its blob.
    fn damage_in_sight(&self, key: &Digest) -> Option<String> {
        if !self.is_there(key) {
            return Some("is missing".to_owned());
        }
        if self.store.layer_fs(key).is_none() {
            return Some("has no tree `fs`".to_owned());
        }
        self.store.layer_info(key).err().map(|error| describe(&error))
    }

    fn damaged_layer(&mut self, of: &Of, key: &Digest, damage: &str) {
        let finding = Finding::new(FindingKind::Layer, &key.to_string(), FindingState::Damaged, damage.to_owned());
        let user = self.store.layer_user(key).ok().flatten();
        let hint = match user {
            Some(run) => {
                format!("run `{run}` has it mounted: stop it, then `dockless check --repair` unpacks it again")
            }
            None => "`dockless check --repair` unpacks it again".to_owned(),
        };
        self.findings.add(finding.image(&of.label).hint(&hint));
    }

    fn unpack_and_compare(&mut self, of: &Of, image: &Image, found: &[Option<Digest>]) -> Result<(), EngineError> {
        let scratch = self.scratch.store().clone();
        self.check_space(image, found)?;
        let mut usable = Vec::new();
        for (index, (blob, _)) in image.layers().enumerate() {
            if self.blobs.get(&blob.digest) == Some(&true) {
                self.scratch.borrow_blob(&blob.digest)?;
                usable.push(index);
            }
        }
        let failed = unpack(&Unpacker::begin(&scratch, image, &Silent)?, &usable);
        let mut damaged = Vec::new();
        for (index, (fresh, [diff_id, chain])) in standing(&scratch, image).iter().zip(possible_keys(image)).enumerate()
        {
            if let Some(fresh) = fresh {
                if self.is_yet_to_come(of, fresh) {
                    continue;
                }
                if let Some(damage) = self.compare(of, fresh)? {
                    damaged.push((fresh.clone(), damage));
                }
            } else if let Some(damage) = self.damage_of_unpackable(of, found[index].as_ref(), &diff_id, &chain) {
                self.damaged_layer(of, &diff_id, &damage);
            }
        }
        if self.request.repair && !damaged.is_empty() {
            self.replace_layers(of, damaged)?;
        } else {
            for (key, damage) in damaged {
                self.damaged_layer(of, &key, &damage);
            }
        }
        failed.map_err(EngineError::from)
    }

    /// A layer whose blob is damaged, or that rests on such a one: only what is in sight can be told.
    fn damage_of_unpackable(
        &self,
        of: &Of,
        found: Option<&Digest>,
        diff_id: &Digest,
        chain: &Digest,
    ) -> Option<String> {
        let key = if self.store.layer_dir(diff_id).exists() { diff_id } else { chain };
        if found.is_some() || self.is_yet_to_come(of, key) {
            return None;
        }
        let damage = self.damage_in_sight(key)?;
        Some(format!("{damage}, and its blob or that of a layer below cannot be used"))
    }

    fn check_space(&self, image: &Image, found: &[Option<Digest>]) -> Result<(), EngineError> {
        let mut needed = HashMap::new();
        for ((blob, diff_id), found) in image.layers().zip(found) {
            if found.as_ref().is_none_or(|key| self.scratch.store().layer_fs(key).is_none()) {
                let known = found.as_ref().and_then(|key| self.store.layer_info(key).ok()).map(|info| info.size_bytes);
                needed.insert(diff_id, known.unwrap_or_else(|| blob.size.saturating_mul(GUESSED_GROWTH)));
            }
        }
        Ok(self.store.check_space(needed.values().fold(0, |sum, bytes| sum.saturating_add(*bytes)))?)
    }

    /// What is wrong with a layer of the store, of which the scratch has a fresh copy.
    fn compare(&mut self, of: &Of, key: &Digest) -> Result<Option<String>, EngineError> {
        if self.layers.contains_key(key) {
            self.findings.also_needed(FindingKind::Layer, &key.to_string(), &of.label);
            return Ok(None);
        }
        let damage = match self.damage_in_sight(key) {
            Some(damage) => Some(damage),
            None if self.store.layer_info(key)?.is_plain != self.scratch.store().layer_info(key)?.is_plain => {
                Some("was unpacked for another kind of file system than the store is on".to_owned())
            }
            None if self.store.layer_info(key)? != self.scratch.store().layer_info(key)? => {
                Some("has a `layer.json` that says something else than its blob".to_owned())
            }
            None => {
                let [right, real] = [self.scratch.store(), self.store].map(|store| store.layer_dir(key).join("fs"));
                let differences =
                    compare_trees(&right, &real).map_err(|source| StoreError::Read { path: right, source })?;
                Some(differences.join("; ")).filter(|differences| !differences.is_empty())
            }
        };
        self.layers.insert(key.clone(), damage.is_none());
        if damage.is_none() {
            // Frees the space, and images above it need not unpack it again.
            self.scratch.borrow_layer(key)?;
        }
        Ok(damage)
    }

    /// Puts the fresh layers in the place of the damaged ones.
    fn replace_layers(&mut self, of: &Of, damaged: Vec<(Digest, String)>) -> Result<(), EngineError> {
        // Whoever sets a run up holds the store, and has told which layers it uses when it lets go.
        self.alone("layers are replaced", |checker, exclusive| {
            for (key, damage) in damaged {
                match checker.scratch.give_layer(&key, exclusive) {
                    Ok(()) => {
                        let (problem, name) = (format!("{damage}; unpacked again"), key.to_string());
                        let finding = Finding::new(FindingKind::Layer, &name, FindingState::Repaired, problem);
                        checker.findings.add(finding.image(&of.label));
                        checker.layers.insert(key, true);
                    }
                    // Says so, and what to do.
                    Err(StoreError::LayerInUse { .. }) => checker.damaged_layer(of, &key, &damage),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })
    }
}

/// Unpacks what can be unpacked; the first error, when everything else is done.
fn unpack(unpacker: &Unpacker<'_>, usable: &[usize]) -> Result<(), RootfsError> {
    let waiting = Mutex::new(usable.iter());
    let next = || waiting.lock().ok()?.next().copied();
    let work = || std::iter::from_fn(next).map(|index| unpacker.unpack(index)).fold(Ok(()), Result::and);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..UNPACKS).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        theirs.fold(mine, Result::and)
    })
}
