//! The command line as it is typed: clap structures whose doc comments are the help text. Checked values come later.

mod cgroups;
mod check;
mod control;
mod cp;
mod dns;
mod doctor;
mod events;
mod exec;
mod gpu;
mod health;
mod kept;
mod life;
mod limits;
mod mounts;
mod namespaces;
mod network;
mod restart;
mod security;
mod system;
mod transport;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use self::cgroups::CgroupArgs;
pub(super) use self::check::CheckArgs;
pub(super) use self::control::{
    ExportArgs, KillArgs, PsArgs, RenameArgs, RmArgs, RunsArgs, StatsArgs, StopArgs, TopArgs, UpdateArgs,
};
pub(super) use self::cp::CpArgs;
pub(super) use self::dns::DnsArgs;
pub(super) use self::doctor::DoctorArgs;
pub(super) use self::events::EventsArgs;
pub(super) use self::exec::{AttachArgs, ExecArgs, TerminalArgs};
pub(super) use self::gpu::{
    CdiFormat, DeviceArgs, DriverArgs, GpuCdiArgs, GpuCommand, GpuExplainArgs, GpuListArgs, LeaseArgs,
};
pub(super) use self::health::{HealthAction, HealthArgs, HealthcheckCommand, HealthcheckRunArgs};
pub(super) use self::kept::{
    ArtifactsCommand, ArtifactsCpArgs, ArtifactsLsArgs, ArtifactsRmArgs, ArtifactsSaveArgs, PruneArgs, PruneCommand,
    SecretsAddArgs, SecretsCommand, SecretsDeleteArgs, TagsAddArgs, TagsCommand, TagsDeleteArgs,
};
pub(super) use self::life::LifeArgs;
pub(super) use self::limits::{LimitArgs, RunKeepingArgs};
pub(super) use self::mounts::MountArgs;
pub(super) use self::namespaces::NamespaceArgs;
pub(super) use self::network::{NetworkArgs, PortArgs};
pub(super) use self::restart::RestartArgs;
pub(super) use self::security::SecurityArgs;
pub(super) use self::system::{DfArgs, PruneImagesArgs, RmiArgs, SystemCommand};
pub(super) use self::transport::{LoadArgs, SaveArgs, SaveAs, TagArgs};
use super::duration::Span;
use crate::engine::{ROOT_DIR, STATE_DIR};

/// Run containers from OCI images, without a daemon.
#[derive(Debug, Parser)]
#[command(name = "dockless", version, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Cli {
    /// Store of images, runs and artifacts.
    #[arg(long, global = true, value_name = "DIR", env = "DOCKLESS_ROOT", default_value = ROOT_DIR)]
    pub(super) root: PathBuf,
    /// State of running containers; best on a tmpfs.
    #[arg(long, global = true, value_name = "DIR", env = "DOCKLESS_STATE", default_value = STATE_DIR)]
    pub(super) state: PathBuf,
    /// Say more; twice for what the libraries say too. After a command it is spelled `--verbose`.
    #[arg(short, action = clap::ArgAction::Count)]
    pub(super) v: u8,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a command in a new container.
    Run(Box<RunArgs>),
    /// Fetch an image and unpack it.
    Pull(PullArgs),
    /// List the images in the store.
    Images(ListArgs),
    /// Take images out of an archive or an OCI layout into the store.
    Load(LoadArgs),
    /// Write images into an archive or an OCI layout.
    Save(SaveArgs),
    /// Give an image one more name.
    Tag(TagArgs),
    /// Remove images and what only they need.
    Rmi(RmiArgs),
    /// Look for damage in the store, and mend it.
    Check(CheckArgs),
    /// Show all that is known about a run or an image, as JSON.
    Inspect(InspectArgs),
    /// Print the OCI runtime spec that `run` would use.
    Spec(Box<SpecArgs>),
    /// Write a bundle (flat root file system and config.json) that any OCI runtime runs.
    Bundle(Box<BundleArgs>),
    /// List runs.
    Ps(PsArgs),
    /// Copy files out of a run or into it.
    Cp(CpArgs),
    /// Show what a run wrote.
    Logs(LogsArgs),
    /// Run one more command in the container of a run.
    Exec(Box<ExecArgs>),
    /// Have the output of a run from now on, and give it input.
    Attach(AttachArgs),
    /// Show what happens to runs, as it happens.
    Events(EventsArgs),
    /// Show where the ports of a run are reached.
    Port(PortArgs),
    /// Stop runs, save their artifacts, and wait for their end.
    Stop(StopArgs),
    /// Send a signal to the workload of runs.
    Kill(KillArgs),
    /// Make all processes of runs stand still.
    Pause(RunsArgs),
    /// Let paused runs go on.
    Unpause(RunsArgs),
    /// Change the limits of runs that go on.
    Update(UpdateArgs),
    /// Show what runs use at the moment: CPU, memory, network, disks.
    Stats(StatsArgs),
    /// List the processes of a run.
    Top(TopArgs),
    /// Give an ended run another name.
    Rename(RenameArgs),
    /// Write the root file system of a run as a tar.
    Export(ExportArgs),
    /// Ask runs how they are.
    #[command(subcommand)]
    Healthcheck(HealthcheckCommand),
    /// Wait for the end of runs and print their exit codes.
    Wait(WaitArgs),
    /// Remove ended runs: record, log and artifacts.
    Rm(RmArgs),
    /// Run the workflows of a project.
    #[command(subcommand)]
    Workflow(WorkflowCommand),
    /// Look at the GPUs of this machine, and at what a container would be given of their driver.
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// Look at the artifacts of runs, and remove them.
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// Name runs that are to be found again.
    #[command(subcommand)]
    Tags(TagsCommand),
    /// Keep values that workflows ask for by name and that nobody else is to see.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Remove what is no longer needed.
    #[command(subcommand)]
    Prune(PruneCommand),
    /// Tell what this machine can do for containers, and what to change where it cannot; ends with 1 when runs would fail.
    Doctor(DoctorArgs),
    /// Look at the store as a whole, and clean it up.
    #[command(subcommand)]
    System(SystemCommand),
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct TalkArgs {
    /// Say nothing but errors.
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Say more.
    #[arg(long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Read credentials from this file only (docker's or podman's format).
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    pub(super) authfile: Option<PathBuf>,
    /// Speak plain http with this registry, or do not verify its certificate.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) insecure_registry: Vec<String>,
    /// Trust this certificate authority too (PEM).
    #[arg(long, value_name = "FILE")]
    pub(super) registry_ca: Option<PathBuf>,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PullWhen {
    /// Ask the registry each time.
    Always,
    /// Only when it is not in the store.
    Missing,
    /// Only what is in the store will do.
    Never,
}

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// When to fetch the image.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pub(super) pull: PullWhen,
    /// Which image of a multi-platform one, e.g. `linux/arm64`.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Option<String>,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
}

/// What `run`, `spec` and `bundle` have in common; names and meanings are docker's.
#[derive(Debug, Args)]
pub(super) struct ContainerArgs {
    /// Set an environment variable; without a value, the caller's.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Read environment variables from a file.
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Working directory in the container.
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// User and group, by name or number.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Mount a directory or file of the host; options are `ro`, `noexec`, `rslave` and others.
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    pub(super) volume: Vec<String>,
    /// Mount, spelled out: `type=bind,source=…,target=…,readonly`, `type=tmpfs,target=…,tmpfs-size=…` or
    /// `type=image,source=IMAGE,target=…`.
    #[arg(long, value_name = "SPEC")]
    pub(super) mount: Vec<String>,
    /// Mount a tmpfs.
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub(super) tmpfs: Vec<String>,
    /// Replace the image's entrypoint; an empty one removes it.
    #[arg(long, value_name = "PROGRAM")]
    pub(super) entrypoint: Option<String>,
    /// Number of CPUs, in fractions if need be.
    #[arg(long, value_name = "N")]
    pub(super) cpus: Option<String>,
    /// Memory limit, e.g. `512m`, `2g` (powers of 1024).
    #[arg(short, long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Size of /dev/shm [default: 64m].
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// `host`: the machine's network. `none`: only a loopback interface. `private`: an address on a bridge, and a way
    /// out. `container:RUN`: that of another run.
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "host")]
    pub(super) network: String,
    /// Host name in the container.
    #[arg(long, value_name = "NAME")]
    pub(super) hostname: Option<String>,
    /// Make the root file system read-only.
    #[arg(long)]
    pub(super) read_only: bool,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) security: SecurityArgs,
    #[command(flatten)]
    pub(super) mounts: MountArgs,
    #[command(flatten)]
    pub(super) namespaces: NamespaceArgs,
    #[command(flatten)]
    pub(super) dns: DnsArgs,
    #[command(flatten)]
    pub(super) devices: DeviceArgs,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct RunArgs {
    /// Name of the run.
    #[arg(long)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) keeping: RunKeepingArgs,
    #[command(flatten)]
    pub(super) lease: LeaseArgs,
    #[command(flatten)]
    pub(super) cgroups: CgroupArgs,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    /// Root file system: `overlay` mounts the layers, `copy` copies them, `auto` copies where overlay cannot be mounted.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(super) rootfs: String,
    #[command(flatten)]
    pub(super) life: LifeArgs,
    #[command(flatten)]
    pub(super) restart: RestartArgs,
    #[command(flatten)]
    pub(super) health: HealthArgs,
    /// Remove the run, its record and its log at its end.
    #[arg(long)]
    pub(super) rm: bool,
    /// Keep the writable layer at the end of the run.
    #[arg(long, conflicts_with = "rm")]
    pub(super) keep: bool,
    /// Save this directory when the run ends; with `:mount`, it is visible while the run goes on.
    #[arg(short, long, value_name = "PATH[:mount]", conflicts_with = "rm")]
    pub(super) artifact: Vec<String>,
    #[command(flatten)]
    pub(super) store: ArtifactStoreArgs,
    /// Pass standard input on; with `--detach`, keep it open for those who attach.
    #[arg(short, long)]
    pub(super) interactive: bool,
    #[command(flatten)]
    pub(super) terminal: TerminalArgs,
    /// Print the run's name once its command runs, and let it go on.
    #[arg(short, long)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
    /// The image, and the command with its arguments.
    // One list, so that everything after the image belongs to the command, as with docker.
    #[arg(value_names = ["IMAGE", "COMMAND"], num_args = 1.., required = true, trailing_var_arg = true)]
    pub(super) image_and_command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
    /// The image, and the command with its arguments.
    #[arg(value_names = ["IMAGE", "COMMAND"], num_args = 1.., required = true, trailing_var_arg = true)]
    pub(super) image_and_command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
    /// The image, the directory to make, and the command with its arguments.
    #[arg(value_names = ["IMAGE", "DIR", "COMMAND"], num_args = 2.., required = true, trailing_var_arg = true)]
    pub(super) image_dir_and_command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// What to fetch: a name, or `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`, `docker-archive:FILE[:NAME]`.
    pub(super) image: String,
    /// Which image of a multi-platform one, e.g. `linux/arm64`.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Option<String>,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names of runs, or names or digests of images.
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Stay until the run ends.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only what was written since then: a time (`2026-01-02T15:04:05Z`, UTC when no zone is given) or how long ago (`5m`).
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Only what was written until then.
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Only so many of the last lines, or `all`.
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    pub(super) tail: String,
    /// Begin each line with the time at which it was written.
    #[arg(short, long)]
    pub(super) timestamps: bool,
    /// Which run.
    pub(super) run: String,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    pub(super) list: ListArgs,
    /// Which runs.
    #[arg(required = true)]
    pub(super) runs: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum WorkflowCommand {
    /// Run a workflow.
    Run(Box<WorkflowRunArgs>),
    /// Show what `workflow run` would run, with everything filled in and secrets masked.
    Show(Box<WorkflowShowArgs>),
    /// List the workflows of the project.
    List(WorkflowListArgs),
    /// Tell every mistake in the workflow files; ends with 1 when there is one.
    Check(WorkflowCheckArgs),
    /// Print the JSON Schema of workflow files, for editors.
    Schema,
}

/// Which workflow, and what is to be other than in its file.
#[derive(Debug, Args)]
pub(super) struct WorkflowArgs {
    /// Name of the workflow.
    pub(super) workflow: String,
    /// What `${{ run.args }}` stands for; a `file` that is run gets it in any case.
    #[arg(last = true, value_name = "ARGS")]
    pub(super) args: Vec<String>,
    /// Read this file instead of looking for `.dstack/workflows.yaml`.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Name of the run.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Set an environment variable, over the workflow's; without a value, the caller's.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Give the run a secret as the variable of that name.
    #[arg(long, value_name = "NAME")]
    pub(super) secret: Vec<String>,
    /// Keep this directory too; with `:mount`, it is visible while the run goes on.
    #[arg(short, long, value_name = "PATH[:mount]")]
    pub(super) artifact: Vec<String>,
    /// Working directory, relative to the project.
    #[arg(short, long, visible_alias = "working-dir", value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// Number of cores, in fractions if need be.
    #[arg(long, value_name = "N")]
    pub(super) cpu: Option<String>,
    /// Memory, e.g. `512MB`, `8GiB`, as in the file.
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Size of /dev/shm, e.g. `8GB`.
    #[arg(long, value_name = "SIZE")]
    pub(super) shm_size: Option<String>,
    /// Number of GPUs; `0` runs without.
    #[arg(long, value_name = "N")]
    pub(super) gpu: Option<String>,
    /// Model of the GPUs, e.g. `V100`.
    #[arg(long, value_name = "NAME")]
    pub(super) gpu_name: Option<String>,
    /// The least memory of each GPU, e.g. `16GB`.
    #[arg(long, value_name = "SIZE")]
    pub(super) gpu_memory: Option<String>,
    /// Publish a port.
    #[arg(short, long, visible_alias = "port", value_name = "[HOST:]CONTAINER")]
    pub(super) ports: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct WorkflowRunArgs {
    #[command(flatten)]
    pub(super) workflow: WorkflowArgs,
    /// Do not stay: print the name of the run once it is started.
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Give the run this tag when it is done.
    #[arg(short, long, value_name = "TAG")]
    pub(super) tag: Option<String>,
    /// Who owns the saved files that root wrote in the container [default: whoever called sudo].
    #[arg(long, value_name = "UID[:GID]")]
    pub(super) artifact_owner: Option<String>,
    #[command(flatten)]
    pub(super) driver: DriverArgs,
    #[command(flatten)]
    pub(super) lease: LeaseArgs,
    #[command(flatten)]
    pub(super) cgroups: CgroupArgs,
    #[command(flatten)]
    pub(super) store: ArtifactStoreArgs,
    /// Run even if this machine has less than the workflow asks for.
    #[arg(long)]
    pub(super) ignore_host_check: bool,
    /// How long a run that is asked to stop has for that, e.g. `30s`, `2m`.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(super) grace: Span,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
}

/// Where artifacts are kept.
#[derive(Debug, Args)]
pub(super) struct ArtifactStoreArgs {
    /// Where artifacts are kept: `s3://BUCKET/PREFIX`, or a directory [default: in the store].
    #[arg(long, value_name = "URL", env = "DOCKLESS_ARTIFACT_STORE")]
    pub(super) artifact_store: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct WorkflowShowArgs {
    #[command(flatten)]
    pub(super) workflow: WorkflowArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "yaml")]
    pub(super) format: ShowFormat,
}

/// How a workflow is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ShowFormat {
    /// As in a workflow file.
    Yaml,
    /// One JSON document.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct WorkflowListArgs {
    /// Read this file instead of looking for `.dstack/workflows.yaml`.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) list: ListArgs,
}

#[derive(Debug, Args)]
pub(super) struct WorkflowCheckArgs {
    /// Check this file instead of those of the project.
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) list: ListArgs,
}
