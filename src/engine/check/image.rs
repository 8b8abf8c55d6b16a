//! One image: its documents, then its blobs, then its layers as far as the former can be relied on.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::Mutex;

use super::findings::{Finding, FindingKind, FindingState};
use super::{Checker, EngineError};
use crate::image::{Descriptor, Digest, Document, Image, ImageConfig, Index, Manifest, Reference};
use crate::registry::RegistryError;
use crate::store::{BlobDamage, StoreError, StoredImage};
use crate::words::describe;

/// Blobs that are read and hashed at a time.
const READERS: usize = 2;

/// Which image something belongs to.
pub(super) struct Of {
    /// For messages.
    pub(super) label: String,
    /// Where it came from; an image without a name came from nowhere.
    pub(super) reference: Option<Reference>,
    /// Whether all its layers have been there.
    pub(super) was_unpacked: bool,
}

/// How to ask for what is damaged.
enum Source<'a> {
    Manifest(&'a Digest),
    Blob(&'a Descriptor),
}

impl Source<'_> {
    const fn digest(&self) -> &Digest {
        match self {
            Self::Manifest(digest) => digest,
            Self::Blob(blob) => &blob.digest,
        }
    }
}

impl Checker<'_> {
    pub(super) fn image(&mut self, stored: &StoredImage) -> Result<(), EngineError> {
        let reference = stored.reference();
        let label = match &reference {
            Some(reference) => reference.familiar(),
            None if stored.name.is_empty() => stored.descriptor.digest.to_string(),
            None => stored.name.clone(),
        };
        self.say(&format!("checking {label}"));
        let mut of = Of { label, reference, was_unpacked: false };
        for (digest, manifest) in self.manifests(&of, stored)? {
            let config = self.config(&of, &manifest)?;
            self.blobs(&of, &manifest.layers)?;
            let Some(config) = config else { continue };
            // The name is of no concern to unpacking.
            let reference = of.reference.clone().or_else(|| format!("unnamed@{digest}").parse().ok());
            let Some(reference) = reference else { continue };
            of.was_unpacked = stored.was_unpacked(&digest);
            match Image::new(reference, digest, manifest, config) {
                Ok(image) => self.image_layers(&of, &image)?,
                Err(error) => self.bad_image(&of, &describe(&error)),
            }
        }
        Ok(())
    }

    fn bad_image(&mut self, of: &Of, problem: &str) {
        let finding = Finding::new(FindingKind::Image, &of.label, FindingState::Damaged, problem.to_owned());
        self.findings.add(finding.image(&of.label).hint("it was so when it came; another build of it may be better"));
    }

    /// The manifests of an image that can be read: of an index those that are here.
    fn manifests(&mut self, of: &Of, stored: &StoredImage) -> Result<Vec<(Digest, Manifest)>, EngineError> {
        let mut found = Vec::new();
        let mut waiting = vec![stored.descriptor.digest.clone()];
        // As in `Store::manifests`: a hostile index may name one index any number of times.
        let mut seen = HashSet::new();
        while let Some(digest) = waiting.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let Some(bytes) = self.document(of, FindingKind::Manifest, &Source::Manifest(&digest))? else { continue };
            match Document::parse(&bytes, &digest) {
                Ok(Document::Manifest(manifest)) => found.push((digest, manifest)),
                Ok(Document::Index(index)) => waiting.extend(self.children(&index)),
                Err(error) => self.bad_image(of, &describe(&error)),
            }
        }
        Ok(found)
    }

    /// What is here of an index; of one of which nothing is here, what should be.
    fn children(&self, index: &Index) -> Vec<Digest> {
        let images = index.manifests.iter().rev().filter(|d| d.media_type.is_manifest() || d.media_type.is_index());
        let here = images.filter(|child| self.store.blob_path(&child.digest).symlink_metadata().is_ok());
        let mut digests: Vec<Digest> = here.map(|child| child.digest.clone()).collect();
        if digests.is_empty() {
            digests.extend(index.select(&self.request.platform).map(|child| child.digest.clone()));
        }
        digests
    }

    fn config(&mut self, of: &Of, manifest: &Manifest) -> Result<Option<ImageConfig>, EngineError> {
        let Some(bytes) = self.document(of, FindingKind::Config, &Source::Blob(&manifest.config))? else {
            return Ok(None);
        };
        match ImageConfig::parse(&bytes, &manifest.config.digest) {
            Ok(config) => Ok(Some(config)),
            Err(error) => {
                self.bad_image(of, &describe(&error));
                Ok(None)
            }
        }
    }

    /// Reads a document, after mending it if it must be and can be.
    fn document(&mut self, of: &Of, kind: FindingKind, source: &Source<'_>) -> Result<Option<Vec<u8>>, EngineError> {
        let digest = source.digest();
        match self.store.read_document(digest) {
            Ok(bytes) => {
                self.findings.also_needed(kind, &digest.to_string(), &of.label);
                Ok(Some(bytes))
            }
            Err(error) => {
                let damage = match error {
                    StoreError::Read { source, .. } => BlobDamage::from(source),
                    StoreError::Damaged { actual, .. } => BlobDamage::Content(actual),
                    error => return Err(error.into()),
                };
                let is_whole = self.damaged_blob(of, kind, source, &damage)?;
                self.has_unknown |= !is_whole;
                Ok(if is_whole { Some(self.store.read_document(digest)?) } else { None })
            }
        }
    }

    /// Checks the blobs of layers, some at a time.
    fn blobs(&mut self, of: &Of, layers: &[Descriptor]) -> Result<(), EngineError> {
        let mut fresh: Vec<&Descriptor> = Vec::new();
        for blob in layers {
            if fresh.iter().any(|known| known.digest == blob.digest) {
                continue;
            }
            match self.blobs.get(&blob.digest) {
                Some(true) => self.findings.also_needed(FindingKind::Blob, &blob.digest.to_string(), &of.label),
                _ => fresh.push(blob),
            }
        }
        for (blob, verified) in self.verify(&fresh) {
            let is_whole = match verified {
                Ok(()) => true,
                Err(damage) => self.damaged_blob(of, FindingKind::Blob, &Source::Blob(blob), &damage)?,
            };
            self.blobs.insert(blob.digest.clone(), is_whole);
        }
        Ok(())
    }

    fn verify<'b>(&self, blobs: &[&'b Descriptor]) -> Vec<(&'b Descriptor, Result<(), BlobDamage>)> {
        let waiting = Mutex::new(blobs.iter());
        let next = || waiting.lock().ok()?.next().copied();
        let (store, is_read) = (self.store, !self.request.quick);
        let work = || -> Vec<_> {
            std::iter::from_fn(next).map(|blob: &Descriptor| (blob, store.verify_blob(blob, is_read))).collect()
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..READERS).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined.flatten().collect()
        })
    }

    /// Tells of a damaged blob and fetches it again if that is wanted; whether it is whole now.
    fn damaged_blob(
        &mut self,
        of: &Of,
        kind: FindingKind,
        source: &Source<'_>,
        damage: &BlobDamage,
    ) -> Result<bool, EngineError> {
        let name = source.digest().to_string();
        let finding = |state, problem: String| Finding::new(kind, &name, state, problem).image(&of.label);
        let Some(reference) = &of.reference else {
            let hint = "no registry is known for an image without a name; remove it, or pull it under its name";
            self.findings.add(finding(FindingState::Damaged, damage.to_string()).hint(hint));
            return Ok(false);
        };
        if !self.request.repair {
            let hint = format!(
                "`dockless check --repair` fetches it again from `{}`, `dockless load` takes it from a file",
                reference.registry()
            );
            self.findings.add(finding(FindingState::Damaged, damage.to_string()).hint(&hint));
            return Ok(false);
        }
        let place = format!("{}/{}", reference.registry(), reference.repository());
        if !self.asked.insert((source.digest().clone(), place.clone())) {
            self.findings.also_needed(kind, &name, &of.label);
            return Ok(false);
        }
        self.say(&format!("{}: {damage}; fetching it again", source.digest().short()));
        match self.fetch(reference, source) {
            Ok(()) => {
                self.scratch.give_blob(source.digest())?;
                let problem = format!("{damage}; fetched again from `{place}`");
                self.findings.add(finding(FindingState::Repaired, problem));
                Ok(true)
            }
            Err(error) => {
                let words = describe(&error);
                let (reason, hint) = words.split_once("\nhint: ").unwrap_or((&words, ""));
                let problem = format!("{damage}; it cannot be fetched again: {reason}");
                let or = format!("`dockless rmi {}` gives the image up", of.label);
                let hint = if hint.is_empty() { or } else { format!("{hint}; {or}") };
                self.findings.add(finding(FindingState::Damaged, problem).hint(&hint));
                Ok(false)
            }
        }
    }

    fn fetch(&self, reference: &Reference, source: &Source<'_>) -> Result<(), RegistryError> {
        let scratch = self.scratch.store();
        match source {
            Source::Manifest(digest) => self.fetcher.manifest(reference, digest, scratch),
            Source::Blob(blob) => self.fetcher.blob(reference, blob, scratch),
        }
    }
}
