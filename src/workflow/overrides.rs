//! Flags of `workflow run` and `workflow show` over what the file says. They go through the same checks; what is wrong with
//! one is a [`Mistake`] that names the flag.
//!
//! `--env` comes after the workflow's `env` and wins. `--artifact` and `--port` add to what is there; one with the path (or
//! the container's port) of another takes its place. The other flags replace a value. `--gpu 0` takes the GPUs away.

use std::fmt;

use super::file::{self, EnvEntry, Port};
use super::interpolate::{Filled, Given, Place, Resolved, ResolvedGpu, Values};
use super::mistake::{Mistake, Problem, shown};
use super::numbers;
use crate::artifact::ArtifactPath;
use crate::image::ByteSize;

/// The flags as they were typed.
#[derive(Clone, Default)]
pub struct Overrides {
    /// `--env KEY[=VALUE]`.
    pub env: Vec<String>,
    /// `--artifact PATH[:mount]`.
    pub artifacts: Vec<String>,
    /// `--workdir DIR`.
    pub working_dir: Option<String>,
    /// `--cpu N`.
    pub cpu: Option<String>,
    /// `--memory SIZE`.
    pub memory: Option<String>,
    /// `--shm-size SIZE`.
    pub shm_size: Option<String>,
    /// `--gpu N`.
    pub gpu: Option<String>,
    /// `--gpu-name NAME`.
    pub gpu_name: Option<String>,
    /// `--gpu-memory SIZE`.
    pub gpu_memory: Option<String>,
    /// `--ports [HOST:]CONTAINER`.
    pub ports: Vec<String>,
    /// `--secret NAME`.
    pub secrets: Vec<String>,
}

/// Leaves the values of `--env` out.
impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().filter_map(|entry| entry.split('=').next()).collect();
        f.debug_struct("Overrides").field("env", &names).field("artifacts", &self.artifacts).finish_non_exhaustive()
    }
}

impl Overrides {
    /// Changes a workflow.
    ///
    /// # Errors
    /// A flag whose value is not one, or that contradicts another; a secret that is not there.
    pub fn apply(&self, workflow: &mut Resolved, values: &Values<'_>) -> Result<(), Mistake> {
        for name in &self.secrets {
            add_secret(name, workflow, values)?;
        }
        for text in &self.env {
            let EnvEntry { name, value } = file::env_text(text).map_err(|reason| wrong("--env", &reason))?;
            workflow.env.push((name, value.map(Filled::plain)));
        }
        for text in &self.artifacts {
            let (path, mount) = artifact(text).map_err(|reason| wrong("--artifact", &reason))?;
            add_artifact(workflow, given("--artifact", path), mount);
        }
        for text in &self.ports {
            let port: Port = parsed("--ports", text, numbers::port)?;
            workflow.ports.retain(|other| other.value.container != port.container);
            workflow.ports.push(given("--ports", port));
        }
        if let Some(dir) = &self.working_dir {
            workflow.working_dir = Some(given("--workdir", dir.clone()));
        }
        if let Some(text) = &self.cpu {
            workflow.cpu = Some(given("--cpu", parsed("--cpu", text, numbers::cpus)?));
        }
        if let Some(text) = &self.memory {
            workflow.memory = Some(given("--memory", size("--memory", text)?));
        }
        if let Some(text) = &self.shm_size {
            workflow.shm_size = Some(given("--shm-size", size("--shm-size", text)?));
        }
        self.gpu(workflow)
    }

    fn gpu(&self, workflow: &mut Resolved) -> Result<(), Mistake> {
        let count = self.gpu.as_deref().map(|text| parsed("--gpu", text, numbers::gpu_count)).transpose()?;
        let memory = self.gpu_memory.as_deref().map(|text| size("--gpu-memory", text)).transpose()?;
        let (flag, other) = match (&self.gpu, &self.gpu_name, &self.gpu_memory) {
            (None, None, None) => return Ok(()),
            (Some(_), None, None) => ("--gpu", None),
            (_, Some(_), _) => ("--gpu-name", Some("--gpu-name")),
            (_, None, Some(_)) => ("--gpu-memory", Some("--gpu-memory")),
        };
        if let (Some(0), Some(other)) = (count, other) {
            return Err(wrong("--gpu", &format!("`0` takes the GPUs away, and `{other}` asks for one")));
        }
        if count == Some(0) {
            workflow.gpu = None;
            return Ok(());
        }
        let before = workflow.gpu.take().map(|given| given.value);
        let none = ResolvedGpu { count: 1, name: None, memory: None };
        let ResolvedGpu { count: before, name, memory: least } = before.unwrap_or(none);
        // A file's `gpu: 0` says that there is no need; who names a model has one.
        let count = count.unwrap_or(before.max(1));
        let value = ResolvedGpu { count, name: self.gpu_name.clone().or(name), memory: memory.or(least) };
        workflow.gpu = Some(given(flag, value));
        Ok(())
    }
}

fn add_secret(name: &str, workflow: &mut Resolved, values: &Values<'_>) -> Result<(), Mistake> {
    if let Some((name, _)) = name.split_once('=') {
        let reason = format!("it takes a name only\nhint: `dockless secrets add {}` keeps a value", shown(name));
        return Err(wrong("--secret", &reason));
    }
    file::env_text(name).map_err(|reason| wrong("--secret", &reason))?;
    workflow.add_secret_env(name, values)
}

/// Reads `PATH[:mount]`: the path, and whether it is mounted.
pub fn artifact(text: &str) -> Result<(String, bool), String> {
    let (path, mount) = text.strip_suffix(":mount").map_or((text, false), |path| (path, true));
    match path.rsplit_once(':') {
        // A path may hold a colon, but a last part without a slash is a slip.
        Some((_, mode)) if !mode.contains('/') => {
            Err(format!("`{}` ends in `:{}`, expected `PATH` or `PATH:mount`", shown(text), shown(mode)))
        }
        _ => Ok((path.to_owned(), mount)),
    }
}

/// Adds an artifact, or replaces the one of that path.
fn add_artifact(workflow: &mut Resolved, path: Given<String>, mount: bool) {
    if let Ok(normal) = path.value.parse::<ArtifactPath>() {
        workflow.artifacts.retain(|(other, _)| other.value.parse().ok().as_ref() != Some(&normal));
    }
    workflow.artifacts.push((path, mount));
}

fn size(flag: &'static str, text: &str) -> Result<ByteSize, Mistake> {
    parsed(flag, text, numbers::size_text)
}

fn parsed<T>(flag: &'static str, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Mistake> {
    // The file's hints say to leave a key away.
    parse(text).map_err(|reason| wrong(flag, &reason.replace("leave the key away", "leave the flag away")))
}

const fn given<T>(flag: &'static str, value: T) -> Given<T> {
    Given { value, place: Place::Flag(flag) }
}

fn wrong(flag: &str, reason: &dyn fmt::Display) -> Mistake {
    Mistake::of_flag(Problem::bad_value(flag, reason))
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::find::{FindError, Workflows};
    use super::super::run::{Prepared, prepare};
    use super::*;

    const FILE: &str = "\
workflows:
  - name: a
    image: i
    commands: [a]
    env: [A=1, B=2]
    home_dir: /root
    artifacts: [out, {path: logs, mount: true}]
    ports: [8080]
    resources: {cpu: 2, memory: 1GB, gpu: {name: K80, count: 4, memory: 12GB}}
";

    fn prepared(overrides: &Overrides) -> Result<Prepared, String> {
        prepared_in(FILE, overrides)
    }

    fn prepared_in(file: &str, overrides: &Overrides) -> Result<Prepared, String> {
        let workflows = Workflows::of(parse("w.yaml", file.as_bytes()).unwrap());
        let secret = |name: &str| Ok((name == "TOKEN").then(|| "hunter2".to_owned()));
        let values = Values { run_name: "r", args: &[], env: &|_| None, secret: &secret };
        prepare(&workflows, "a", overrides, &values).map_err(|error| match error {
            FindError::Mistake(mistake) => mistake.to_string(),
            other => panic!("{other}"),
        })
    }

    fn with(change: impl FnOnce(&mut Overrides)) -> Overrides {
        let mut overrides = Overrides::default();
        change(&mut overrides);
        overrides
    }

    #[test]
    fn no_flag_changes_nothing() {
        let plan = prepared(&Overrides::default()).unwrap().plan;
        assert_eq!((plan.env.len(), plan.artifacts.len(), plan.ports.len(), plan.cpus), (2, 2, 1, Some(2.0)));
        assert_eq!(plan.gpus.unwrap().count, 4);
    }

    #[test]
    fn every_flag_has_its_effect() {
        let Prepared { plan, shown } = prepared(&Overrides {
            env: vec!["A=x=y".to_owned(), "C".to_owned(), "D=".to_owned()],
            artifacts: vec!["./out/:mount".to_owned(), "/more".to_owned(), "~/h".to_owned()],
            working_dir: Some("src".to_owned()),
            cpu: Some("0.5".to_owned()),
            memory: Some("8GiB".to_owned()),
            shm_size: Some("1 gb".to_owned()),
            gpu: Some("2".to_owned()),
            gpu_name: Some("A100".to_owned()),
            gpu_memory: Some("40GB".to_owned()),
            ports: vec!["9090:8080".to_owned(), "81".to_owned()],
            secrets: vec!["TOKEN".to_owned()],
        })
        .unwrap();
        let env = &shown.env;
        assert_eq!(env.keys().collect::<Vec<_>>(), ["TOKEN", "B", "A", "C", "D"]);
        assert_eq!((env["A"].as_str(), env["C"].as_str(), env["TOKEN"].as_str()), (Some("x=y"), None, Some("****")));
        assert_eq!(plan.secret_env, [("TOKEN".to_owned(), Filled::secret("hunter2"))]);
        assert_eq!(plan.secrets[0].expose(), "hunter2");
        let artifacts: Vec<(&str, bool)> = shown.artifacts.iter().map(|it| (it.path.as_str(), it.mount)).collect();
        assert_eq!(artifacts, [("logs", true), ("out", true), ("/more", false), ("~/h", false)]);
        assert_eq!(plan.artifacts[1].container_path.to_str(), Some("/workflow/src/out"));
        assert_eq!(
            (plan.cpus, plan.memory, plan.shm_size),
            (Some(0.5), Some(ByteSize(8 << 30)), Some(ByteSize(1_000_000_000)))
        );
        let gpus = plan.gpus.as_ref().unwrap();
        assert_eq!((gpus.count, gpus.name.as_deref(), gpus.memory), (2, Some("A100"), Some(ByteSize(40_000_000_000))));
        assert_eq!(shown.ports, ["9090:8080", "81:81"]);
        assert!(!format!("{plan:?}{shown:?}").contains("hunter2"), "{plan:?}");
        assert!(!serde_json::to_string(&shown).unwrap().contains("hunter2"));
    }

    #[test]
    fn gpu_flags_keep_what_they_do_not_name() {
        let gpus = |change: fn(&mut Overrides)| prepared(&with(change)).unwrap().plan.gpus;
        assert_eq!(gpus(|o| o.gpu = Some("0".to_owned())), None);
        let one = gpus(|o| o.gpu = Some("1".to_owned())).unwrap();
        assert_eq!((one.count, one.name.as_deref()), (1, Some("K80")));
        let named = gpus(|o| o.gpu_name = Some("V100".to_owned())).unwrap();
        assert_eq!(
            (named.count, named.name.as_deref(), named.memory),
            (4, Some("V100"), Some(ByteSize(12_000_000_000)))
        );
        let file = FILE.replace("gpu: {name: K80, count: 4, memory: 12GB}", "gpu: 0");
        let named = prepared_in(&file, &with(|o| o.gpu_memory = Some("1GB".to_owned()))).unwrap().plan.gpus.unwrap();
        assert_eq!(named.count, 1);
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (overrides, expected) in [
            (with(|o| o.env = vec!["=x".to_owned()]), "`--env` is wrong: the name of the variable `` is empty"),
            (
                with(|o| o.env = vec!["A B=hunter2".to_owned()]),
                "`--env` is wrong: the name of the variable `A B` holds white space",
            ),
            (with(|o| o.artifacts = vec!["out:ro".to_owned()]), "`--artifact` is wrong: `out:ro` ends in `:ro`"),
            (
                with(|o| o.artifacts = vec!["../x".to_owned()]),
                "`--artifact` is wrong: artifact path `../x` contains `..`",
            ),
            (with(|o| o.artifacts = vec!["out/x".to_owned()]), "`--artifact` is wrong: `out/x` and `out` on line 7"),
            (
                with(|o| o.artifacts = vec!["a".to_owned(), "/workflow/a/b".to_owned()]),
                "`/workflow/a/b` and `a` of `--artifact`",
            ),
            (with(|o| o.working_dir = Some("../x".to_owned())), "`--workdir` is wrong: `../x` contains `..`"),
            (with(|o| o.working_dir = Some(String::new())), "`--workdir` is wrong: `` is empty"),
            (with(|o| o.cpu = Some("0".to_owned())), "`--cpu` is wrong: `0` is not a number of cores"),
            (
                with(|o| o.memory = Some("1kb".to_owned())),
                "`--memory` is wrong: 1000 B is too little to start with, the least is 6 MiB",
            ),
            (with(|o| o.memory = Some("0".to_owned())), "hint: leave the flag away for no limit"),
            (with(|o| o.shm_size = Some("big".to_owned())), "`--shm-size` is wrong: size `big` is malformed"),
            (with(|o| o.gpu = Some("all".to_owned())), "`--gpu` is wrong: `all` is not a number of GPUs"),
            (with(|o| o.gpu_name = Some(String::new())), "`--gpu-name` is wrong: it is empty"),
            (with(|o| o.gpu_memory = Some("x".to_owned())), "`--gpu-memory` is wrong: size `x` is malformed"),
            (
                with(|o| (o.gpu, o.gpu_name) = (Some("0".to_owned()), Some("K80".to_owned()))),
                "`--gpu` is wrong: `0` takes the GPUs away, and `--gpu-name` asks for one",
            ),
            (with(|o| o.ports = vec!["0".to_owned()]), "`--ports` is wrong: `0` is not a port"),
            (with(|o| o.ports = vec!["8080:9".to_owned()]), "`--ports` is wrong: port 8080 of the host stands twice"),
            (with(|o| o.secrets = vec!["NONE".to_owned()]), "`--secret` is wrong: there is no secret `NONE`"),
            (with(|o| o.secrets = vec!["NONE=hunter2".to_owned()]), "`--secret` is wrong: it takes a name only"),
        ] {
            let text = prepared(&overrides).unwrap_err();
            assert!(text.contains(expected) && text.starts_with("`--"), "{overrides:?} gave: {text}");
            assert!(!text.contains("hunter2") && !format!("{overrides:?}").contains("hunter2"), "{text}");
        }
    }
}
