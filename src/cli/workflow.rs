//! `workflow run`, `show`, `list`, `check` and `schema`.

use std::path::Path;

use super::args::{
    Format, ShowFormat, WorkflowArgs, WorkflowCheckArgs, WorkflowListArgs, WorkflowRunArgs, WorkflowShowArgs,
};
use super::attend::start;
use super::cgroups::cgroups;
use super::context::{Context, artifact_store, block_on, caller, current_dir, owner, variable};
use super::devices::sharing;
use super::exit::{CliError, FOUND_MISTAKES};
use super::printer::{print_data, print_json, print_list};
use super::run::{nonce, now, pull_policy, reserve};
use super::terminal::Shown;
use crate::engine::devices::Devices;
use crate::engine::ports::free;
use crate::engine::{EngineError, HostCheck};
use crate::gpu;
use crate::image::Platform;
use crate::store::{SecretName, SecretNameError, Store};
use crate::words::describe;
use crate::workflow::check::Checker;
use crate::workflow::find::{Project, Workflows, find, load, named};
use crate::workflow::interpolate::{MASK, SecretLookup, Values};
use crate::workflow::overrides::Overrides;
use crate::workflow::plan::{GpuRequest, PROJECT_DIR, Plan};
use crate::workflow::run::{Circumstances, Prepared, prepare, request};
use crate::workflow::schema::json_schema;

/// What `workflow show` says for the name of a run that has none yet.
const NO_NAME: &str = "<run.name>";

pub(super) fn run(context: &Context, args: &WorkflowRunArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let project = project(args.workflow.file.as_deref())?;
    let workflows = load(&project)?;
    let owner = args.artifact_owner.as_deref().map(owner).transpose()?;
    // Before the store is opened: what is wrong in the file or the flags needs no machine to tell.
    let shown_name = args.workflow.name.as_deref().unwrap_or(NO_NAME);
    let Prepared { plan, .. } = prepared(&workflows, &args.workflow, shown_name, &|_| Ok(Some(MASK.to_owned())))?;
    working_dir_is_there(&plan, &project.root)?;
    let tag = args.tag.as_deref().map(str::parse).transpose()?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let reservation = reserve(engine.store(), args.workflow.name.as_deref())?;
    let secret = |name: &str| secret(engine.store(), name);
    let prepared = prepared(&workflows, &args.workflow, reservation.name().as_str(), &secret)?;
    let circumstances = Circumstances {
        reservation,
        platform: args.image.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?,
        pull: pull_policy(args.image.pull),
        host_name: &nix::unistd::gethostname()
            .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
        devices: devices(args, &prepared.plan)?,
        free_ports: free(prepared.plan.free_ports).map_err(EngineError::from)?,
        host_check: if args.ignore_host_check { HostCheck::Warn } else { HostCheck::Refuse },
        artifact_store: artifact_store(&args.store)?,
        artifact_owner: owner.or_else(caller),
        cgroups: cgroups(&args.cgroups, printer)?,
        detached: args.detach,
        tag,
        grace: args.grace.duration(),
        created: now(),
        nonce: nonce(),
    };
    let request = request(&prepared, &project.root, circumstances, &variable)?;
    block_on(start(&engine, request, Shown::default(), printer))
}

/// The plan says which GPUs, the flags where they are and how they are shared.
fn devices(args: &WorkflowRunArgs, plan: &Plan) -> Result<Devices, CliError> {
    let mut devices = sharing(&args.driver, Some(&args.lease))?;
    if let Some(GpuRequest { count, name, memory }) = &plan.gpus {
        devices.gpus = gpu::GpuRequest::from_workflow(*count, name.as_deref(), *memory)?;
    }
    Ok(devices)
}

pub(super) fn show(args: &WorkflowShowArgs) -> Result<u8, CliError> {
    let workflows = load(&project(args.workflow.file.as_deref())?)?;
    let name = args.workflow.name.as_deref().unwrap_or(NO_NAME);
    let Prepared { shown, .. } = prepared(&workflows, &args.workflow, name, &|_| Ok(Some(MASK.to_owned())))?;
    match args.format {
        ShowFormat::Json => print_json(&shown),
        ShowFormat::Yaml => print_data(&serde_yaml::to_string(&shown).unwrap_or_default()),
    }
    Ok(0)
}

pub(super) fn list(args: &WorkflowListArgs) -> Result<u8, CliError> {
    let workflows = load(&project(args.file.as_deref())?)?.list();
    print_list(args.list.format, ["WORKFLOW", "PLACE", "HELP"], &workflows, |workflow| {
        [workflow.name.clone(), workflow.place.clone(), workflow.help.clone().unwrap_or_default()]
    });
    Ok(0)
}

pub(super) fn check(args: &WorkflowCheckArgs) -> Result<u8, CliError> {
    let mut checker = Checker::default();
    for content in project(args.file.as_deref())?.contents() {
        let (name, bytes) = content?;
        checker.file(&name, &bytes);
    }
    let report = checker.finish();
    match args.list.format {
        Format::Table => print_data(&report.text()),
        Format::Json => print_json(&report.told()),
    }
    Ok(if report.mistakes.is_empty() { 0 } else { FOUND_MISTAKES })
}

pub(super) fn schema() -> u8 {
    print_json(&json_schema());
    0
}

/// The workflow with its flags, in the environment we are in.
fn prepared(
    workflows: &Workflows,
    args: &WorkflowArgs,
    run_name: &str,
    secret: &SecretLookup<'_>,
) -> Result<Prepared, CliError> {
    let values = Values { run_name, args: &args.args, env: &variable, secret };
    Ok(prepare(workflows, &args.workflow, &overrides(args), &values)?)
}

fn overrides(args: &WorkflowArgs) -> Overrides {
    Overrides {
        env: args.env.clone(),
        artifacts: args.artifact.clone(),
        working_dir: args.workdir.clone(),
        cpu: args.cpu.clone(),
        memory: args.memory.clone(),
        shm_size: args.shm_size.clone(),
        gpu: args.gpu.clone(),
        gpu_name: args.gpu_name.clone(),
        gpu_memory: args.gpu_memory.clone(),
        ports: args.ports.clone(),
        secrets: args.secret.clone(),
    }
}

/// What the project lacks, the container cannot be started in.
fn working_dir_is_there(plan: &Plan, project: &Path) -> Result<(), CliError> {
    match plan.working_dir.strip_prefix(PROJECT_DIR) {
        Ok(dir) if !project.join(dir).is_dir() => {
            let (dir, project) = (dir.display(), project.display());
            let message = format!("`working_dir`: there is no directory `{dir}` in the project `{project}`");
            Err(CliError::Usage(format!("{message}\nhint: make it, or write an absolute path of the container")))
        }
        _ => Ok(()),
    }
}

/// The value of a secret, or why there is none.
fn secret(store: &Store, name: &str) -> Result<Option<String>, String> {
    let name: SecretName = name.parse().map_err(|error: SecretNameError| error.to_string())?;
    store.secrets().get(&name).map(|value| Some(value.expose().to_owned())).map_err(|error| describe(&error))
}

fn project(file: Option<&Path>) -> Result<Project, CliError> {
    let here = current_dir()?;
    Ok(match file {
        Some(file) => named(file, &here)?,
        None => find(&here)?,
    })
}
