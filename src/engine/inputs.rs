//! What a run gets from earlier ones: the artifacts of its deps, read-only where they were written, and its caches.
//!
//! [`resolve`] finds them and keeps them from being removed until the run has a record that names them; after that
//! [`Store::used`](crate::store::Store::used) tells.

use std::fs;
use std::path::{Path, PathBuf};

use crate::artifact::{ArtifactError, ArtifactStore, Prepared};
use crate::rootfs::{RootfsError, View};
use crate::spec::{MountSetting, SpecError};
use crate::store::{Cache, RunDir, RunName, RunRecord, RunState, Store, StoreError};
use crate::sys::Lock;

/// Whose artifacts a run wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DepRequest {
    /// Those of the latest run of a workflow of the same project that ended with 0.
    Workflow(String),
    /// Those of the run that has a tag.
    Tag(String),
}

impl std::fmt::Display for DepRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workflow(name) => write!(f, "workflow `{name}`"),
            Self::Tag(name) => write!(f, "tag `{name}`"),
        }
    }
}

/// What a run wants of earlier ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct InputRequest<'a> {
    /// The project directory, as records have it.
    pub project: &'a str,
    /// The workflow that is to run.
    pub workflow: &'a str,
    /// Whose artifacts.
    pub deps: &'a [DepRequest],
    /// The cached directories, absolute paths in the container.
    pub caches: &'a [PathBuf],
    /// Its own artifacts, absolute paths in the container, which nothing else may cover.
    pub artifacts: &'a [PathBuf],
    /// The working directory and the project's place in the container, which nothing may hide.
    pub visible: &'a [&'a Path],
    /// The time now (RFC 3339, UTC).
    pub now: &'a str,
}

/// One directory that an earlier run saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepMount {
    /// The run that saved it.
    pub run: RunName,
    /// Who asked for it.
    pub request: DepRequest,
    /// Where it is on the host.
    pub host_dir: PathBuf,
    /// Where it was written, and is to be seen again.
    pub container_path: PathBuf,
}

/// What a run gets. Its runs and caches stay while this is held; afterwards as long as the record of a live run names them.
#[derive(Debug)]
pub struct Inputs {
    /// To be mounted read-only.
    pub deps: Vec<DepMount>,
    /// To be mounted read-write.
    pub caches: Vec<Cache>,
    _kept: Lock,
}

/// A dep or a cache on its way into the container.
#[derive(Debug, Clone)]
pub struct InputMount {
    /// What it is, for people.
    pub what: String,
    /// Where it goes.
    pub container_path: PathBuf,
    /// The mount.
    pub setting: MountSetting,
}

/// Why a run cannot have what it wants of earlier ones.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no run of the workflow.
    #[error("dep {request}: it has never run in this project\nhint: run it first: `dockless workflow run {workflow}`")]
    NeverRan {
        /// The dep.
        request: DepRequest,
        /// The workflow.
        workflow: String,
    },
    /// There are runs, and all of them failed.
    #[error(
        "dep {request}: no run of it has finished well, the last one, `{run}`, is {state}{}\nhint: look at `dockless logs {run}`, then run it again: `dockless workflow run {workflow}`",
        code.map_or_else(String::new, |code| format!(" with exit code {code}"))
    )]
    NeverDone {
        /// The dep.
        request: DepRequest,
        /// The workflow.
        workflow: String,
        /// The last run.
        run: RunName,
        /// How it ended.
        state: RunState,
        /// Its exit code, when it has one.
        code: Option<i32>,
    },
    /// The run goes on.
    #[error("dep {request}: its run `{run}` is still {state}\nhint: wait for it to end")]
    StillRunning {
        /// The dep.
        request: DepRequest,
        /// The run.
        run: RunName,
        /// How it stands.
        state: RunState,
    },
    /// The artifacts could not be saved when the run ended.
    #[error("dep {request}: the artifacts of its run `{run}` are not saved yet\nhint: `dockless artifacts save {run}`")]
    Unsaved {
        /// The dep.
        request: DepRequest,
        /// The run.
        run: RunName,
    },
    /// The run declared no artifacts, or they were removed.
    #[error(
        "dep {request}: its run `{run}` has no artifacts, either it declared none or they were removed\nhint: run it again, or name another run with `tag`"
    )]
    NoArtifacts {
        /// The dep.
        request: DepRequest,
        /// The run.
        run: RunName,
    },
    /// The run declared artifacts and wrote nothing into them.
    #[error(
        "dep {request}: its run `{run}` saved nothing, no file was written to {paths}\nhint: make it write there, and run it again"
    )]
    NothingSaved {
        /// The dep.
        request: DepRequest,
        /// The run.
        run: RunName,
        /// The declared paths.
        paths: String,
    },
    /// Two things that would be mounted at one place, or one in the other.
    #[error("{first} and {second} are one directory in the container, or one is in the other\nhint: give each its own")]
    Collision {
        /// What, with its path.
        first: String,
        /// What, with its path.
        second: String,
    },
    /// A mount that would hide what the run needs to see.
    #[error("{what} holds `{hidden}`, which it would hide\nhint: name a directory in it")]
    Hides {
        /// What, with its path.
        what: String,
        /// What would be hidden.
        hidden: PathBuf,
    },
    /// The store cannot be read or written, or there is no such tag.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts cannot be read.
    #[error("dep {request}: cannot have the artifacts of run `{run}`")]
    Artifacts {
        /// The dep.
        request: DepRequest,
        /// The run.
        run: RunName,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Brings artifacts that are kept elsewhere to this machine: directories that stay at least until the run has ended.
///
/// Called for a run whose record names an `artifact_store`; gives what [`ArtifactStore::saved`] gives of a local one.
pub type Fetch<'a> = dyn FnMut(&RunRecord) -> Result<Vec<Prepared>, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// The records of the runs that deps mean, for whoever has to bring their artifacts here first.
pub fn records(store: &Store, project: &str, deps: &[DepRequest]) -> Result<Vec<RunRecord>, InputError> {
    let find = |dep: &DepRequest| match dep {
        DepRequest::Workflow(name) => latest_done(store, project, name),
        DepRequest::Tag(name) => tagged(store, name),
    };
    deps.iter().map(|dep| find(dep).map(|(_, record)| record)).collect()
}

/// Finds deps and caches, and makes the caches that are new.
pub fn resolve(store: &Store, request: &InputRequest<'_>, fetch: &mut Fetch<'_>) -> Result<Inputs, InputError> {
    let kept = store.keep_inputs()?;
    let mut deps = Vec::new();
    for dep in request.deps {
        let (run, record) = match dep {
            DepRequest::Workflow(name) => latest_done(store, request.project, name)?,
            DepRequest::Tag(name) => tagged(store, name)?,
        };
        for mount in artifacts(store, dep, &run, &record, fetch)? {
            // Two deps may well be one run.
            if !deps.contains(&mount) {
                deps.push(mount);
            }
        }
    }
    check_places(request, &deps)?;
    let open = |path: &PathBuf| store.caches().open(request.project, request.workflow, path, request.now);
    let caches = request.caches.iter().map(open).collect::<Result<_, _>>()?;
    Ok(Inputs { deps, caches, _kept: kept })
}

impl Inputs {
    /// The mounts.
    pub fn mounts(&self) -> Result<Vec<InputMount>, SpecError> {
        let deps = self.deps.iter().map(|dep| {
            let DepMount { run, request, host_dir, container_path } = dep;
            let setting = MountSetting::bind_read_only("dep", host_dir, container_path)?.of_run();
            let what = format!("an artifact of run `{run}` (dep {request})");
            Ok(InputMount { what, container_path: container_path.clone(), setting })
        });
        let caches = self.caches.iter().map(|cache| {
            let setting = MountSetting::bind("cache", &cache.host_dir, &cache.container_path)?.of_run();
            let what = format!("the cache `{}`", cache.container_path.display());
            Ok(InputMount { what, container_path: cache.container_path.clone(), setting })
        });
        deps.chain(caches).collect()
    }

    /// The runs whose artifacts are mounted, for the record.
    #[must_use]
    pub fn runs(&self) -> Vec<RunName> {
        let mut runs: Vec<RunName> = self.deps.iter().map(|dep| dep.run.clone()).collect();
        runs.sort();
        runs.dedup();
        runs
    }

    /// The keys of the caches, for the record.
    #[must_use]
    pub fn cache_keys(&self) -> Vec<String> {
        self.caches.iter().map(|cache| cache.key.clone()).collect()
    }
}

fn latest_done(store: &Store, project: &str, workflow: &str) -> Result<(RunDir, RunRecord), InputError> {
    let (mut last, mut done) = (None, None);
    for run in store.runs()? {
        // A damaged record, or one that is just being made, is nobody's dep.
        let Ok(record) = run.record() else { continue };
        if record.workflow.as_deref() != Some(workflow) || record.project.as_deref() != Some(project) {
            continue;
        }
        let newest = if record.state == RunState::Done { &mut done } else { &mut last };
        if newest.as_ref().is_none_or(|(_, newest): &(RunDir, RunRecord)| newest.created <= record.created) {
            *newest = Some((run, record));
        }
    }
    let request = DepRequest::Workflow(workflow.to_owned());
    match (done, last) {
        (Some(found), _) => Ok(found),
        (None, None) => Err(InputError::NeverRan { request, workflow: workflow.to_owned() }),
        (None, Some((_, RunRecord { name: run, state, .. }))) if !state.is_final() => {
            Err(InputError::StillRunning { request, run, state })
        }
        (None, Some((_, RunRecord { name: run, state, exit, .. }))) => {
            let code = exit.map(|exit| exit.code);
            Err(InputError::NeverDone { request, workflow: workflow.to_owned(), run, state, code })
        }
    }
}

/// However the run ended: whoever gave it the tag knew.
fn tagged(store: &Store, tag: &str) -> Result<(RunDir, RunRecord), InputError> {
    let run = store.find_run(&format!(":{tag}"))?;
    let record = run.record()?;
    if record.state.is_final() {
        return Ok((run, record));
    }
    Err(InputError::StillRunning { request: DepRequest::Tag(tag.to_owned()), run: record.name, state: record.state })
}

/// What a run saved, where it is on this machine.
fn artifacts(
    store: &Store,
    request: &DepRequest,
    run: &RunDir,
    record: &RunRecord,
    fetch: &mut Fetch<'_>,
) -> Result<Vec<DepMount>, InputError> {
    let (name, request) = (record.name.clone(), request.clone());
    if run.has_unsaved_artifacts() {
        return Err(InputError::Unsaved { request, run: name });
    }
    let local = ArtifactStore::new(store.artifacts());
    let manifest = match local.manifest(&name) {
        Err(ArtifactError::NoArtifacts { .. }) if record.artifact_store.is_none() => None,
        // The manifest of what is kept elsewhere need not be here.
        Err(_) if record.artifact_store.is_some() => None,
        manifest => Some(manifest.map_err(|source| failed(&request, &name, source))?),
    };
    if let Some(manifest) = &manifest
        && manifest.artifacts.iter().all(|artifact| artifact.files == 0)
    {
        let paths: Vec<String> = manifest.artifacts.iter().map(|artifact| format!("`{}`", artifact.path)).collect();
        return Err(InputError::NothingSaved { request, run: name, paths: paths.join(", ") });
    }
    let saved = match record.artifact_store {
        Some(_) => fetch(record).map_err(|source| InputError::Artifacts {
            request: request.clone(),
            run: name.clone(),
            source,
        })?,
        None if manifest.is_none() => Vec::new(),
        None => local.saved(&name).map_err(|source| failed(&request, &name, source))?,
    };
    if saved.is_empty() {
        return Err(InputError::NoArtifacts { request, run: name });
    }
    let mount = |artifact: Prepared| DepMount {
        run: name.clone(),
        request: request.clone(),
        host_dir: artifact.host_dir,
        container_path: artifact.declared.container_path,
    };
    Ok(saved.into_iter().map(mount).collect())
}

fn failed(request: &DepRequest, run: &RunName, source: ArtifactError) -> InputError {
    InputError::Artifacts { request: request.clone(), run: run.clone(), source: Box::new(source) }
}

/// Each thing that is mounted has a place of its own, and what the run has to see stays visible.
fn check_places(request: &InputRequest<'_>, deps: &[DepMount]) -> Result<(), InputError> {
    let own = |what: &str, path: &PathBuf| (path.clone(), format!("{what} `{}`", path.display()));
    let mut places: Vec<(PathBuf, String)> = request.artifacts.iter().map(|path| own("artifact", path)).collect();
    places.extend(request.caches.iter().map(|path| own("cache", path)));
    places.extend(deps.iter().map(|dep| {
        let DepMount { run, request, container_path, .. } = dep;
        (container_path.clone(), format!("`{}` of run `{run}` (dep {request})", container_path.display()))
    }));
    for (path, what) in &places {
        if let Some(hidden) = request.visible.iter().find(|visible| visible.starts_with(path)) {
            return Err(InputError::Hides { what: what.clone(), hidden: hidden.to_path_buf() });
        }
    }
    // Sorted by components, whatever a path holds follows it directly.
    places.sort_by(|a, b| a.0.cmp(&b.0));
    match places.windows(2).find(|pair| pair[1].0.starts_with(&pair[0].0)) {
        Some(pair) => Err(InputError::Collision { first: pair[0].1.clone(), second: pair[1].1.clone() }),
        None => Ok(()),
    }
}

/// A word about what a mount hides: a directory of the project or of the image that is not empty.
///
/// `what` names the mount, e.g. "artifact `output`"; `project` is the project directory and its place in the container.
pub fn hidden(
    view: &View,
    project: Option<(&Path, &Path)>,
    what: &str,
    container_path: &Path,
) -> Result<Option<String>, RootfsError> {
    let in_project = project.and_then(|(host, place)| Some(host.join(container_path.strip_prefix(place).ok()?)));
    let (whose, is_filled) = match in_project {
        // What cannot be listed has nothing that anybody would miss.
        Some(path) => ("project", fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())),
        None => ("image", view.is_filled_dir(&container_path.to_string_lossy())?),
    };
    let path = container_path.display();
    Ok(is_filled.then(|| format!("{what} hides `{path}` of the {whose}, which is not empty: the run does not see it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Declared, Outcome, SaveRequest};
    use crate::store::testing::{ended_run, exit, record};
    use crate::words::describe;

    const NOW: &str = "2024-05-02T12:00:00Z";

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    /// An ended run of workflow `w` in `/p` that has written `file` into `path`.
    fn saved(
        store: &Store,
        name: &str,
        path: &str,
        file: Option<&str>,
        change: impl FnOnce(&mut RunRecord),
    ) -> RunName {
        let name = ended_run(store, name, |record| {
            record.workflow = Some("w".to_owned());
            record.project = Some("/p".to_owned());
            change(record);
        });
        let run = store.run(name.as_str()).unwrap();
        let declared = Declared::new(path.parse().unwrap(), false, Path::new("/workflow"), None).unwrap();
        let artifacts = ArtifactStore::new(store.artifacts());
        let prepared = artifacts.prepare(&name, run.path(), &[declared]).unwrap();
        if let Some(file) = file {
            fs::write(prepared[0].host_dir.join(file), "x").unwrap();
        }
        let request = SaveRequest {
            run: &name,
            run_dir: run.path(),
            prepared: &prepared,
            outcome: Outcome::Done,
            owner: None,
            saved_at: NOW.parse().unwrap(),
        };
        artifacts.save(&request).unwrap();
        name
    }

    fn request(deps: &[DepRequest]) -> InputRequest<'_> {
        InputRequest { project: "/p", workflow: "eval", deps, now: NOW, ..InputRequest::default() }
    }

    fn resolved(store: &Store, request: &InputRequest<'_>) -> Result<Inputs, InputError> {
        resolve(store, request, &mut |_| panic!("nothing is kept elsewhere"))
    }

    fn workflow() -> [DepRequest; 1] {
        [DepRequest::Workflow("w".to_owned())]
    }

    #[track_caller]
    fn refused(store: &Store, deps: &[DepRequest], words: &[&str]) {
        let error = describe(&resolved(store, &request(deps)).unwrap_err());
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }

    #[test]
    fn the_latest_good_run_of_the_same_project() {
        let (_dir, store) = store();
        saved(&store, "old", "out", Some("old"), |record| record.created = "2024-05-01T10:00:00Z".into());
        saved(&store, "new", "out", Some("new"), |_| {});
        saved(&store, "failed", "out", Some("failed"), |record| {
            record.created = "2024-05-03T10:00:00Z".into();
            record.state = RunState::Failed;
        });
        for (name, project) in [("elsewhere", "/other"), ("nowhere", "")] {
            saved(&store, name, "out", Some("x"), |record| {
                record.created = "2024-06-01T10:00:00Z".into();
                record.project = Some(project.to_owned()).filter(|project| !project.is_empty());
            });
        }
        let inputs = resolved(&store, &request(&workflow())).unwrap();
        assert_eq!(inputs.runs(), ["new".parse().unwrap()]);
        let [mount] = &inputs.deps[..] else { panic!("{inputs:?}") };
        assert_eq!(mount.container_path, Path::new("/workflow/out"));
        assert!(mount.host_dir.join("new").exists());
        let mounts = inputs.mounts().unwrap();
        assert!(
            matches!(&mounts[..], [InputMount { setting: MountSetting::Bind(bind), .. }] if bind.is_read_only()),
            "{mounts:?}"
        );
    }

    #[test]
    fn a_tag_names_any_ended_run() {
        let (_dir, store) = store();
        let name = saved(&store, "one", "/models", Some("m"), |record| {
            record.state = RunState::Failed;
            record.project = Some("/other".into());
        });
        store.tags().set(&"best".parse().unwrap(), &name, NOW).unwrap();
        let deps = [DepRequest::Tag("best".to_owned())];
        let inputs = resolved(&store, &request(&deps)).unwrap();
        assert_eq!(inputs.deps[0].container_path, Path::new("/models"));
        refused(&store, &[DepRequest::Tag("bset".into())], &["no tag `bset`", "did you mean `:best`?"]);
        store.run("one").unwrap().remove().unwrap();
        refused(&store, &deps, &["run `one`, which tag `best` names, is gone"]);
    }

    #[test]
    fn why_there_is_nothing_to_have() {
        let (_dir, store) = store();
        refused(
            &store,
            &workflow(),
            &["dep workflow `w`", "never run", "hint: run it first: `dockless workflow run w`"],
        );
        ended_run(&store, "bad", |record| {
            (record.workflow, record.project) = (Some("w".into()), Some("/p".into()));
            (record.state, record.exit) = (RunState::Failed, Some(exit(3)));
        });
        refused(&store, &workflow(), &["the last one, `bad`, is failed with exit code 3", "`dockless logs bad`"]);
        let live = store.create_run(&"live".parse().unwrap()).unwrap();
        let mut running = record("live");
        (running.workflow, running.project) = (Some("w".into()), Some("/p".into()));
        (running.state, running.created) = (RunState::Running, "2024-05-04T10:00:00Z".into());
        live.dir().write_record(&running).unwrap();
        refused(&store, &workflow(), &["its run `live` is still running"]);
        let name = saved(&store, "done", "out", None, |_| {});
        refused(&store, &workflow(), &["its run `done` saved nothing, no file was written to `out`"]);
        ArtifactStore::new(store.artifacts()).remove(&name).unwrap();
        refused(&store, &workflow(), &["its run `done` has no artifacts"]);
        fs::create_dir(store.run("done").unwrap().artifacts()).unwrap();
        refused(&store, &workflow(), &["not saved yet", "`dockless artifacts save done`"]);
    }

    #[test]
    fn each_has_a_place_of_its_own() {
        let (_dir, store) = store();
        saved(&store, "one", "out", Some("x"), |_| {});
        let deps = workflow();
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let visible = [Path::new("/workflow"), Path::new("/workflow/out/deep")];
        for (artifacts, caches, visible, words) in [
            (
                paths(&["/workflow/out"]),
                vec![],
                &[][..],
                Some("artifact `/workflow/out` and `/workflow/out` of run `one`"),
            ),
            (paths(&["/workflow/out/x"]), vec![], &[], Some("artifact `/workflow/out/x`")),
            (vec![], paths(&["/workflow"]), &[], Some("cache `/workflow` and")),
            (paths(&["/a/b"]), paths(&["/a"]), &[], Some("cache `/a` and artifact `/a/b`")),
            (vec![], vec![], &visible, Some("holds `/workflow/out/deep`, which it would hide")),
            (paths(&["/workflow/out2"]), paths(&["/c"]), &visible[..1], None),
        ] {
            let request = InputRequest { artifacts: &artifacts, caches: &caches, visible, ..request(&deps) };
            let result = resolved(&store, &request).map_err(|error| error.to_string());
            match words {
                Some(words) => {
                    assert!(result.as_ref().is_err_and(|error| error.contains(words)), "{words}: {result:?}");
                }
                None => assert!(result.is_ok(), "{result:?}"),
            }
        }
        // One run by two names is mounted once.
        let twice = [workflow(), workflow()].concat();
        assert_eq!(resolved(&store, &request(&twice)).unwrap().deps.len(), 1);
    }

    #[test]
    fn what_is_kept_elsewhere_is_fetched() {
        let (dir, store) = store();
        ended_run(&store, "far", |record| {
            (record.workflow, record.project) = (Some("w".into()), Some("/p".into()));
            record.artifact_store = Some("s3://bucket/prefix".into());
        });
        let declared = Declared::new("out".parse().unwrap(), false, Path::new("/workflow"), None).unwrap();
        let fetched = Prepared { declared, host_dir: dir.path().join("fetched") };
        let inputs = resolve(&store, &request(&workflow()), &mut |record| {
            assert_eq!(record.name.as_str(), "far");
            Ok(vec![fetched.clone()])
        });
        assert_eq!(inputs.unwrap().deps[0].host_dir, fetched.host_dir);
        let error = resolve(&store, &request(&workflow()), &mut |_| Err("no such bucket".into())).unwrap_err();
        assert!(describe(&error).ends_with("cannot have the artifacts of run `far`: no such bucket"), "{error}");
    }

    #[test]
    fn caches_are_shared_and_kept() {
        let (_dir, store) = store();
        let caches = [PathBuf::from("/root/.cache")];
        let request = InputRequest { caches: &caches, ..request(&[]) };
        let (one, two) = (resolved(&store, &request).unwrap(), resolved(&store, &request).unwrap());
        assert_eq!(one.cache_keys(), two.cache_keys());
        assert!(
            matches!(&one.mounts().unwrap()[..], [InputMount { setting: MountSetting::Bind(bind), .. }] if !bind.is_read_only())
        );
        let waited = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                drop(store.change_inputs(|_| waited.store(true, std::sync::atomic::Ordering::SeqCst)).unwrap());
            });
            while !waited.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop((one, two));
            remover.join().unwrap();
        });
    }
}
