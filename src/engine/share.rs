//! What a run wants of others: namespaces of runs that go on, and images to be mounted beside its own.

use std::sync::Arc;

use super::{Engine, EngineError, ImageRequest, ReadyImage, images};
use crate::image::Observer;
use crate::spec::{IpcMode, MountSetting, Network, Options, PidMode, Propagation, RunRef, Shared};
use crate::store::{MountedImage, RunDir, RunState, Store, StoreError};
use crate::supervisor::{Join, Linked, MountedPart, Surroundings};
use crate::sys::read_bounded;

/// How the record of a run says that others may join its IPC namespace.
pub(super) const SHAREABLE: &str = "shareable";
/// The most that is read of another run's file for looking names up.
const MAX_ETC_BYTES: u64 = 1 << 20;

/// Why another run's namespace cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It is not there.
    #[error("`{flag} container:{run}`")]
    NoRun {
        /// The flag.
        flag: &'static str,
        /// Whose.
        run: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// It has ended, or has not started.
    #[error("`{flag} container:{run}`: the run is {state}, expected one that is running")]
    NotRunning {
        /// The flag.
        flag: &'static str,
        /// Whose.
        run: String,
        /// How it stands.
        state: RunState,
    },
    /// It keeps its IPC namespace to itself.
    #[error(
        "`--ipc container:{0}`: the run keeps its IPC namespace to itself\nhint: start that run with `--ipc shareable`"
    )]
    NotShareable(String),
    /// A bundle is run by others, somewhere else.
    #[error("`{0}` is for `run` only: a bundle cannot hold what belongs to this machine's store and runs")]
    NotInBundle(String),
}

/// The namespaces that are wanted of other runs, each with the flag that said so.
fn wanted(options: &Options) -> impl Iterator<Item = (&'static str, Shared, &RunRef)> {
    let ipc = if let IpcMode::Run(run) = &options.namespaces.ipc { Some(run) } else { None };
    let pid = if let PidMode::Run(run) = &options.namespaces.pid { Some(run) } else { None };
    let network = if let Network::Run(run) = &options.network { Some(run) } else { None };
    [("--ipc", Shared::Ipc, ipc), ("--pid", Shared::Pid, pid), ("--network", Shared::Network, network)]
        .into_iter()
        .filter_map(|(flag, kind, run)| run.map(|run| (flag, kind, run)))
}

/// Finds the runs whose namespaces are wanted. The supervisor looks again when it takes them.
pub(super) fn joins(store: &Store, options: &Options) -> Result<Vec<Join>, ShareError> {
    wanted(options).map(|(flag, kind, run)| join(store, flag, kind, run)).collect()
}

fn join(store: &Store, flag: &'static str, kind: Shared, run: &RunRef) -> Result<Join, ShareError> {
    let text = run.to_string();
    let missing = |source| ShareError::NoRun { flag, run: text.clone(), source };
    let dir = store.run(run.as_str()).map_err(missing)?;
    let record = dir.record().map_err(missing)?;
    if record.state != RunState::Running || !dir.is_live() {
        return Err(ShareError::NotRunning { flag, run: text, state: record.state });
    }
    if kind == Shared::Ipc && record.ipc.as_deref() != Some(SHAREABLE) {
        return Err(ShareError::NotShareable(text));
    }
    Ok(Join { kind, run: record.name })
}

/// The files of the run whose network is shared.
pub(super) fn network_of(store: &Store, options: &Options) -> Result<Option<RunDir>, EngineError> {
    match &options.network {
        Network::Run(run) => Ok(Some(store.run(run.as_str())?)),
        Network::Host | Network::None | Network::Private => Ok(None),
    }
}

/// A file that another run looks names up with.
pub(super) fn etc_of(run: &RunDir, name: &str) -> Result<String, EngineError> {
    let path = run.path().join("etc").join(name);
    let read = read_bounded(&path, MAX_ETC_BYTES).map_err(|source| StoreError::Read { path, source })?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// All that the supervisor has to see to.
pub(super) fn surroundings(
    store: &Store,
    options: &Options,
    mounted: &[ReadyImage],
) -> Result<Surroundings, ShareError> {
    let settings = options.mounts.iter().filter_map(|mount| match mount {
        MountSetting::Image(mount) => Some(mount),
        MountSetting::Bind(_) | MountSetting::Tmpfs(_) => None,
    });
    let images = settings
        .zip(mounted)
        .map(|(mount, image)| MountedPart { layers: image.layers.clone(), subpath: mount.subpath.clone() })
        .collect();
    Ok(Surroundings {
        joins: joins(store, options)?,
        images,
        linked: linked(options),
        shares_processes: options.namespaces.pid != PidMode::Private,
    })
}

fn linked(options: &Options) -> Vec<Linked> {
    let link = |mount: &MountSetting| match mount {
        MountSetting::Bind(bind) if bind.propagation() != Propagation::Private => Some(Linked {
            source: bind.source().to_owned(),
            destination: bind.destination().to_owned(),
            shared: bind.propagation().is_shared(),
            recursive: bind.propagation().is_recursive() && bind.is_recursive(),
            option: bind.propagation().to_string(),
        }),
        _ => None,
    };
    options.mounts.iter().filter_map(link).collect()
}

/// What the record says about mounted images.
pub(super) fn recorded(mounted: &[ReadyImage]) -> Vec<MountedImage> {
    let record = |image: &ReadyImage| MountedImage {
        manifest: image.image.manifest_digest.clone(),
        layers: image.layers.clone(),
    };
    mounted.iter().map(record).collect()
}

/// Refuses what only a run of ours can have.
pub(super) fn refuse_in_bundle(options: &Options) -> Result<(), ShareError> {
    if options.namespaces.users.are_mapped() {
        return Err(ShareError::NotInBundle("--userns` or `--uidmap".to_owned()));
    }
    if let Some((flag, _, run)) = wanted(options).next() {
        return Err(ShareError::NotInBundle(format!("{flag} container:{run}")));
    }
    let is_image = |mount: &MountSetting| matches!(mount, MountSetting::Image(_));
    match options.mounts.iter().find(|mount| is_image(mount)) {
        Some(_) => Err(ShareError::NotInBundle("--mount type=image".to_owned())),
        None => Ok(()),
    }
}

impl Engine {
    /// Has the images that are to be mounted unpacked, by the rules for the container's own.
    pub(super) async fn mounted_images(
        &self,
        options: &Options,
        own: &ImageRequest,
        observer: &Arc<dyn Observer>,
    ) -> Result<Vec<ReadyImage>, EngineError> {
        let mut ready = Vec::new();
        for mount in &options.mounts {
            let MountSetting::Image(mount) = mount else { continue };
            let request = ImageRequest {
                reference: mount.reference.clone(),
                platform: own.platform.clone(),
                pull: own.pull,
                login: None,
                brought: None,
            };
            let image = images::ready(&self.store, &self.settings.registry, &request, observer, &mut || ()).await?;
            ready.push(image);
        }
        Ok(ready)
    }
}
