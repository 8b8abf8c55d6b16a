//! Why a job failed.

use std::io;
use std::path::PathBuf;

use super::control::ControlError;
use super::devices::DeviceError;
use super::exec::EnterError;
use super::health::HealthError;
use super::inputs::InputError;
use super::ports::PortError;
use super::removal::RemovalError;
use super::resources::Unmet;
use super::share::ShareError;
use super::users::UsersError;
use crate::artifact::{ArtifactError, RemoteError};
use crate::container::{CgroupError, HostError};
use crate::image::Platform;
use crate::network::NetworkError;
use crate::registry::RegistryError;
use crate::rootfs::RootfsError;
use crate::spec::SpecError;
use crate::store::StoreError;
use crate::supervisor::{LaunchError, SweepError};
use crate::sys::NotHandedOver;
use crate::transport::TransportError;

/// Why a job failed. `Display` says what and gives a hint, the sources say why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Only root can run containers so far.
    #[error(
        "containers need root, and this is user {uid}\nhint: run it with sudo; rootless runs are not supported yet"
    )]
    NotRoot {
        /// The effective user.
        uid: u32,
    },
    /// The program does not call [`entry`](super::entry) at the start of its `main`.
    #[error(transparent)]
    NotHandedOver(#[from] NotHandedOver),
    /// Nobody would be there to read the output of a detached run.
    #[error(
        "the output of a detached run cannot go to its caller\nhint: leave `RunRequest::output` as it is; the log has it"
    )]
    DetachedOutput,
    /// The supervisor was killed, and the record does not say how the run ended, or is gone with it.
    #[error("the supervisor of run `{name}` was killed, and the run with it")]
    SupervisorLost {
        /// The run.
        name: String,
    },
    /// The directory for running containers cannot be made.
    #[error("cannot make `{path}`\nhint: name another place with `--state DIR`")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A directory or archive cannot be read.
    #[error(transparent)]
    Transport(Box<TransportError>),
    /// Unpacking or mounting failed.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// What was asked for does not fit the image or the host.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Artifacts cannot be set up.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A bucket cannot be reached.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Artifacts cannot be removed or saved.
    #[error(transparent)]
    Removal(#[from] RemovalError),
    /// No usable cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The host cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No supervisor.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The machine cannot give what was asked for.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    /// No users for the container.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// Another run's namespace cannot be had.
    #[error(transparent)]
    Share(Box<ShareError>),
    /// An earlier run does not give what is wanted of it.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The devices cannot be had.
    #[error(transparent)]
    Device(Box<DeviceError>),
    /// A private network cannot be had.
    #[error(transparent)]
    Network(Box<NetworkError>),
    /// A health check that is asked for cannot be had.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// A port cannot be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Cleaning up after killed processes failed.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// `--pull never`, and it is not there.
    #[error("image `{reference}` is not in the store, and `--pull never` was given\nhint: `dockless pull {reference}`")]
    NotStored {
        /// The image.
        reference: String,
    },
    /// The image was built for something else.
    #[error("image `{reference}` is for {offered}, expected {wanted}\nhint: `--platform {offered}` takes it as it is")]
    Platform {
        /// The image.
        reference: String,
        /// What it is for.
        offered: String,
        /// What was asked for.
        wanted: Platform,
    },
    /// A file of the run cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `--mount` names a directory that is not there.
    #[error(
        "the source of a mount, `{path}`, does not exist\nhint: make it, or use `-v`, which makes missing directories"
    )]
    NoMountSource {
        /// The source.
        path: PathBuf,
    },
    /// A run does not do what is asked of it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// There is nobody to attach to.
    #[error(
        "cannot attach to run `{name}`\nhint: `dockless logs {name}` shows what it wrote, `dockless ps -a` how it stands"
    )]
    Attach {
        /// The run.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A container cannot be entered, or the command not be started in it.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// A thread of ours died.
    #[error("{0} ended unexpectedly")]
    Task(&'static str),
}

impl From<TransportError> for EngineError {
    fn from(error: TransportError) -> Self {
        Self::Transport(Box::new(error))
    }
}

impl From<ShareError> for EngineError {
    fn from(error: ShareError) -> Self {
        Self::Share(Box::new(error))
    }
}

impl From<NetworkError> for EngineError {
    fn from(error: NetworkError) -> Self {
        Self::Network(Box::new(error))
    }
}

impl From<DeviceError> for EngineError {
    fn from(error: DeviceError) -> Self {
        Self::Device(Box::new(error))
    }
}
