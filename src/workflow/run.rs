//! From a workflow to a run: filled in, changed, checked, and what the engine is asked for. Does no I/O either.

use std::path::Path;
use std::time::Duration;

use super::deps;
use super::find::{FindError, Workflows};
use super::interpolate::{Filled, ResolvedDependency, Values, resolve};
use super::overrides::Overrides;
use super::plan::{Credentials, PROJECT_DIR, Plan, builtin_env, plan};
use super::show::Shown;
use crate::artifact::ArtifactStoreUrl;
use crate::engine::devices::Devices;
use crate::engine::inputs::DepRequest;
use crate::engine::ports::Port;
use crate::engine::{
    CgroupWish, Conduct, HostCheck, ImageRequest, InputsWanted, Masked, Origin, PullPolicy, RunRequest,
};
use crate::image::Platform;
use crate::registry::{Login, Secret};
use crate::spec::{EnvSetting, MemoryLimit, MountSetting, Options, SpecError};
use crate::store::{Reservation, TagName};

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
    /// GPUs that it is to have, from [`Plan::gpus`], and where they are looked for.
    pub devices: Devices,
    /// Ports of the machine that nobody has, as many as [`Plan::free_ports`]; the run is told them as `PORT_0`, `PORT_1`, …
    pub free_ports: Vec<Port>,
    /// What happens when the machine cannot give what is asked for.
    pub host_check: HostCheck,
    /// Where artifacts are saved; `None` for the store's own directory.
    pub artifact_store: Option<ArtifactStoreUrl>,
    /// User and group that saved files of the container's root are given to.
    pub artifact_owner: Option<(u32, u32)>,
    /// Where its cgroup is.
    pub cgroups: CgroupWish,
    /// The run goes on without whoever starts it.
    pub detached: bool,
    /// The tag it gets if it ends well.
    pub tag: Option<TagName>,
    /// How long the workload has between the stop signal and SIGKILL.
    pub grace: Duration,
    /// The time now (RFC 3339, UTC).
    pub created: String,
    /// Any number; tells runs of one name apart.
    pub nonce: u32,
}

/// The request for a run in the project at `project`; `caller` looks up variables of whoever starts it.
pub fn request(
    Prepared { plan, shown }: &Prepared,
    project: &Path,
    circumstances: Circumstances<'_>,
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<RunRequest, SpecError> {
    let name = circumstances.reservation.name().as_str();
    let options = options(plan, project, env(plan, name, &circumstances, caller)?)?;
    let Circumstances { reservation, platform, pull, host_check, artifact_owner, devices, .. } = circumstances;
    let login = plan.registry_auth.as_ref().map(|Credentials { username, password }| Login {
        user: username.expose().to_owned(),
        password: Secret::new(password.expose()),
    });
    let given = plan.ports.iter().filter_map(|port| port.to_string().parse::<Port>().ok());
    let image = ImageRequest { platform, pull, login, ..ImageRequest::new(plan.image.clone()) };
    Ok(RunRequest {
        origin: Origin {
            workflow: Some(plan.name.clone()),
            project: Some(project.to_owned()),
            resolved: serde_json::to_value(shown).ok(),
        },
        options,
        artifacts: plan.artifacts.clone(),
        artifact_store: circumstances.artifact_store,
        artifact_owner,
        detached: circumstances.detached,
        interruptible: plan.interruptible,
        ports: given.chain(circumstances.free_ports).collect(),
        devices,
        inputs: InputsWanted { deps: plan.deps.iter().map(dep).collect(), caches: plan.cache.clone() },
        host_check,
        tag: circumstances.tag,
        cgroups: circumstances.cgroups,
        conduct: Conduct {
            stops_on_signals: true,
            grace_ms: u64::try_from(circumstances.grace.as_millis()).unwrap_or(u64::MAX),
            secrets: Masked::new(plan.secrets.iter().map(|secret| secret.expose().to_owned())),
            steps: plan.steps.clone(),
            ..Conduct::default()
        },
        ..RunRequest::new(reservation, image, circumstances.created, circumstances.nonce)
    })
}

fn dep(dependency: &ResolvedDependency) -> DepRequest {
    match dependency {
        ResolvedDependency::Workflow(name) => DepRequest::Workflow(name.clone()),
        ResolvedDependency::Tag(name) => DepRequest::Tag(name.clone()),
    }
}

/// Built-in variables, then secrets, then the workflow's own.
fn env(
    plan: &Plan,
    name: &str,
    circumstances: &Circumstances<'_>,
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<EnvSetting>, SpecError> {
    let builtin = builtin_env(name, circumstances.host_name, plan);
    let builtin = builtin.iter().map(|(key, value)| EnvSetting::set(key, value));
    let ports = circumstances.free_ports.iter().enumerate();
    let ports = ports.map(|(index, port)| EnvSetting::set(&format!("PORT_{index}"), &port.container().to_string()));
    let secrets = plan.secret_env.iter().map(|(key, value)| EnvSetting::set(key, value.expose()));
    let own = plan.env.iter().map(|(key, value)| match value {
        Some(value) => EnvSetting::set(key, value.expose()),
        None => EnvSetting::parse(key, caller),
    });
    builtin.chain(ports).chain(secrets).chain(own).collect()
}

fn options(plan: &Plan, project: &Path, env: Vec<EnvSetting>) -> Result<Options, SpecError> {
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
    Ok(options)
}

fn exposed(words: &[Filled]) -> Vec<String> {
    words.iter().map(|word| word.expose().to_owned()).collect()
}
