//! Every way to fail, and its exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 125 | dockless failed: bad arguments, no image, no permission, … |
//! | 126 | the command is there but cannot be executed |
//! | 127 | the command is not there |
//! | 128+n | signal n ended the workload |
//! | other | the workload's own; of `workflow check` 1: there are mistakes; of `check` 1: there is damage; of `doctor` 1: runs would fail; of `healthcheck run` 1: the check failed |

use std::io;
use std::path::PathBuf;

use crate::artifact::{ArtifactError, ArtifactStoreUrlError};
use crate::engine::copy::CopyError;
use crate::engine::inputs::InputError;
use crate::engine::removal::RemovalError;
use crate::engine::{CgroupError, EngineError, EnterError};
use crate::gpu::{DeviceFlagError, DiscoverError, RequestError};
use crate::image::{PlatformError, ReferenceError, SourceError};
use crate::network::NetworkError;
use crate::spec::SpecError;
use crate::store::{RunNameError, SecretNameError, SecretValueError, StoreError, TagNameError};
use crate::transport::TransportError;
use crate::workflow::Mistake;
use crate::workflow::find::FindError;

/// dockless itself failed.
pub(super) const FAULT: u8 = 125;

/// `workflow check` found mistakes, which is what it was asked for and no failure.
pub(super) const FOUND_MISTAKES: u8 = 1;

/// `check` found damage, or could not look whether there is some.
pub(super) const FOUND_DAMAGE: u8 = 1;

/// `doctor` found something that makes runs fail.
pub(super) const FOUND_FAILURE: u8 = 1;

/// `healthcheck run` has a check that failed.
pub(super) const UNHEALTHY: u8 = 1;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A malformed request for GPUs.
    #[error(transparent)]
    GpuRequest(#[from] RequestError),
    /// A malformed `--device`.
    #[error(transparent)]
    DeviceFlag(#[from] DeviceFlagError),
    /// The machine cannot be looked at.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Malformed wishes for a private network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Arguments that parse but make no sense.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Transport(Box<TransportError>),
    #[error(transparent)]
    Copy(Box<CopyError>),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    RunName(#[from] RunNameError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Mistake(#[from] Mistake),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    ArtifactStoreUrl(#[from] ArtifactStoreUrlError),
    #[error(transparent)]
    Removal(#[from] RemovalError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    TagName(#[from] TagNameError),
    #[error(transparent)]
    SecretName(#[from] SecretNameError),
    #[error(transparent)]
    SecretValue(#[from] SecretValueError),
    /// A file of the user cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of the user cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something of the process itself, like a signal handler.
    #[error("cannot {0}")]
    Process(&'static str, #[source] io::Error),
    /// The supervisor was killed, and its record does not say how the run ended.
    #[error("the supervisor of run `{0}` was killed, and the run with it")]
    SupervisorLost(String),
    /// The parent of an exec'd command was killed.
    #[error("the process that stood by the command was killed, and the command with it")]
    ExecLost,
}

impl From<TransportError> for CliError {
    fn from(error: TransportError) -> Self {
        Self::Transport(Box::new(error))
    }
}

impl CliError {
    /// The exit code of the process.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Engine(EngineError::Enter(EnterError::Start(failure))) => u8::try_from(failure.code).unwrap_or(FAULT),
            Self::Usage(_)
            | Self::Cgroup(_)
            | Self::Reference(_)
            | Self::Source(_)
            | Self::Transport(_)
            | Self::Copy(_)
            | Self::Platform(_)
            | Self::RunName(_)
            | Self::Spec(_)
            | Self::Engine(_)
            | Self::Store(_)
            | Self::Find(_)
            | Self::Mistake(_)
            | Self::Artifact(_)
            | Self::ArtifactStoreUrl(_)
            | Self::Removal(_)
            | Self::Input(_)
            | Self::TagName(_)
            | Self::SecretName(_)
            | Self::SecretValue(_)
            | Self::GpuRequest(_)
            | Self::Discover(_)
            | Self::Network(_)
            | Self::DeviceFlag(_)
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Process(..) => FAULT,
            // As a shell says of a child that was killed with SIGKILL.
            Self::SupervisorLost(_) | Self::ExecLost => 137,
        }
    }
}
