//! The command line: the only place that prints, reads the environment and installs tracing.

mod args;
mod artifacts;
mod ask;
mod attach;
mod attend;
mod cgroups;
mod check;
mod context;
mod control;
mod cp;
mod devices;
mod doctor;
mod duration;
mod events;
mod exec;
mod exit;
mod export;
mod gpu;
mod health;
mod images;
mod inspect;
mod life;
mod limits;
mod load;
mod logs;
mod names;
mod options;
mod port;
mod printer;
mod prune;
mod ps;
mod run;
mod save;
mod secrets;
mod stats;
mod stop;
mod system;
mod table;
mod tag;
mod tags;
mod terminal;
mod time;
mod top;
mod workflow;

use std::process::ExitCode;

use clap::Parser;

use self::args::{
    ArtifactsCommand, Cli, Command, GpuCommand, HealthcheckCommand, PruneCommand, SecretsCommand, SystemCommand,
    TagsCommand, WorkflowCommand,
};
use self::context::Context;
use self::exit::{CliError, FAULT};
use self::printer::{output_error, print_error};
use crate::words::describe;

/// Parses the arguments, does what they say, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            // Help and version are printed the same way but are no fault.
            return ExitCode::from(if error.use_stderr() { FAULT } else { 0 });
        }
    };
    crate::sys::raise_open_files();
    let done = dispatch(cli);
    if let Some(error) = output_error() {
        print_error(&format!("cannot write to standard output: {error}"));
        if matches!(done, Ok(0)) {
            return ExitCode::from(FAULT);
        }
    }
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&describe(&error));
            ExitCode::from(error.code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, CliError> {
    let context = Context::new(&cli);
    match cli.command {
        Command::Run(args) => run::run(&context, *args),
        Command::Spec(args) => run::spec(&context, *args),
        Command::Bundle(args) => run::bundle(&context, *args),
        Command::Pull(args) => images::pull(&context, &args),
        Command::Images(args) => images::list(&context, &args),
        Command::Load(args) => load::load(&context, &args),
        Command::Save(args) => save::save(&context, &args),
        Command::Tag(args) => tag::tag(&context, &args),
        Command::Rmi(args) => images::remove(&context, &args),
        Command::Check(args) => check::check(&context, &args),
        Command::Inspect(args) => inspect::inspect(&context, &args),
        Command::Ps(args) => ps::list(&context, &args),
        Command::Rm(args) => ps::remove(&context, &args),
        Command::Doctor(args) => doctor::show(&context, &args),
        Command::Events(args) => events::show(&context, &args),
        Command::Cp(args) => cp::copy(&context, &args),
        Command::Port(args) => port::port(&context, &args),
        Command::Logs(args) => logs::show(&context, &args),
        Command::Exec(args) => exec::exec(&context, *args),
        Command::Attach(args) => attach::attach(&context, &args),
        Command::Stop(args) => stop::stop(&context, &args),
        Command::Kill(args) => control::kill(&context, &args),
        Command::Pause(args) => control::pause(&context, &args),
        Command::Unpause(args) => control::unpause(&context, &args),
        Command::Update(args) => control::update(&context, &args),
        Command::Stats(args) => stats::stats(&context, &args),
        Command::Top(args) => top::top(&context, &args),
        Command::Rename(args) => ps::rename(&context, &args),
        Command::Export(args) => export::export(&context, &args),
        Command::Healthcheck(HealthcheckCommand::Run(args)) => health::run(&context, &args),
        Command::Wait(args) => stop::wait(&context, &args),
        Command::Workflow(WorkflowCommand::Run(args)) => workflow::run(&context, &args),
        Command::Workflow(WorkflowCommand::Show(args)) => workflow::show(&args),
        Command::Workflow(WorkflowCommand::List(args)) => workflow::list(&args),
        Command::Workflow(WorkflowCommand::Check(args)) => workflow::check(&args),
        Command::Workflow(WorkflowCommand::Schema) => Ok(workflow::schema()),
        Command::Gpu(GpuCommand::List(args)) => gpu::list::list(&context, &args),
        Command::Gpu(GpuCommand::Explain(args)) => gpu::explain::explain(&context, &args),
        Command::Gpu(GpuCommand::Cdi(args)) => gpu::cdi::cdi(&context, &args),
        Command::Artifacts(ArtifactsCommand::Ls(args)) => artifacts::list(&context, &args),
        Command::Artifacts(ArtifactsCommand::Cp(args)) => artifacts::copy(&context, &args),
        Command::Artifacts(ArtifactsCommand::Rm(args)) => artifacts::remove(&context, &args),
        Command::Artifacts(ArtifactsCommand::Save(args)) => artifacts::save(&context, &args),
        Command::Tags(TagsCommand::List(args)) => tags::list(&context, &args),
        Command::Tags(TagsCommand::Add(args)) => tags::add(&context, &args),
        Command::Tags(TagsCommand::Delete(args)) => tags::delete(&context, &args),
        Command::Secrets(SecretsCommand::Add(args)) => secrets::add(&context, &args),
        Command::Secrets(SecretsCommand::List(args)) => secrets::list(&context, &args),
        Command::Secrets(SecretsCommand::Delete(args)) => secrets::delete(&context, &args),
        Command::Prune(PruneCommand::Runs(args)) => prune::runs(&context, &args),
        Command::Prune(PruneCommand::Cache(args)) => prune::caches(&context, &args),
        Command::Prune(PruneCommand::Images(args)) => prune::images(&context, &args),
        Command::System(SystemCommand::Df(args)) => system::df(&context, &args),
        Command::System(SystemCommand::Prune(args)) => system::prune(&context, &args),
    }
}
