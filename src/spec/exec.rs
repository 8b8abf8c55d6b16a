//! One more process for a container that runs: docker's `exec`. Starts from the container's own process, so that limits,
//! profile and `no_new_privs` are the same.

use std::path::Path;

use oci_spec::runtime::{Process, UserBuilder};

use super::env::Environment;
use super::error::{Origin, SpecError};
use super::path::clean;
use super::process::{TERMINAL, reject_nul};
use super::user::Identity;
use super::{EnvSetting, ImageFiles, capabilities};

/// What `exec` was asked for.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `--user`, looked up in the container's files as they are now; else the container's own user.
    pub user: Option<String>,
    /// The run's own `--group-add`, which another user gets as well, as with docker.
    pub group_add: Vec<String>,
    /// `--workdir`, else the container's own.
    pub working_dir: Option<String>,
    /// Variables over the container's, in order.
    pub env: Vec<EnvSetting>,
    /// `--tty`.
    pub terminal: bool,
    /// All capabilities that the machine gives.
    pub privileged: bool,
}

/// The process, from that of the container. `bounding` is the caller's own bounding set, a bit for each capability.
pub fn exec_process(
    container: &Process,
    options: &ExecOptions,
    files: &ImageFiles<'_>,
    bounding: u64,
) -> Result<Process, SpecError> {
    let mut process = container.clone();
    for argument in &options.command {
        reject_nul("an argument of the command", argument)?;
    }
    process.set_args(Some(options.command.clone()));
    process.set_command_line(None);
    process.set_terminal(Some(options.terminal));
    if let Some(text) = &options.working_dir {
        reject_nul("the working directory", text)?;
        let origin = Origin::Flag("--workdir");
        let dir = clean(Path::new(text)).ok_or_else(|| SpecError::WorkingDirRelative { text: text.clone(), origin })?;
        process.set_cwd(dir);
    }
    let identity = match &options.user {
        Some(user) => {
            let identity = Identity::resolve(user, Origin::Flag("--user"), files)?;
            Some(identity.with_groups(&options.group_add, files)?)
        }
        None => None,
    };
    if let Some(identity) = &identity {
        let user = UserBuilder::default().uid(identity.uid).gid(identity.gid);
        process.set_user(user.additional_gids(identity.groups.clone()).build()?);
    }
    let has_other_user = process.user().uid() != container.user().uid();
    let home = identity.filter(|_| has_other_user).map(|identity| identity.home);
    process.set_env(Some(environment(container, options, home.as_deref())?));
    let given = container.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    let given = if options.privileged { capabilities::all(bounding) } else { given };
    process.set_capabilities(Some(capabilities::sets(&given, process.user().uid() == 0)?));
    Ok(process)
}

fn environment(container: &Process, options: &ExecOptions, home: Option<&str>) -> Result<Vec<String>, SpecError> {
    let mut environment = Environment::default();
    if options.terminal {
        environment.set("TERM", TERMINAL);
    }
    let own = container.env().as_deref().unwrap_or_default();
    for (name, value) in own.iter().filter_map(|entry| entry.split_once('=')) {
        environment.set(name, value);
    }
    // The container's belongs to another user.
    if let Some(home) = home {
        reject_nul("the home directory in the container's /etc/passwd", home)?;
        environment.set("HOME", home);
    }
    for setting in &options.env {
        environment.apply(setting);
    }
    Ok(environment.into_list())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use oci_spec::runtime::{Capability, ProcessBuilder};

    use super::*;

    fn container() -> Process {
        let sets = capabilities::sets(&HashSet::from([Capability::Chown]), true).unwrap();
        let env = vec!["PATH=/bin".to_owned(), "HOME=/root".to_owned(), "A=1".to_owned()];
        ProcessBuilder::default().args(vec!["sh".to_owned()]).env(env).cwd("/w").capabilities(sets).build().unwrap()
    }

    fn made(options: ExecOptions) -> Result<Process, SpecError> {
        let files = ImageFiles { passwd: Some("app:x:1000:1001::/home/app:\n"), group: Some("more:x:7:app\n") };
        exec_process(&container(), &ExecOptions { command: vec!["id".to_owned()], ..options }, &files, 0b11)
    }

    #[test]
    fn the_containers_process_is_changed_as_asked() {
        let plain = made(ExecOptions::default()).unwrap();
        assert_eq!((plain.cwd().to_str(), plain.terminal()), (Some("/w"), Some(false)));
        assert_eq!(plain.env(), container().env());
        assert_eq!(plain.capabilities(), container().capabilities());

        let env = ["A=2", "HOME"].map(|text| EnvSetting::parse(text, &|_| None).unwrap()).to_vec();
        let other = made(ExecOptions {
            user: Some("app".to_owned()),
            working_dir: Some("/x/../y/".to_owned()),
            terminal: true,
            env,
            ..ExecOptions::default()
        });
        let other = other.unwrap();
        assert_eq!((other.user().uid(), other.user().gid()), (1000, 1001));
        assert_eq!(other.user().additional_gids().as_deref(), Some(&[1001, 7][..]));
        assert_eq!(other.cwd(), Path::new("/y"));
        assert_eq!(other.env().as_deref().unwrap(), ["TERM=xterm", "PATH=/bin", "A=2"]);
        let sets = other.capabilities().clone().unwrap();
        assert!(sets.effective().as_ref().unwrap().is_empty());
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);

        let user = Some("app".to_owned());
        let more = ExecOptions { user, group_add: vec!["9".to_owned(), "more".to_owned()], ..ExecOptions::default() };
        assert_eq!(made(more).unwrap().user().additional_gids().as_deref(), Some(&[1001, 7, 9][..]));
        let home = made(ExecOptions { user: Some("app".to_owned()), ..ExecOptions::default() }).unwrap();
        assert!(home.env().as_ref().unwrap().contains(&"HOME=/home/app".to_owned()));
        let privileged = made(ExecOptions { privileged: true, ..ExecOptions::default() }).unwrap();
        let wanted = HashSet::from([Capability::Chown, Capability::DacOverride]);
        assert_eq!(privileged.capabilities().as_ref().unwrap().effective().as_ref(), Some(&wanted));
    }

    #[test]
    fn bad_wishes_are_refused() {
        for (user, dir, words) in [(Some("nobody"), None, "`nobody`"), (None, Some("x"), "`--workdir`")] {
            let options = ExecOptions {
                user: user.map(str::to_owned),
                working_dir: dir.map(str::to_owned),
                ..ExecOptions::default()
            };
            let message = made(options).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
