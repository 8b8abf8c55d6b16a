//! `workflow run` and `workflow list`.

use std::path::Path;

use super::args::{WorkflowListArgs, WorkflowRunArgs};
use super::attend::start;
use super::context::{Context, block_on, current_dir, setting, variable};
use super::exit::CliError;
use super::printer::print_list;
use super::run::{nonce, now, pull_policy, reserve};
use crate::image::Platform;
use crate::workflow::find::{Project, find, load, named};
use crate::workflow::plan::plan;
use crate::workflow::run::{Circumstances, request};

pub(super) fn run(context: &Context, args: &WorkflowRunArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let project = project(args.file.as_deref())?;
    let plan = plan(load(&project)?.get(&args.workflow)?)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let circumstances = Circumstances {
        reservation: reserve(engine.store(), args.name.as_deref())?,
        platform: args.image.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?,
        pull: pull_policy(args.image.pull),
        host_name: &nix::unistd::gethostname()
            .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
        artifact_owner: caller(),
        created: now(),
        nonce: nonce(),
    };
    printer.say(&format!("run {}", circumstances.reservation.name()));
    let request = request(&plan, &project.root, circumstances, &variable)?;
    block_on(start(&engine, request, printer))
}

pub(super) fn list(args: &WorkflowListArgs) -> Result<u8, CliError> {
    let workflows = load(&project(args.file.as_deref())?)?.list();
    print_list(args.list.format, ["WORKFLOW", "PLACE", "HELP"], &workflows, |workflow| {
        [workflow.name.clone(), workflow.place.clone(), workflow.help.clone().unwrap_or_default()]
    });
    Ok(0)
}

fn project(file: Option<&Path>) -> Result<Project, CliError> {
    let here = current_dir()?;
    Ok(match file {
        Some(file) => named(file, &here)?,
        None => find(&here)?,
    })
}

/// Who started this, when root did it for somebody (sudo(8)).
fn caller() -> Option<(u32, u32)> {
    let id = |name: &str| setting(name)?.parse::<u32>().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?)).filter(|(uid, _)| *uid != 0)
}
