//! From a checked plan to a run: what the engine is asked for. Does no I/O either.

use std::path::Path;

use super::plan::{Plan, builtin_env};
use crate::engine::{Conduct, ImageRequest, Origin, PullPolicy, RunRequest};
use crate::image::Platform;
use crate::rootfs::Choice;
use crate::spec::{EnvSetting, MemoryLimit, MountSetting, Options, SpecError};
use crate::store::Reservation;

/// Where the project directory is in the container.
const PROJECT: &str = "/workflow";

/// What only the caller knows.
#[derive(Debug)]
pub struct Circumstances<'a> {
    /// The name that was taken for it.
    pub reservation: Reservation,
    /// Which image of a multi-platform one.
    pub platform: Platform,
    /// When the image is fetched.
    pub pull: PullPolicy,
    /// The machine's host name, for `JOB_HOSTNAME`.
    pub host_name: &'a str,
    /// User and group that saved files of the container's root are given to.
    pub artifact_owner: Option<(u32, u32)>,
    /// The time now (RFC 3339, UTC).
    pub created: String,
    /// Any number; tells runs of one name apart.
    pub nonce: u32,
}

/// The request for a run of `plan` in the project at `project`; `caller` looks up variables of whoever starts it.
pub fn request(
    plan: &Plan,
    project: &Path,
    circumstances: Circumstances<'_>,
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<RunRequest, SpecError> {
    let Circumstances { reservation, platform, pull, host_name, artifact_owner, created, nonce } = circumstances;
    let mut env = Vec::new();
    for (key, value) in builtin_env(reservation.name().as_str(), host_name, &plan.artifacts) {
        env.push(EnvSetting::set(&key, &value)?);
    }
    for (key, value) in &plan.env {
        env.push(match value {
            Some(value) => EnvSetting::set(key, value)?,
            None => EnvSetting::parse(key, caller)?,
        });
    }
    let mut options = Options {
        command: plan.command.clone(),
        entrypoint: plan.entrypoint.clone(),
        env,
        working_dir: Some(plan.working_dir.to_string_lossy().into_owned()),
        mounts: vec![MountSetting::bind("project", project, Path::new(PROJECT))?],
        cpus: plan.cpus.map(|cpus| cpus.to_string().parse()).transpose()?,
        memory: plan.memory.map(MemoryLimit::new).transpose()?,
        ..Options::default()
    };
    if let Some(size) = plan.shm_size {
        options.shm_size = size;
    }
    Ok(RunRequest {
        reservation,
        origin: Origin { workflow: Some(plan.name.clone()), project: Some(project.to_owned()), resolved: None },
        image: ImageRequest { reference: plan.image.clone(), platform, pull, login: None },
        options,
        rootfs: Choice::Auto,
        artifacts: plan.artifacts.clone(),
        artifact_owner,
        remove: false,
        keep: false,
        stdin: None,
        detached: false,
        interruptible: false,
        ports: Vec::new(),
        tag: None,
        conduct: Conduct { stops_on_signals: true, ..Conduct::default() },
        created,
        nonce,
    })
}
