//! Looking whether the store is as it was written, and mending what is not.
//!
//! Blobs are hashed. An unpacked layer has no hash of its own, so its blob is unpacked anew in a scratch store and the two
//! trees are compared. What is damaged is replaced: a document or blob from the image's own registry, asked for by digest
//! because the tag may have moved; a layer by the one that was just unpacked. Damage is a finding, not an error, and one
//! finding keeps nothing else from being looked at.
//!
//! Locks: the scratch's for the whole time, so that one check goes on at a time; [`Store::shared`] while anything is read,
//! and [`Store::exclusive`] instead of it for the moment in which layers are exchanged.

mod fetch;
mod findings;
mod image;
mod layers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use self::fetch::Fetcher;
use self::findings::Findings;
pub use self::findings::{Finding, FindingKind, FindingState};
use super::{Engine, EngineError};
use crate::image::{Digest, Observer, Platform};
use crate::store::{Scratch, Store, StoredImage};
use crate::sys::Lock;
use crate::words::describe;

/// What is to be checked, and how.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// Names or digests of images; none for all images and the store itself.
    pub images: Vec<String>,
    /// Leave out what takes reading all content.
    pub quick: bool,
    /// Mend what can be mended.
    pub repair: bool,
    /// Whose manifest is missed where an index has none here.
    pub platform: Platform,
}

/// Hears what is being done, in words.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

impl Engine {
    /// Checks the store; what is found comes in the order in which it was looked at.
    ///
    /// # Errors
    /// When the store as a whole cannot be worked with, or an image that was named is not there.
    pub async fn check(
        &self,
        request: CheckRequest,
        observer: &Arc<dyn Observer>,
        tell: Tell,
    ) -> Result<Vec<Finding>, EngineError> {
        let (store, settings) = (self.store.clone(), self.settings.registry.clone());
        let (handle, observer) = (Handle::current(), Arc::clone(observer));
        let check = move || {
            let fetcher = Fetcher::new(settings, handle, observer)?;
            check(&store, request, fetcher, tell)
        };
        spawn_blocking(check).await.map_err(|_| EngineError::Task("checking"))?
    }
}

fn check(store: &Store, request: CheckRequest, fetcher: Fetcher, tell: Tell) -> Result<Vec<Finding>, EngineError> {
    let told = Arc::clone(&tell);
    let scratch = store.scratch(move |holder| {
        let whose = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        told(&format!("waiting for {whose}, which is checking this store"));
    })?;
    let mut checker = Checker {
        store,
        kept: Some(store.shared()?),
        scratch,
        fetcher,
        tell,
        request,
        findings: Findings::default(),
        blobs: HashMap::new(),
        layers: HashMap::new(),
        asked: HashSet::new(),
        has_unknown: false,
    };
    if checker.index()? {
        checker.images()?;
    }
    Ok(checker.findings.into_list())
}

/// A check that goes on.
struct Checker<'a> {
    store: &'a Store,
    /// Keeps images from being removed; given away for the moments in which something is replaced.
    kept: Option<Lock>,
    scratch: Scratch,
    fetcher: Fetcher,
    tell: Tell,
    request: CheckRequest,
    findings: Findings,
    /// The blobs that were looked at, and whether each is whole by now.
    blobs: HashMap<Digest, bool>,
    /// The same of layers.
    layers: HashMap<Digest, bool>,
    /// Blobs with the repository that could not give them.
    asked: HashSet<(Digest, String)>,
    /// A document cannot be read, so that it is not known what it needs.
    has_unknown: bool,
}

impl Checker<'_> {
    fn say(&self, text: &str) {
        (self.tell)(text);
    }

    /// Does something while no other command reads or writes images.
    fn alone<T>(
        &mut self,
        what_follows: &str,
        work: impl FnOnce(&mut Self, &Lock) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.kept = None;
        let tell = Arc::clone(&self.tell);
        let exclusive =
            self.store.exclusive(|_| tell(&format!("waiting for other commands to finish before {what_follows}")))?;
        let done = work(self, &exclusive);
        drop(exclusive);
        // After an error as well: some are only told, and the check goes on.
        self.kept = Some(self.store.shared()?);
        done
    }

    /// Whether images can be looked up.
    fn index(&mut self) -> Result<bool, EngineError> {
        if self.store.index_damage()?.is_none() {
            return Ok(true);
        }
        self.alone("the list of images is looked at", |checker, _| checker.damaged_index())
    }

    /// Whether images can be looked up after all; nobody changes anything meanwhile, like a pull that just writes the list.
    fn damaged_index(&mut self) -> Result<bool, EngineError> {
        let Some(damage) = self.store.index_damage()? else { return Ok(true) };
        let finding = |state, what: String| Finding::new(FindingKind::Index, "index.json", state, what);
        if !self.request.repair {
            self.findings.add(
                finding(FindingState::Damaged, damage)
                    .hint("`dockless check --repair` makes it anew from what is in the store"),
            );
            return Ok(false);
        }
        let names = self.store.rebuild_index()?;
        let what = match names.len() {
            0 => format!("{damage}; made anew, without any image"),
            _ => format!("{damage}; made anew with {}", names.join(", ")),
        };
        let hint = "names come from records of runs; `dockless pull` gives an image its name again, and the damaged list is kept as `index.json.damaged`";
        self.findings.add(finding(FindingState::Repaired, what).hint(hint));
        Ok(true)
    }

    fn images(&mut self) -> Result<(), EngineError> {
        let images = if self.request.images.is_empty() {
            self.store.images()?
        } else {
            let named = self.request.images.iter().map(|name| self.store.find(name));
            named.collect::<Result<Vec<StoredImage>, _>>()?
        };
        for image in &images {
            self.image(image)?;
        }
        if self.request.images.is_empty() {
            self.rest()?;
        }
        Ok(())
    }

    /// What belongs to no image.
    fn rest(&mut self) -> Result<(), EngineError> {
        for entry in self.store.strange_entries()? {
            self.findings.add(
                Finding::new(FindingKind::Index, "index.json", FindingState::Notice, entry)
                    .hint("it is passed over; other tools may know what it is"),
            );
        }
        for (run, error) in self.store.damaged_runs()? {
            let finding = Finding::new(FindingKind::Run, &run, FindingState::Damaged, describe(&error));
            self.findings.add(finding.hint(&format!("`dockless rm {run}` removes the run")));
        }
        // What a document that cannot be read needs is not known to be needed by nobody.
        if !self.has_unknown {
            self.loose()?;
        }
        Ok(())
    }

    fn loose(&mut self) -> Result<(), EngineError> {
        let loose = self.store.loose()?;
        let unneeded = |kind, digest: &Digest, whose: &str| {
            Finding::new(kind, &digest.to_string(), FindingState::Notice, format!("belongs to no {whose}"))
                .hint("it goes when the next image is removed, unless a pull that is going on needs it")
        };
        for blob in &loose.blobs {
            self.findings.add(unneeded(FindingKind::Blob, blob, "image"));
        }
        for layer in &loose.layers {
            self.findings.add(unneeded(FindingKind::Layer, layer, "image and no run"));
        }
        for path in loose.foreign {
            let finding = Finding::new(
                FindingKind::Stray,
                &path.to_string_lossy(),
                FindingState::Notice,
                "was not put there by dockless".to_owned(),
            );
            self.findings.add(finding.hint("remove it if it is not needed"));
        }
        Ok(())
    }
}
