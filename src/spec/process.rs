//! The process of the container: arguments, directory, environment, limits.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, User, UserBuilder,
};

use super::env::Environment;
use super::error::{Origin, SpecError};
use super::path::clean;
use super::user::Identity;
use super::{HostFacts, Options, capabilities, ulimit};
use crate::image::ImageConfig;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What docker's service gave its containers for ten years, and podman's value; the kernel's own ceiling
/// (`fs.nr_open`) has the same default. Without it the soft limit of a login shell, often 1024, would count.
const OPEN_FILES: u64 = 1_048_576;

/// What docker calls the terminal when nobody else does: everything knows it.
pub(super) const TERMINAL: &str = "xterm";

/// The parts that come from other modules.
pub(super) struct Parts<'a> {
    pub(super) identity: &'a Identity,
    pub(super) working_dir: &'a Path,
    pub(super) hostname: &'a str,
    pub(super) capabilities: &'a HashSet<Capability>,
}

pub(super) fn process(
    image: &ImageConfig,
    options: &Options,
    host: &HostFacts,
    parts: &Parts<'_>,
) -> Result<Process, SpecError> {
    let mut process = ProcessBuilder::default()
        .terminal(options.terminal)
        .user(user(parts.identity, &options.edits.groups)?)
        .args(arguments(image, options)?)
        .env(environment(image, options, parts)?)
        .cwd(parts.working_dir)
        .capabilities(capabilities::sets(parts.capabilities, parts.identity.is_root())?)
        .rlimits(rlimits(options, host)?)
        .build()?;
    // The type's default is `true`. With `false` libcontainer loads the filter after it dropped the capabilities that
    // loading takes, which fails for users other than root; left out, it loads the filter before.
    process.set_no_new_privileges(options.security.no_new_privileges.then_some(true));
    process.set_apparmor_profile(options.security.apparmor.clone());
    process.set_oom_score_adj(options.resources.effective_oom_score_adj(host));
    Ok(process)
}

/// Says what [`process`] had to lower.
pub(super) fn notes(options: &Options, host: &HostFacts, missing: &[Capability]) -> Vec<String> {
    let mut notes = Vec::new();
    let ceiling = open_files_ceiling(host);
    if ceiling < OPEN_FILES && !ulimit::names_open_files(&options.resources.ulimits) {
        notes.push(format!(
            "the limit of open files is {ceiling} instead of {OPEN_FILES}: this machine permits no more"
        ));
    }
    for capability in missing {
        notes.push(format!("the capability CAP_{capability} is left out: this machine does not give it"));
    }
    notes
}

fn user(identity: &Identity, more_groups: &[u32]) -> Result<User, OciSpecError> {
    let mut groups = identity.groups.clone();
    groups.extend(more_groups.iter().filter(|group| !identity.groups.contains(group)));
    UserBuilder::default().uid(identity.uid).gid(identity.gid).additional_gids(groups).build()
}

/// Docker's rule: a given entrypoint drops the image's command as well, a given command only replaces it.
fn arguments(image: &ImageConfig, options: &Options) -> Result<Vec<String>, SpecError> {
    let (entrypoint, default_command) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint, &[][..]),
        None => (&image.entrypoint, image.cmd.as_slice()),
    };
    let command = if options.command.is_empty() { default_command } else { options.command.as_slice() };
    // An entrypoint of one empty string is how old builders wrote "none".
    let entrypoint = if entrypoint.len() == 1 && entrypoint[0].is_empty() { &[][..] } else { entrypoint.as_slice() };
    let arguments: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    if arguments.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    for argument in &arguments {
        reject_nul("an argument of the command", argument)?;
    }
    Ok(arguments)
}

/// `-w`, else the image's directory, else `/`; absolute and clean.
pub(super) fn working_dir(image: &ImageConfig, options: &Options) -> Result<PathBuf, SpecError> {
    let (text, origin) = match &options.working_dir {
        Some(text) => (text.as_str(), Origin::Flag("--workdir")),
        None if image.working_dir.is_empty() => ("/", Origin::Image),
        None => (image.working_dir.as_str(), Origin::Image),
    };
    reject_nul("the working directory", text)?;
    clean(Path::new(text)).ok_or_else(|| SpecError::WorkingDirRelative { text: text.to_owned(), origin })
}

/// Later wins: defaults, image, user. `HOME` is always there: the runtime would otherwise ask the image's name service.
fn environment(image: &ImageConfig, options: &Options, parts: &Parts<'_>) -> Result<Vec<String>, SpecError> {
    let mut environment = Environment::default();
    environment.set("PATH", DEFAULT_PATH);
    environment.set("HOSTNAME", parts.hostname);
    if options.terminal {
        environment.set("TERM", TERMINAL);
    }
    for entry in &image.env {
        reject_nul("an environment variable of the image", entry)?;
        // What has no name or no value is skipped, as in docker.
        if let Some((name, value)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) {
            environment.set(name, value);
        }
    }
    for setting in &options.env {
        environment.apply(setting);
    }
    for (name, value) in &options.edits.env {
        environment.set(name, value);
    }
    if environment.get("HOME").is_none_or(str::is_empty) {
        reject_nul("the home directory in the image's /etc/passwd", &parts.identity.home)?;
        environment.set("HOME", &parts.identity.home);
    }
    Ok(environment.into_list())
}

pub(super) fn reject_nul(what: &str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::Nul { what: what.to_owned(), text: text.to_owned() });
    }
    Ok(())
}

fn rlimits(options: &Options, host: &HostFacts) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let ulimits = &options.resources.ulimits;
    let mut limits = ulimit::rlimits(ulimits, host)?;
    if !ulimit::names_open_files(ulimits) {
        limits.insert(0, open_files(host)?);
    }
    Ok(limits)
}

/// Other limits are the caller's own, as docker's containers have the daemon's.
fn open_files(host: &HostFacts) -> Result<PosixRlimit, OciSpecError> {
    let limit = OPEN_FILES.min(open_files_ceiling(host));
    PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(limit).hard(limit).build()
}

/// Above `fs.nr_open` even root may not go.
const fn open_files_ceiling(host: &HostFacts) -> u64 {
    if host.can_raise_limits { host.nr_open } else { host.nofile_hard }
}

#[cfg(test)]
mod tests {
    use super::super::{EnvSetting, fixture};
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_are_dockers() {
        let args = |entrypoint: &[&str], cmd: &[&str], given: Option<&[&str]>, command: &[&str]| {
            let image = ImageConfig { entrypoint: strings(entrypoint), cmd: strings(cmd), ..ImageConfig::default() };
            let options = Options { entrypoint: given.map(strings), command: strings(command), ..Options::default() };
            arguments(&image, &options).map(|args| args.join(" ")).map_err(|error| error.to_string())
        };
        for (entrypoint, cmd, given, command, expected) in [
            (&["e"][..], &["c"][..], None, &[][..], "e c"),
            (&["e"], &["c"], None, &["x", "y"], "e x y"),
            (&[], &["c"], None, &[], "c"),
            (&[], &["c"], None, &["x"], "x"),
            (&["e"], &["c"], Some(&["g"][..]), &[], "g"),
            (&["e"], &["c"], Some(&["g"]), &["x"], "g x"),
            (&["e"], &["c"], Some(&[]), &["x"], "x"),
            (&[""], &["c"], None, &[], "c"),
        ] {
            assert_eq!(args(entrypoint, cmd, given, command).unwrap(), expected);
        }
        for (entrypoint, cmd, given, command) in [
            (&[][..], &[][..], None, &[][..]),
            (&["e"], &["c"], Some(&[][..]), &[]),
            (&[], &[""], None, &[]),
            (&["", "x"], &[], None, &[]),
        ] {
            let message = args(entrypoint, cmd, given, command).unwrap_err();
            assert!(message.starts_with("there is no command to run") && message.contains("hint: "), "{message}");
        }
        assert!(args(&[], &["a\0"], None, &[]).unwrap_err().contains("NUL"));
    }

    #[test]
    fn directories() {
        for (given, image, expected) in
            [(None, "", "/"), (None, "/app/", "/app"), (Some("/w/../v"), "/app", "/v"), (Some("/"), "/app", "/")]
        {
            let image = ImageConfig { working_dir: image.to_owned(), ..ImageConfig::default() };
            let options = Options { working_dir: given.map(str::to_owned), ..Options::default() };
            assert_eq!(working_dir(&image, &options).unwrap(), Path::new(expected));
        }
        let options = Options { working_dir: Some("w".to_owned()), ..Options::default() };
        let message = working_dir(&ImageConfig::default(), &options).unwrap_err().to_string();
        assert_eq!(message, "working directory `w` of `--workdir` is not absolute\nhint: `--workdir /w`");
        let image = ImageConfig { working_dir: "w".to_owned(), ..ImageConfig::default() };
        let message = working_dir(&image, &Options::default()).unwrap_err().to_string();
        assert!(message.starts_with("working directory `w` of the image"), "{message}");
    }

    fn env(image: &[&str], given: &[&str]) -> Result<Vec<String>, SpecError> {
        let image = ImageConfig { env: strings(image), ..ImageConfig::default() };
        let env = given.iter().map(|text| EnvSetting::parse(text, &|_| None).unwrap()).collect();
        let identity = Identity { uid: 0, gid: 0, groups: vec![0], home: "/root".to_owned() };
        let parts =
            Parts { identity: &identity, working_dir: Path::new("/"), hostname: "node", capabilities: &HashSet::new() };
        environment(&image, &Options { env, ..Options::default() }, &parts)
    }

    #[test]
    fn environments_are_merged() {
        let path = format!("PATH={DEFAULT_PATH}");
        for (image, given, expected) in [
            (&[][..], &[][..], vec![&*path, "HOSTNAME=node", "HOME=/root"]),
            (&["PATH=/bin", "A=1"], &["A=2", "B="], vec!["PATH=/bin", "HOSTNAME=node", "A=2", "B=", "HOME=/root"]),
            (&["HOME=/x"], &["PATH", "HOSTNAME=h"], vec!["HOSTNAME=h", "HOME=/x"]),
            (&["HOME=", "junk", "=x"], &[], vec![&*path, "HOSTNAME=node", "HOME=/root"]),
        ] {
            assert_eq!(env(image, given).unwrap(), expected);
        }
        assert!(env(&["A=\0"], &[]).unwrap_err().to_string().contains("environment variable of the image"));
    }

    #[test]
    fn limits_are_what_the_machine_permits() {
        for (can_raise_limits, nofile_hard, nr_open, limit) in [
            (true, 1024, 1_048_576, 1_048_576),
            (true, 1024, u64::MAX, 1_048_576),
            (true, 1_048_576, 4096, 4096),
            (false, 4096, 1_048_576, 4096),
            (false, u64::MAX, 1_048_576, 1_048_576),
        ] {
            let host = HostFacts { nofile_hard, nr_open, can_raise_limits, ..fixture::host() };
            let rlimit = open_files(&host).unwrap();
            assert_eq!((rlimit.soft(), rlimit.hard()), (limit, limit));
            assert_eq!(notes(&Options::default(), &host, &[]).is_empty(), limit == OPEN_FILES);
        }
        let notes = notes(&Options::default(), &fixture::host(), &[Capability::NetRaw]);
        assert_eq!(notes, ["the capability CAP_NET_RAW is left out: this machine does not give it"]);
    }
}
