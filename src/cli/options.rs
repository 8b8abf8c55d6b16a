//! From the flags of `run`, `spec` and `bundle` to the options of a container.

use std::path::Path;

use super::args::ContainerArgs;
use super::context::{current_dir, variable};
use super::exit::CliError;
use super::limits::{annotations, resources, security};
use crate::artifact::{ArtifactPath, Declared, overlap};
use crate::image::ByteSize;
use crate::spec::{EnvSetting, MountSetting, Options, SpecError, parse_env_file};
use crate::workflow::overrides;

/// Checks every flag before anything is fetched.
pub(super) fn options(args: &ContainerArgs, command: Vec<String>) -> Result<Options, CliError> {
    let here = current_dir()?;
    let mut options = Options {
        command,
        entrypoint: args.entrypoint.as_deref().map(entrypoint),
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        hostname: args.hostname.as_deref().map(str::parse).transpose()?,
        cpus: args.cpus.as_deref().map(str::parse).transpose()?,
        memory: args.memory.as_deref().map(str::parse).transpose()?,
        network: args.network.parse()?,
        read_only: args.read_only,
        env: env(&args.env_file, &args.env)?,
        mounts: mounts(args, &here)?,
        resources: resources(&args.limits)?,
        security: security(&args.security)?,
        annotations: annotations(&args.security.annotation)?,
        ..Options::default()
    };
    if let Some(size) = &args.shm_size {
        options.shm_size =
            ByteSize::from_docker(size).map_err(|error| CliError::Usage(format!("`--shm-size`: {error}")))?;
    }
    Ok(options)
}

/// One word, as docker has it; an empty one takes the image's entrypoint away.
fn entrypoint(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }
}

/// Files first, so that single settings win over them.
pub(super) fn env(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Vec<EnvSetting>, CliError> {
    let mut env = Vec::new();
    for path in files {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| CliError::Read { path: path.to_owned(), source })?;
        env.extend(parse_env_file(path, &bytes, &variable)?);
    }
    for setting in settings {
        env.push(EnvSetting::parse(setting, &variable)?);
    }
    Ok(env)
}

fn mounts(args: &ContainerArgs, here: &Path) -> Result<Vec<MountSetting>, SpecError> {
    let volumes = args.volume.iter().map(|text| MountSetting::from_volume(text, here));
    let mounts = args.mount.iter().map(|text| MountSetting::from_mount(text, here));
    let tmpfs = args.tmpfs.iter().map(|text| MountSetting::from_tmpfs(text));
    volumes.chain(mounts).chain(tmpfs).collect()
}

/// The `--artifact` flags of a run without a workflow. A relative path starts at `--workdir`: the image's own working
/// directory is not known before the image is.
pub(super) fn artifacts(flags: &[String], working_dir: Option<&str>) -> Result<Vec<Declared>, CliError> {
    let wrong = |reason: &str| CliError::Usage(format!("`--artifact`: {reason}"));
    let declare = |text: &String| {
        let (path, mount) = overrides::artifact(text).map_err(|reason| wrong(&reason))?;
        let base = match working_dir {
            _ if path.starts_with('~') => {
                return Err(wrong(&format!("`{path}` needs a home directory\nhint: write the path out")));
            }
            Some(dir) if dir.starts_with('/') => Path::new(dir),
            _ if path.starts_with('/') => Path::new("/"),
            _ => {
                let hint = "hint: write it from `/` on, or say where it starts with `--workdir DIR`";
                return Err(wrong(&format!("`{path}` is relative, and the working directory is the image's\n{hint}")));
            }
        };
        let declared = path.parse::<ArtifactPath>().and_then(|path| Declared::new(path, mount, base, None));
        declared.map_err(|error| wrong(&error.to_string()))
    };
    let declared: Vec<Declared> = flags.iter().map(declare).collect::<Result<_, _>>()?;
    if let Some((first, second)) = overlap(&declared) {
        let (first, second) = (&declared[first].path, &declared[second].path);
        return Err(wrong(&format!("`{first}` and `{second}` are one directory or one is in the other")));
    }
    Ok(declared)
}
