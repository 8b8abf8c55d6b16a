//! Removing what is kept of runs that have ended, and saving what could not be saved when they did.
//!
//! Nothing is removed that a live run has mounted; that is looked at under [`Store::change_inputs`], so that no run that is
//! just being set up is missed. A run goes with its artifacts, these first: what a crash leaves is a run that can be
//! removed again, never artifacts that nobody knows of.

mod images;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use self::images::{
    ImageFilter, ImagesToPrune, Insistence, LabelFilter, RemovedImages, images_to_prune, prune_images, remove_images,
};
use super::places::{directory, recorded};
use crate::artifact::{ArtifactError, ArtifactStore, Outcome, Owner, SaveRequest, Saved};
use crate::store::{ListedCache, RunDir, RunName, RunRecord, RunState, Store, StoreError, TagName, Used};
use crate::sys::{Lock, disk_usage};

/// Why something could not be removed or saved.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The store cannot be read or written, or the run is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts cannot be removed or saved.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// All that the run wrote is in the artifact store.
    #[error("run `{run}` has nothing unsaved\nhint: `dockless artifacts ls {run}` shows what it has saved")]
    NothingUnsaved {
        /// The run.
        run: RunName,
    },
}

/// Something that can be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<T> {
    /// What.
    pub item: T,
    /// Bytes that it takes on disk.
    pub bytes: u64,
}

/// Why an ended run is not pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A tag points to it.
    Tag(TagName),
    /// A live run has its artifacts mounted.
    UsedBy(RunName),
    /// It holds artifacts that could not be saved.
    Unsaved,
    /// Its record cannot be read.
    Damaged,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "tag `{tag}` points to it"),
            Self::UsedBy(run) => write!(f, "run `{run}` uses its artifacts"),
            Self::Unsaved => f.write_str("it holds artifacts that are not saved yet"),
            Self::Damaged => f.write_str("its record cannot be read"),
        }
    }
}

/// What pruning would do to the runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunsToPrune {
    /// Would go.
    pub remove: Vec<Candidate<RunName>>,
    /// Would stay although they have ended long enough ago.
    pub keep: Vec<(RunName, Kept)>,
}

/// Removes an ended run with its artifacts; the bytes that they took.
///
/// # Errors
/// [`StoreError::RunActive`] while it lives, [`StoreError::RunInUse`] while a live run has its artifacts mounted.
pub fn remove_run(store: &Store, run: &RunDir, on_wait: impl FnMut(Option<u32>)) -> Result<u64, RemovalError> {
    let inputs = store.change_inputs(on_wait)?;
    remove_unused(store, run, &inputs)
}

/// Removes what a run has saved; the bytes that it took. The run itself stays.
///
/// # Errors
/// As [`remove_run`], and [`ArtifactError::NoArtifacts`] when there are none.
pub fn remove_artifacts(store: &Store, run: &RunName, on_wait: impl FnMut(Option<u32>)) -> Result<u64, RemovalError> {
    let _inputs = store.change_inputs(on_wait)?;
    let dir = RunDir::at(store.root().join("runs").join(run.as_str()));
    let removed = while_locked(store, &dir, run, || {
        check_unused(run, &store.used()?)?;
        let bytes = usage_of_artifacts(store, run);
        Ok(artifacts_of(store, run).remove(run)?.then_some(bytes))
    })?;
    removed.ok_or_else(|| ArtifactError::NoArtifacts { run: run.clone() }.into())
}

/// Saves what could not be saved when the run ended, and removes what the run needs no more.
///
/// # Errors
/// [`RemovalError::NothingUnsaved`]; whatever kept it from being saved the first time.
pub fn save_again(store: &Store, run: &RunDir, owner: Option<Owner>, now: Timestamp) -> Result<Saved, RemovalError> {
    let record = run.record()?;
    while_locked(store, run, &record.name, || {
        if !run.has_unsaved_artifacts() {
            return Err(RemovalError::NothingUnsaved { run: record.name.clone() });
        }
        let artifacts = artifacts_of(store, &record.name);
        let prepared = artifacts.prepared(&record.name, run.path())?;
        let saved = artifacts.save(&SaveRequest {
            run: &record.name,
            run_dir: run.path(),
            prepared: &prepared,
            outcome: outcome(&record),
            owner,
            saved_at: now,
        })?;
        run.tidy(record.keep)?;
        Ok(saved)
    })
}

/// The directory that a run's artifacts are in; for those in a bucket, the one where they were fetched to.
fn artifacts_of(store: &Store, run: &RunName) -> ArtifactStore {
    let record = store.run(run.as_str()).and_then(|run| run.record());
    let url = record.ok().and_then(|record| recorded(&record));
    directory(store, url.as_ref()).unwrap_or_else(|| ArtifactStore::new(store.artifacts()))
}

/// What the record says of how the run ended, as far as its artifacts are concerned.
pub(super) fn outcome(record: &RunRecord) -> Outcome {
    match record.state {
        RunState::Done => Outcome::Done,
        RunState::Failed => Outcome::Failed,
        _ => Outcome::Interrupted,
    }
}

/// The runs that ended before `before` (all, when that is not given), and which of them may go.
pub fn runs_to_prune(store: &Store, before: Option<Timestamp>) -> Result<RunsToPrune, RemovalError> {
    // What is on its way out already; another process may be at it.
    drop(ArtifactStore::new(store.artifacts()).sweep());
    let (tagged, used) = (tagged(store)?, store.used()?);
    let mut found = RunsToPrune::default();
    for run in store.runs()? {
        let Ok(name) = run.name() else { continue };
        match why_kept(&run, &name, before, &tagged, &used) {
            Verdict::Remove => {
                let bytes = disk_usage(run.path()).unwrap_or(0) + usage_of_artifacts(store, &name);
                found.remove.push(Candidate { item: name, bytes });
            }
            Verdict::Keep(why) => found.keep.push((name, why)),
            Verdict::Pass => {}
        }
    }
    Ok(found)
}

/// Removes a run if it may still go; the bytes that it took, `None` when it may not.
pub fn prune_run(store: &Store, name: &RunName, before: Option<Timestamp>) -> Result<Option<u64>, RemovalError> {
    let inputs = store.change_inputs(|_| {})?;
    // A tag that is set now either saves the run or finds it gone.
    let _tags = store.tags().hold()?;
    let Ok(run) = store.run(name.as_str()) else { return Ok(None) };
    if !matches!(why_kept(&run, name, before, &tagged(store)?, &store.used()?), Verdict::Remove) {
        return Ok(None);
    }
    remove_unused(store, &run, &inputs).map(Some)
}

/// The caches that were last used before `before` (all, when that is not given) and are not used by a live run.
pub fn caches_to_prune(store: &Store, before: Option<Timestamp>) -> Result<Vec<Candidate<ListedCache>>, RemovalError> {
    let used = store.used()?;
    let mut found = store.caches().list()?;
    found.retain(|cache| before.is_none_or(|before| cache.used < before) && !used.caches.contains(&cache.key));
    let candidate =
        |cache: ListedCache| Candidate { bytes: store.caches().disk_usage(&cache.key).unwrap_or(0), item: cache };
    Ok(found.into_iter().map(candidate).collect())
}

/// Removes a cache if it may still go; the bytes that it took, `None` when it may not.
pub fn prune_cache(store: &Store, key: &str, before: Option<Timestamp>) -> Result<Option<u64>, RemovalError> {
    let _inputs = store.change_inputs(|_| {})?;
    let used = store.used()?;
    let found = store.caches().list()?.into_iter().find(|cache| cache.key == key);
    let may_go = |cache: &ListedCache| before.is_none_or(|before| cache.used < before) && !used.caches.contains(key);
    if found.is_some_and(|cache| may_go(&cache)) { Ok(Some(store.remove_cache(key)?)) } else { Ok(None) }
}

enum Verdict {
    Remove,
    Keep(Kept),
    /// It lives, or ended too late.
    Pass,
}

fn why_kept(
    run: &RunDir,
    name: &RunName,
    before: Option<Timestamp>,
    tagged: &BTreeMap<RunName, TagName>,
    used: &Used,
) -> Verdict {
    let Ok(record) = run.record() else {
        // Without a record it is just being made, or just being removed.
        return if run.lacks_record() { Verdict::Pass } else { Verdict::Keep(Kept::Damaged) };
    };
    let ended = record.finished.as_ref().unwrap_or(&record.created).parse::<Timestamp>();
    let late = before.is_some_and(|before| ended.is_ok_and(|ended| ended >= before));
    if !record.state.is_final() || run.is_live() || late {
        return Verdict::Pass;
    }
    if let Some(tag) = tagged.get(name) {
        Verdict::Keep(Kept::Tag(tag.clone()))
    } else if let Some(by) = used.runs.get(name) {
        Verdict::Keep(Kept::UsedBy(by.clone()))
    } else if run.has_unsaved_artifacts() {
        Verdict::Keep(Kept::Unsaved)
    } else {
        Verdict::Remove
    }
}

/// The runs that tags point to. A damaged tag may be anybody's, so that it stops the pruning.
fn tagged(store: &Store) -> Result<BTreeMap<RunName, TagName>, StoreError> {
    let tags = store.tags().list()?;
    tags.into_iter().map(|(name, tag)| tag.map(|tag| (tag.run, name))).collect()
}

/// The caller has the right to change inputs.
fn remove_unused(store: &Store, run: &RunDir, _inputs: &Lock) -> Result<u64, RemovalError> {
    let name = run.name().map_err(|_| StoreError::NoRun { name: run.path().display().to_string() })?;
    while_locked(store, run, &name, || {
        check_unused(&name, &store.used()?)?;
        let bytes = usage_of_artifacts(store, &name);
        artifacts_of(store, &name).remove(&name)?;
        Ok(bytes + store.remove_run(run)?)
    })
}

/// Holds the lock of an ended run meanwhile, so that nobody takes its name or does the same. Its mark of being unfinished,
/// which the lock is, goes again unless it was there before.
fn while_locked<T>(
    store: &Store,
    run: &RunDir,
    name: &RunName,
    act: impl FnOnce() -> Result<T, RemovalError>,
) -> Result<T, RemovalError> {
    let was_unfinished = store.unfinished_runs()?.iter().any(|unfinished| unfinished.path() == run.path());
    let lock = run.try_lock()?.ok_or_else(|| StoreError::RunActive { name: name.to_string() })?;
    let done = act();
    if !was_unfinished {
        run.finish()?;
    }
    drop(lock);
    done
}

fn check_unused(run: &RunName, used: &Used) -> Result<(), StoreError> {
    match used.runs.get(run) {
        Some(by) => Err(StoreError::RunInUse { name: run.to_string(), by: by.to_string() }),
        None => Ok(()),
    }
}

fn usage_of_artifacts(store: &Store, run: &RunName) -> u64 {
    disk_usage(&artifacts_of(store, run).directory().join(run.as_str())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::artifact::Declared;
    use crate::store::Reservation;
    use crate::store::testing::{ended_run, record};

    const NOW: &str = "2024-05-02T12:00:00Z";

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// An ended run that wrote an artifact, which is not saved.
    fn unsaved(store: &Store, name: &str, state: RunState) -> RunName {
        let name = ended_run(store, name, |record| record.state = state);
        let run = store.run(name.as_str()).unwrap();
        let declared = Declared::new("out".parse().unwrap(), false, Path::new("/workflow"), None).unwrap();
        let prepared = ArtifactStore::new(store.artifacts()).prepare(&name, run.path(), &[declared]).unwrap();
        fs::write(prepared[0].host_dir.join("file"), vec![1; 100_000]).unwrap();
        name
    }

    /// A live run that has the artifacts of `deps` and a cache mounted.
    fn live(store: &Store, deps: &[&RunName], cache: &str) -> Reservation {
        let live = store.create_run(&"live".parse().unwrap()).unwrap();
        let mut running = record("live");
        running.state = RunState::Running;
        running.deps = deps.iter().map(|&dep| dep.clone()).collect();
        running.caches = vec![cache.to_owned()];
        live.dir().write_record(&running).unwrap();
        live
    }

    #[track_caller]
    fn assert_tidy(store: &Store) {
        for name in ["active", "tmp"] {
            let left: Vec<_> = fs::read_dir(store.root().join(name)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[test]
    fn what_was_not_saved_is_saved_later() {
        let (_dir, store) = store();
        for (name, state, outcome) in
            [("good", RunState::Done, Outcome::Done), ("bad", RunState::Failed, Outcome::Failed)]
        {
            let name = unsaved(&store, name, state);
            let run = store.run(name.as_str()).unwrap();
            assert_eq!(save_again(&store, &run, None, time(NOW)).unwrap().files, 1);
            let artifacts = ArtifactStore::new(store.artifacts());
            assert_eq!(artifacts.manifest(&name).unwrap().outcome, Some(outcome));
            assert_eq!(artifacts.list(&name).unwrap().files.len(), 1);
            let again = save_again(&store, &run, None, time(NOW)).unwrap_err();
            assert!(matches!(again, RemovalError::NothingUnsaved { .. }), "{again}");
            assert!(remove_artifacts(&store, &name, |_| {}).unwrap() >= 100_000);
            let none = remove_artifacts(&store, &name, |_| {}).unwrap_err();
            assert!(matches!(none, RemovalError::Artifact(ArtifactError::NoArtifacts { .. })), "{none}");
            assert!(run.record().is_ok(), "the run stays");
        }
        assert_tidy(&store);
    }

    #[test]
    fn what_a_live_run_uses_stays() {
        let (_dir, store) = store();
        let dep = unsaved(&store, "dep", RunState::Done);
        let run = store.run("dep").unwrap();
        save_again(&store, &run, None, time(NOW)).unwrap();
        let cache = store.caches().open("/p", "w", Path::new("/c"), NOW).unwrap();
        let using = live(&store, &[&dep], &cache.key);
        for error in
            [remove_run(&store, &run, |_| {}).unwrap_err(), remove_artifacts(&store, &dep, |_| {}).unwrap_err()]
        {
            assert!(error.to_string().contains("run `dep` is used by run `live`"), "{error}");
        }
        let plan = runs_to_prune(&store, None).unwrap();
        assert_eq!((plan.remove, plan.keep), (vec![], vec![(dep.clone(), Kept::UsedBy("live".parse().unwrap()))]));
        assert_eq!(prune_run(&store, &dep, None).unwrap(), None);
        assert_eq!(prune_cache(&store, &cache.key, None).unwrap(), None);
        assert!(caches_to_prune(&store, None).unwrap().is_empty());
        let active = remove_run(&store, using.dir(), |_| {}).unwrap_err();
        assert!(active.to_string().contains("still running"), "{active}");
        drop(using);
        assert!(remove_run(&store, &run, |_| {}).unwrap() >= 100_000);
        assert!(prune_cache(&store, &cache.key, None).unwrap().is_some());
        assert!(ArtifactStore::new(store.artifacts()).runs().unwrap().is_empty());
        assert_tidy(&store);
    }

    #[test]
    fn only_runs_that_nobody_misses_are_pruned() {
        let (_dir, store) = store();
        let old = ended_run(&store, "old", |record| record.finished = Some("2024-04-01T00:00:00Z".into()));
        let young = ended_run(&store, "young", |_| {});
        let best = ended_run(&store, "best-run", |_| {});
        store.tags().set(&"best".parse().unwrap(), &best, NOW).unwrap();
        let unsaved = unsaved(&store, "unsaved", RunState::Failed);
        let damaged = ended_run(&store, "damaged", |_| {});
        fs::write(store.run("damaged").unwrap().path().join("run.json"), "{").unwrap();

        let names = |plan: &RunsToPrune| plan.remove.iter().map(|it| it.item.clone()).collect::<Vec<_>>();
        let before = Some(time("2024-04-20T00:00:00Z"));
        assert_eq!(names(&runs_to_prune(&store, before).unwrap()), std::slice::from_ref(&old));
        let all = runs_to_prune(&store, None).unwrap();
        assert_eq!(names(&all), [old.clone(), young.clone()]);
        assert!(all.remove.iter().all(|run| run.bytes > 0));
        assert_eq!(
            all.keep,
            [(best.clone(), Kept::Tag("best".parse().unwrap())), (damaged, Kept::Damaged), (unsaved, Kept::Unsaved)]
        );
        assert!(prune_run(&store, &old, before).unwrap().is_some());
        assert_eq!(prune_run(&store, &old, before).unwrap(), None, "it is gone");
        assert_eq!(prune_run(&store, &young, before).unwrap(), None, "it is too young");
        assert_eq!(prune_run(&store, &best, None).unwrap(), None, "it has a tag");
        fs::write(store.root().join("tags/x.json"), "{").unwrap();
        assert!(runs_to_prune(&store, None).unwrap_err().to_string().contains("tags/x.json` is damaged"));
        assert!(prune_run(&store, &young, None).is_err(), "the damaged tag may be its own");
        assert!(store.run("young").is_ok());
        assert_tidy(&store);
    }

    #[test]
    fn caches_are_pruned_by_their_last_use() {
        let (_dir, store) = store();
        let open = |path: &str, now: &str| store.caches().open("/p", "w", Path::new(path), now).unwrap();
        let (old, new) = (open("/old", "2024-04-01T00:00:00Z"), open("/new", NOW));
        fs::write(old.host_dir.join("file"), vec![1; 100_000]).unwrap();
        let before = Some(time("2024-05-01T00:00:00Z"));
        let plan = caches_to_prune(&store, before).unwrap();
        assert_eq!(plan.len(), 1);
        assert!(plan[0].item.key == old.key && plan[0].bytes >= 100_000);
        assert_eq!(prune_cache(&store, &new.key, before).unwrap(), None);
        assert!(prune_cache(&store, &old.key, before).unwrap() >= Some(100_000));
        assert_eq!(prune_cache(&store, &old.key, before).unwrap(), None);
        assert!(!old.host_dir.exists() && new.host_dir.exists());
    }
}
