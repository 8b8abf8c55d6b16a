//! From a workflow to a run: filled in, changed, checked, and what the engine is asked for. Does no I/O either.

use std::path::Path;

use super::deps;
use super::find::{FindError, Workflows};
use super::interpolate::{Filled, Values, resolve};
use super::overrides::Overrides;
use super::plan::{PROJECT_DIR, Plan, builtin_env, plan};
use super::show::Shown;
use crate::engine::{ImageRequest, PullPolicy, RunRequest};
use crate::image::Platform;
use crate::rootfs::Choice;
use crate::spec::{EnvSetting, MemoryLimit, MountSetting, Options, SpecError};
use crate::store::Reservation;

/// A workflow that is ready to run, and what to show of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// What to run.
    pub plan: Plan,
    /// The same for people and records, with secrets masked.
    pub shown: Shown,
}

/// Goes all the way from a workflow's name to its plan.
///
/// # Errors
/// No such workflow, or whatever is wrong with it, its flags and what it needs.
pub fn prepare(
    workflows: &Workflows,
    name: &str,
    overrides: &Overrides,
    values: &Values<'_>,
) -> Result<Prepared, FindError> {
    let mut workflow = resolve(workflows.get(name)?, values)?;
    overrides.apply(&mut workflow, values)?;
    let plan = plan(&workflow)?;
    deps::check_one(workflows, &workflow)?;
    let shown = Shown::new(&workflow, &plan);
    Ok(Prepared { plan, shown })
}

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
    /// How many GPUs it gets, for `DOCKLESS_GPUS_NUM`.
    pub gpus: u32,
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
    let Circumstances { reservation, platform, pull, host_name, gpus, artifact_owner, created, nonce } = circumstances;
    let mut env = Vec::new();
    for (key, value) in builtin_env(reservation.name().as_str(), host_name, plan, gpus) {
        env.push(EnvSetting::set(&key, &value)?);
    }
    for (key, value) in &plan.secret_env {
        env.push(EnvSetting::set(key, value.expose())?);
    }
    for (key, value) in &plan.env {
        env.push(match value {
            Some(value) => EnvSetting::set(key, value.expose())?,
            None => EnvSetting::parse(key, caller)?,
        });
    }
    let mut options = Options {
        command: exposed(&plan.command),
        entrypoint: plan.entrypoint.as_deref().map(exposed),
        env,
        working_dir: Some(plan.working_dir.to_string_lossy().into_owned()),
        mounts: vec![MountSetting::bind("project", project, Path::new(PROJECT_DIR))?],
        cpus: plan.cpus.map(|cpus| cpus.to_string().parse()).transpose()?,
        memory: plan.memory.map(MemoryLimit::new).transpose()?,
        ..Options::default()
    };
    if let Some(size) = plan.shm_size {
        options.shm_size = size;
    }
    Ok(RunRequest {
        reservation,
        workflow: Some(plan.name.clone()),
        image: ImageRequest { reference: plan.image.clone(), platform, pull },
        options,
        rootfs: Choice::Auto,
        artifacts: plan.artifacts.clone(),
        artifact_owner,
        remove: false,
        keep: false,
        stdin: None,
        created,
        nonce,
    })
}

fn exposed(words: &[Filled]) -> Vec<String> {
    words.iter().map(|word| word.expose().to_owned()).collect()
}
