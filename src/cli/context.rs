//! What every command starts from: where things are kept, and the parts of the environment that matter.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use super::args::{ArtifactStoreArgs, Cli, RegistryArgs, TalkArgs};
use super::exit::CliError;
use super::printer::Printer;
use crate::artifact::ArtifactStoreUrl;
use crate::engine::devices::LEASE_DIR;
use crate::engine::{BucketVariables, Engine, Settings};
use crate::network::{NETWORK_DIR, Places, TOOL_DIRS};
use crate::registry::{self, Secret};
use crate::spec::MAX_ID;
use crate::store::Store;

/// Directories and verbosity that were given before the command.
pub(super) struct Context {
    root: PathBuf,
    pub(super) state: PathBuf,
    v: u8,
}

impl Context {
    pub(super) fn new(cli: &Cli) -> Self {
        let context = Self { root: absolute(&cli.root), state: absolute(&cli.state), v: cli.v };
        install_tracing(cli.v);
        context
    }

    pub(super) const fn printer(&self, talk: TalkArgs) -> Printer {
        Printer::new(talk, self.v)
    }

    /// The store, for commands that only look at it.
    pub(super) fn store(&self) -> Result<Store, CliError> {
        Ok(Store::open(&self.root)?)
    }

    /// Where everything is.
    pub(super) fn settings(&self, registry: Option<&RegistryArgs>) -> Settings {
        Settings {
            state: self.state.clone(),
            registry: registry_settings(registry),
            bucket: BucketVariables::new(aws_variables()),
            leases: lease_dir(),
            network: network_places(),
            ..Settings::new(&self.root)
        }
    }

    /// The engine, for commands that change something; cleans up after killed processes first.
    pub(super) fn engine(&self, registry: Option<&RegistryArgs>, printer: Printer) -> Result<Engine, CliError> {
        let (engine, told) = Engine::open(self.settings(registry))?;
        for line in told {
            printer.warn(&line);
        }
        Ok(engine)
    }
}

/// Runs a future to its end on this thread; blocking work gets threads of its own.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Process("start the runtime", source))?;
    let result = runtime.block_on(future);
    // Only after an interrupt is anything still going on: a layer being unpacked, which nobody wants to wait for.
    runtime.shutdown_background();
    result
}

/// An environment variable as it stands, for a workload that is to have it.
#[expect(clippy::disallowed_methods, reason = "the environment is read here only")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// An environment variable that means something to us: unset and empty are the same.
pub(super) fn setting(name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

/// Where this machine leases its GPUs.
pub(super) fn lease_dir() -> PathBuf {
    // The supervisor works in another directory.
    setting("DOCKLESS_GPU_LEASES").map_or_else(|| LEASE_DIR.into(), |dir| absolute(Path::new(&dir)))
}

/// What private networks need: fixed places first, so that what is in PATH does not come before the distribution's.
fn network_places() -> Places {
    let path = setting("PATH").unwrap_or_default();
    let tools = match setting("DOCKLESS_NETWORK_TOOLS") {
        Some(dirs) => dirs.split(':').map(PathBuf::from).collect(),
        None => TOOL_DIRS.into_iter().chain(path.split(':')).map(PathBuf::from).collect::<Vec<_>>(),
    };
    let dir = setting("DOCKLESS_NETWORK").map_or_else(|| NETWORK_DIR.into(), |dir| absolute(Path::new(&dir)));
    Places { dir, tools: tools.into_iter().filter(|dir| dir.is_absolute()).collect() }
}

/// What tells how buckets are reached.
#[expect(clippy::disallowed_methods, reason = "the environment is read here only")]
fn aws_variables() -> impl Iterator<Item = (String, String)> {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| name.starts_with("AWS_"))
}

/// Reads `--artifact-store`; a directory is made absolute.
pub(super) fn artifact_store(args: &ArtifactStoreArgs) -> Result<Option<ArtifactStoreUrl>, CliError> {
    let Some(text) = args.artifact_store.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    Ok(Some(match text.parse()? {
        ArtifactStoreUrl::Local(directory) => ArtifactStoreUrl::Local(absolute(&directory)),
        bucket @ ArtifactStoreUrl::S3(_) => bucket,
    }))
}

/// Reads `--artifact-owner`: `UID`, which is the group's number too, or `UID:GID`.
pub(super) fn owner(text: &str) -> Result<(u32, u32), CliError> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id <= MAX_ID);
    id(user).zip(id(group)).ok_or_else(|| {
        CliError::Usage(format!("`--artifact-owner`: `{text}` is not an owner, expected `UID` or `UID:GID` in numbers"))
    })
}

/// Who started this, when root did it for somebody (sudo(8)).
pub(super) fn caller() -> Option<(u32, u32)> {
    let id = |name: &str| setting(name)?.parse::<u32>().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?)).filter(|(uid, _)| *uid != 0)
}

/// The directory that the user is in.
#[expect(clippy::disallowed_methods, reason = "the working directory is read here only")]
pub(super) fn current_dir() -> Result<PathBuf, CliError> {
    std::env::current_dir().map_err(|source| CliError::Process("tell the current directory", source))
}

/// Sixty-four bits that nobody can foretell and that need not be secret.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Where docker and podman keep credentials, in podman's order, and the proxies of the environment.
fn registry_settings(args: Option<&RegistryArgs>) -> registry::Settings {
    let mut settings = registry::Settings::default();
    if let Some(file) = args.and_then(|args| args.authfile.clone()) {
        settings.auth_files.push(file);
    } else {
        let under = |variable: &str, rest: &str| setting(variable).map(|dir| Path::new(&dir).join(rest));
        settings.auth_files.extend(under("XDG_RUNTIME_DIR", "containers/auth.json"));
        settings.auth_files.extend(
            under("XDG_CONFIG_HOME", "containers/auth.json").or_else(|| under("HOME", ".config/containers/auth.json")),
        );
        settings
            .auth_files
            .extend(under("DOCKER_CONFIG", "config.json").or_else(|| under("HOME", ".docker/config.json")));
    }
    // The lower-case names come first, as in curl; http_proxy has no other, since HTTP_PROXY may be a header's value in CGI.
    let either = |lower: &str, upper: &str| setting(lower).or_else(|| setting(upper));
    settings.proxies.http = setting("http_proxy").map(Secret::new);
    settings.proxies.https = either("https_proxy", "HTTPS_PROXY").map(Secret::new);
    settings.proxies.bypass = either("no_proxy", "NO_PROXY").unwrap_or_default();
    settings.jitter_seed = random();
    if let Some(args) = args {
        settings.insecure_hosts.clone_from(&args.insecure_registry);
        settings.ca_file.clone_from(&args.registry_ca);
    }
    settings
}

fn install_tracing(v: u8) {
    if v < 2 {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::new(if v == 2 { "debug,h2=info,hyper_util=info" } else { "trace" });
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init());
}
