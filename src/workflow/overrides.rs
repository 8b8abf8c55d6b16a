//! Flags of `workflow run` and `workflow show` over what the file says. They go through the same checks; what is wrong with
//! one is a [`Mistake`] that names the flag.
//!
//! `--env` comes after the workflow's `env` and wins. `--artifact` and `--port` add to what is there; one with the path (or
//! the container's port) of another takes its place. The other flags replace a value. `--gpu 0` takes the GPUs away.

use std::fmt;

use super::file::{self, EnvEntry, Port};
use super::interpolate::{Filled, Given, Place, Resolved, ResolvedGpu, Values};
use super::mistake::{Mistake, Problem, shown};
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
            self.secret(name, workflow, values)?;
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
            let port: Port = parsed("--ports", text, file::port)?;
            workflow.ports.retain(|other| other.value.container != port.container);
            workflow.ports.push(given("--ports", port));
        }
        if let Some(dir) = &self.working_dir {
            workflow.working_dir = Some(given("--workdir", dir.clone()));
        }
        if let Some(text) = &self.cpu {
            workflow.cpu = Some(given("--cpu", parsed("--cpu", text, file::cpus)?));
        }
        if let Some(text) = &self.memory {
            workflow.memory = Some(given("--memory", size("--memory", text)?));
        }
        if let Some(text) = &self.shm_size {
            workflow.shm_size = Some(given("--shm-size", size("--shm-size", text)?));
        }
        self.gpu(workflow)
    }

    fn secret(&self, name: &str, workflow: &mut Resolved, values: &Values<'_>) -> Result<(), Mistake> {
        if let Some((name, _)) = name.split_once('=') {
            let reason = format!("it takes a name only\nhint: `dockless secrets add {}` keeps a value", shown(name));
            return Err(wrong("--secret", &reason));
        }
        file::env_text(name).map_err(|reason| wrong("--secret", &reason))?;
        workflow.add_secret_env(name, values)
    }

    fn gpu(&self, workflow: &mut Resolved) -> Result<(), Mistake> {
        let count = self.gpu.as_deref().map(|text| parsed("--gpu", text, file::gpu_count)).transpose()?;
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
    parsed(flag, text, file::size_text)
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
