//! From the flags of `run`, `spec` and `bundle` to the options of a container.

use std::path::Path;

use super::args::{ContainerArgs, MountArgs, NamespaceArgs};
use super::context::{current_dir, variable};
use super::exit::CliError;
use super::limits::{annotations, resources, security};
use crate::artifact::{ArtifactPath, Declared, overlap};
use crate::image::ByteSize;
use crate::spec::{
    EnvSetting, MountSetting, NameLookup, Namespaces, Options, OwnOrHost, SpecError, Users, parse_env_file,
};
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
        namespaces: namespaces(&args.namespaces)?,
        domainname: args.dns.domainname.as_deref().map(str::parse).transpose()?,
        lookup: NameLookup::parse(&args.dns.add_host, &args.dns.dns, &args.dns.dns_search, &args.dns.dns_option)?,
        read_only: args.read_only,
        read_only_tmpfs: read_only_tmpfs(&args.mounts, args.read_only)?,
        env: env(&args.env_file, &args.env)?,
        mounts: mounts(args, &here)?,
        resources: resources(&args.limits)?,
        security: security(&args.security)?,
        annotations: annotations(&args.security.annotation)?,
        ..Options::default()
    };
    if let Some(size) = &args.shm_size {
        if !options.namespaces.ipc.has_own_shm() {
            let mode = args.namespaces.ipc.as_deref().unwrap_or_default();
            let why = "/dev/shm is not the container's own";
            return Err(SpecError::Conflict(format!("--shm-size {size}"), format!("--ipc {mode}"), why).into());
        }
        options.shm_size =
            ByteSize::from_docker(size).map_err(|error| CliError::Usage(format!("`--shm-size`: {error}")))?;
    }
    Ok(options)
}

/// What the container has to itself.
fn namespaces(args: &NamespaceArgs) -> Result<Namespaces, SpecError> {
    let text = |mode: &Option<String>| mode.clone().unwrap_or_default();
    Ok(Namespaces {
        ipc: text(&args.ipc).parse()?,
        pid: text(&args.pid).parse()?,
        uts: OwnOrHost::parse("--uts", &text(&args.uts))?,
        cgroup: OwnOrHost::parse("--cgroupns", &text(&args.cgroupns))?,
        users: Users::read(
            &text(&args.userns),
            &args.uidmap,
            &args.gidmap,
            args.subuidname.as_deref(),
            args.subgidname.as_deref(),
        )?,
    })
}

fn read_only_tmpfs(args: &MountArgs, read_only: bool) -> Result<bool, CliError> {
    if let Some(from) = args.volumes_from.first() {
        let hint = "hint: give both runs the same `-v DIRECTORY:TARGET`, or `--mount type=image,…`";
        return Err(CliError::Usage(format!(
            "`--volumes-from {from}` is not supported: runs have no volumes of their own\n{hint}"
        )));
    }
    match args.read_only_tmpfs {
        Some(true) if !read_only => {
            Err(CliError::Usage("`--read-only-tmpfs` means nothing without `--read-only`".to_owned()))
        }
        wanted => Ok(wanted == Some(true)),
    }
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
