//! What to run: one workflow of a file, checked and put into the engine's terms, with no I/O.
//!
//! A part of the schema that does not work yet is refused here with its place, never ignored. So is `${{ … }}`, except
//! in `help`, which runs nothing.

use std::path::{Component, Path, PathBuf};

use super::commands;
use super::fields::nearest;
use super::file::{Artifact, EnvEntry, Resources, Workflow};
use super::mistake::{Mistake, Problem, shown};
use super::source::{At, Span, Text};
use crate::artifact::{ArtifactPath, Declared, overlap};
use crate::image::{ByteSize, Reference};

/// Where the project directory is in the container.
pub const PROJECT_DIR: &str = "/workflow";

/// A workflow that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workflow's name.
    pub name: String,
    /// The image.
    pub image: Reference,
    /// Replaces the image's entrypoint; `None` leaves it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; empty with no `entrypoint` leaves it.
    pub command: Vec<String>,
    /// Variables in order, later wins; without a value the caller's is taken.
    pub env: Vec<(String, Option<String>)>,
    /// The working directory, an absolute path in the container.
    pub working_dir: PathBuf,
    /// What to keep; no two of them overlap.
    pub artifacts: Vec<Declared>,
    /// Number of cores, at least [`MIN_CPUS`](super::file::MIN_CPUS).
    pub cpus: Option<f64>,
    /// Memory limit.
    pub memory: Option<ByteSize>,
    /// Size of `/dev/shm`.
    pub shm_size: Option<ByteSize>,
}

/// Checks a workflow and says what to run.
///
/// # Errors
/// The first [`Mistake`]: a part that is not supported yet, no image, a path that cannot be.
pub fn plan(workflow: &Workflow) -> Result<Plan, Mistake> {
    let check = Check { workflow };
    check.provider()?;
    check.nothing_unsupported()?;
    let image = check.image()?;
    let working_dir = check.working_dir()?;
    let Resources { cpu, memory, shm_size, .. } = &workflow.resources;
    let (entrypoint, command) = match check.commands()? {
        Some(script) => (Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]), vec![script]),
        None => (None, Vec::new()),
    };
    Ok(Plan {
        name: workflow.name.value.clone(),
        image,
        entrypoint,
        command,
        env: check.env()?,
        artifacts: check.artifacts(&working_dir)?,
        working_dir,
        cpus: check.optional(cpu.as_ref(), "cpu")?.copied(),
        memory: check.optional(memory.as_ref(), "memory")?.copied(),
        shm_size: check.optional(shm_size.as_ref(), "shm_size")?.copied(),
    })
}

/// The environment that every run of a workflow gets, before its own. There are no GPUs to give yet.
#[must_use]
pub fn builtin_env(run_name: &str, host_name: &str, artifacts: &[Declared]) -> Vec<(String, String)> {
    let paths: Vec<String> = artifacts.iter().map(|artifact| artifact.container_path.display().to_string()).collect();
    // One path in each line: a declared path may hold a colon or a space but no control character.
    let paths = paths.join("\n");
    [
        ("PYTHONUNBUFFERED", "1"),
        ("RUN_NAME", run_name),
        ("JOB_ID", run_name),
        ("JOB_HOSTNAME", host_name),
        ("DOCKLESS_GPUS_NUM", "0"),
        ("DOCKLESS_ARTIFACTS", &paths),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

struct Check<'a> {
    workflow: &'a Workflow,
}

impl<'a> Check<'a> {
    fn mistake(&self, span: Span, problem: Problem) -> Mistake {
        self.workflow.mistake(span, problem)
    }

    /// The value, or a mistake when it is a template.
    fn literal<'t, T>(&self, text: &'t Text<T>, span: Span, key: &str) -> Result<&'t T, Mistake> {
        text.literal().ok_or_else(|| {
            let what = format!("interpolation (`${{{{ … }}}}` in `{key}`) is");
            self.mistake(span, Problem::NotSupported { what, hint: "write the value out" })
        })
    }

    fn optional<'t, T>(&self, value: Option<&'t At<Text<T>>>, key: &str) -> Result<Option<&'t T>, Mistake> {
        value.map(|at| self.literal(&at.value, at.span, key)).transpose()
    }

    fn provider(&self) -> Result<(), Mistake> {
        let Some(at) = &self.workflow.provider else { return Ok(()) };
        let provider = self.literal(&at.value, at.span, "provider")?;
        if provider == "docker" {
            return Ok(());
        }
        let reason = format!("there is no provider `{}`, expected `docker`", shown(provider));
        let hint = match nearest(provider, ["docker"].into_iter()) {
            Some(_) => "write `docker`, or leave the key away",
            None => "with `provider: docker`, name an `image` that has what the workflow needs",
        };
        Err(self
            .mistake(at.span, Problem::BadValue { key: "provider".to_owned(), reason, hint: Some(hint.to_owned()) }))
    }

    /// Refuses each key that is parsed but does not work yet.
    fn nothing_unsupported(&self) -> Result<(), Mistake> {
        let Workflow { before_run, entrypoint, home_dir, cache, deps, ports, free_ports, registry_auth, .. } =
            self.workflow;
        let Workflow { file, requirements, version, .. } = self.workflow;
        let keys = [
            ("before_run", span(before_run.as_ref()), "put these commands first in `commands`"),
            ("entrypoint", span(entrypoint.as_ref()), "call the program in `commands`"),
            ("home_dir", span(home_dir.as_ref()), "set the variable `HOME` in `env`"),
            ("cache", span(cache.as_ref()), "use a directory of the project, which is mounted at `/workflow`"),
            ("deps", span(deps.as_ref()), "copy them into the project with `dockless artifacts cp RUN DIR`"),
            ("ports", span(ports.as_ref()), "leave it away: the run shares the host's network"),
            ("ports", span(free_ports.as_ref()), "take a port yourself: the run shares the host's network"),
            ("registry_auth", span(registry_auth.as_ref()), "log in with docker or podman, whose credentials are used"),
            ("file", span(file.as_ref()), "call it in `commands`: `python FILE`"),
            ("requirements", span(requirements.as_ref()), "install it in `commands`: `pip install -r FILE`"),
            ("version", span(version.as_ref()), "name an `image` such as `python:3.12`"),
        ];
        let first = keys
            .into_iter()
            .filter_map(|(key, span, hint)| Some((key, span?, hint)))
            .min_by_key(|(_, span, _)| (span.line, span.column));
        match first {
            Some((key, span, hint)) => {
                let mistake = self.mistake(span, Problem::NotSupported { what: format!("`{key}` is"), hint });
                // `registry_auth: {username: …, password: …}` stands in one line.
                Err(if key == "registry_auth" { mistake.concealed() } else { mistake })
            }
            None => self.no_unsupported_resource(),
        }
    }

    fn no_unsupported_resource(&self) -> Result<(), Mistake> {
        let Resources { gpu, interruptible, .. } = &self.workflow.resources;
        if let Some(gpu) = gpu
            && *self.literal(&gpu.value.count, gpu.span, "gpu")? != 0
        {
            let hint = "leave `gpu` away to run without";
            return Err(self.mistake(gpu.span, Problem::NotSupported { what: "GPUs are".to_owned(), hint }));
        }
        match interruptible {
            Some(At { value: true, span }) => Err(self.mistake(
                *span,
                Problem::NotSupported { what: "`interruptible: true` is".to_owned(), hint: "leave it away" },
            )),
            _ => Ok(()),
        }
    }

    fn image(&self) -> Result<Reference, Mistake> {
        match self.optional(self.workflow.image.as_ref(), "image")? {
            Some(image) => Ok(image.clone()),
            None => Err(self.mistake(
                self.workflow.name.span,
                Problem::MissingKey {
                    key: "image",
                    context: format!("workflow `{}`", self.workflow.name.value),
                    hint: "add `image: NAME[:TAG]`".to_owned(),
                },
            )),
        }
    }

    /// The joined commands; `None` when the key is not given.
    fn commands(&self) -> Result<Option<String>, Mistake> {
        let Some(At { value: commands, span }) = &self.workflow.commands else { return Ok(None) };
        let mut texts = Vec::with_capacity(commands.len());
        for command in commands {
            texts.push(self.literal(&command.value, command.span, "commands")?.as_str());
        }
        if let Some(script) = commands::join(texts) {
            return Ok(Some(script));
        }
        Err(self.mistake(
            *span,
            Problem::BadValue {
                key: "commands".to_owned(),
                reason: "there is no command in it".to_owned(),
                hint: Some("leave the key away to run what the image runs by itself".to_owned()),
            },
        ))
    }

    fn env(&self) -> Result<Vec<(String, Option<String>)>, Mistake> {
        let entry = |at: &'a At<Text<EnvEntry>>| {
            let EnvEntry { name, value } = self.literal(&at.value, at.span, "env")?;
            Ok((name.clone(), value.clone()))
        };
        self.workflow.env.iter().map(entry).collect()
    }

    fn working_dir(&self) -> Result<PathBuf, Mistake> {
        let Some(at) = &self.workflow.working_dir else { return Ok(PathBuf::from(PROJECT_DIR)) };
        let text = self.literal(&at.value, at.span, "working_dir")?;
        let bad = |reason: &str| {
            let reason = format!("`{}` {reason}", shown(text));
            self.mistake(at.span, Problem::BadValue { key: "working_dir".to_owned(), reason, hint: None })
        };
        if text.is_empty() {
            return Err(bad("is empty, expected a path"));
        }
        let mut path = if text.starts_with('/') { PathBuf::from("/") } else { PathBuf::from(PROJECT_DIR) };
        for component in Path::new(text).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::ParentDir => {
                    return Err(bad("contains `..`, expected a path in the project or an absolute path"));
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(path)
    }

    fn artifacts(&self, working_dir: &Path) -> Result<Vec<Declared>, Mistake> {
        let artifacts = &self.workflow.artifacts;
        let declared: Vec<Declared> =
            artifacts.iter().map(|artifact| self.artifact(artifact, working_dir)).collect::<Result<_, _>>()?;
        let Some((first, second)) = overlap(&declared) else { return Ok(declared) };
        let (first_at, second_at) = (artifacts[first].path.span, artifacts[second].path.span);
        let reason = format!(
            "`{}` and `{}` on line {} are one directory or one is in the other",
            shown(&declared[second].path.to_string()),
            shown(&declared[first].path.to_string()),
            first_at.line
        );
        let hint = Some("keep the outer one".to_owned());
        Err(self.mistake(second_at, Problem::BadValue { key: "path".to_owned(), reason, hint }))
    }

    fn artifact(&self, artifact: &Artifact, working_dir: &Path) -> Result<Declared, Mistake> {
        let At { value, span } = &artifact.path;
        let text = self.literal(value, *span, "path")?;
        let declared = text
            .parse::<ArtifactPath>()
            .and_then(|path| Declared::new(path, artifact.mount, working_dir, None))
            .map_err(|error| self.mistake(*span, Problem::bad_value("path", &error)))?;
        if declared.container_path == Path::new(PROJECT_DIR) {
            let reason = format!("`{}` is the project directory itself", shown(text));
            let hint = Some("name a directory in it such as `output`".to_owned());
            return Err(self.mistake(*span, Problem::BadValue { key: "path".to_owned(), reason, hint }));
        }
        Ok(declared)
    }
}

fn span<T>(value: Option<&At<T>>) -> Option<Span> {
    value.map(|at| at.span)
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    fn planned(lines: &str) -> Result<Plan, Mistake> {
        let indented = lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        let file = parse("w.yaml", format!("workflows:\n  - name: a\n{indented}").as_bytes());
        plan(&file.unwrap_or_else(|mistake| panic!("{mistake}")).workflows[0])
    }

    #[test]
    fn the_seeds_example() {
        let text = "\
workflows:
  - name: train
    provider: docker
    image: ubuntu
    commands:
      - mkdir -p output
      - echo 'Hello, world!' > output/hello.txt
    artifacts:
      - path: output
";
        let file = parse("w.yaml", text.as_bytes()).unwrap();
        let declared = |path: &str| Declared::new(path.parse().unwrap(), false, Path::new("/workflow"), None).unwrap();
        assert_eq!(
            plan(&file.workflows[0]).unwrap(),
            Plan {
                name: "train".to_owned(),
                image: "ubuntu".parse().unwrap(),
                entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
                command: vec!["mkdir -p output && echo 'Hello, world!' > output/hello.txt".to_owned()],
                env: Vec::new(),
                working_dir: PathBuf::from("/workflow"),
                artifacts: vec![declared("output")],
                cpus: None,
                memory: None,
                shm_size: None,
            }
        );
    }

    #[test]
    fn everything_that_works_today() {
        let plan = planned(
            "help: uses ${{ nothing }}\nimage: a/b:1\nenv: [A=1, B]\nworking_dir: ./src//x\n\
             artifacts: [./out/, {path: /models, mount: true}]\n\
             resources: {cpu: 0.5, memory: 64MiB, shm_size: 1GB, gpu: 0, interruptible: false, local: true}",
        )
        .unwrap_or_else(|mistake| panic!("{mistake}"));
        assert_eq!((plan.entrypoint, plan.command), (None, Vec::new()));
        assert_eq!(plan.env, [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)]);
        assert_eq!(plan.working_dir, Path::new("/workflow/src/x"));
        let artifacts: Vec<(String, bool)> =
            plan.artifacts.iter().map(|a| (a.container_path.display().to_string(), a.mount)).collect();
        assert_eq!(artifacts, [("/workflow/src/x/out".to_owned(), false), ("/models".to_owned(), true)]);
        assert_eq!(
            (plan.cpus, plan.memory, plan.shm_size),
            (Some(0.5), Some(ByteSize(64 << 20)), Some(ByteSize(1_000_000_000)))
        );
        assert_eq!(planned("image: a\nworking_dir: /data").unwrap().working_dir, Path::new("/data"));
    }

    #[test]
    fn what_does_not_work_yet_is_refused_and_not_ignored() {
        for (lines, place, expected) in [
            ("before_run: [a]", "4:5", "`before_run` is not supported yet"),
            ("setup: [a]", "4:5", "`before_run` is not supported yet"),
            ("entrypoint: /bin/bash -c", "4:5", "`entrypoint` is not supported yet"),
            ("home_dir: /root", "4:5", "`home_dir` is not supported yet"),
            ("cache: [x]", "4:5", "`cache` is not supported yet"),
            ("deps: [{tag: x}]", "4:5", "`deps` is not supported yet"),
            ("ports: [80]", "4:5", "`ports` is not supported yet"),
            ("ports: 1", "4:5", "`ports` is not supported yet"),
            ("registry_auth: {username: me, password: hunter2}", "4:5", "`registry_auth` is not supported yet"),
            ("file: a.py", "4:5", "`file` is not supported yet"),
            ("requirements: r.txt", "4:5", "`requirements` is not supported yet"),
            ("version: 3.10", "4:5", "`version` is not supported yet"),
            ("resources: {gpu: 1}", "4:17", "GPUs are not supported yet"),
            ("resources: {gpu: {name: K80}}", "4:17", "GPUs are not supported yet"),
            ("resources: {interruptible: true}", "4:32", "`interruptible: true` is not supported yet"),
            (
                "commands: [\"echo ${{ run.name }}\"]",
                "4:16",
                "interpolation (`${{ … }}` in `commands`) is not supported yet",
            ),
            ("env: {A: \"${{ secrets.B }}\"}", "4:14", "interpolation (`${{ … }}` in `env`)"),
            ("env: [\"A=${{ secrets.B }}\"]", "4:11", "interpolation (`${{ … }}` in `env`)"),
            ("working_dir: ${{ env.X }}", "4:18", "interpolation (`${{ … }}` in `working_dir`)"),
            ("artifacts: [{path: \"${{ env.X }}\"}]", "4:24", "interpolation (`${{ … }}` in `path`)"),
            ("resources: {memory: \"${{ env.X }}\"}", "4:25", "interpolation (`${{ … }}` in `memory`)"),
            ("resources: {gpu: \"${{ env.X }}\"}", "4:17", "interpolation (`${{ … }}` in `gpu`)"),
            ("provider: ${{ env.X }}", "4:15", "interpolation (`${{ … }}` in `provider`)"),
            ("version: 3.10\nfile: x", "4:5", "`version` is not supported yet"),
        ] {
            let text = planned(&format!("image: ubuntu\n{lines}")).unwrap_err().to_string();
            assert!(text.starts_with(&format!("w.yaml:{place}: ")), "{lines:?} gave: {text}");
            assert!(text.contains(expected) && text.contains("\nhint: "), "{lines:?} gave: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let text = planned("image: \"x:${{ env.TAG }}\"").unwrap_err().to_string();
        assert!(text.starts_with("w.yaml:3:12: interpolation (`${{ … }}` in `image`)"), "{text}");
    }

    #[test]
    fn what_cannot_be_run() {
        for (lines, place, expected) in [
            ("help: x", "2:11", "workflow `a` has no `image`"),
            ("provider: bash", "3:15", "there is no provider `bash`, expected `docker`"),
            ("provider: dokcer", "3:15", "hint: write `docker`"),
            ("image: a\ncommands: []", "4:5", "`commands` is wrong: there is no command in it"),
            ("image: a\ncommands: |\n  # x\n", "4:5", "there is no command in it"),
            ("image: a\nworking_dir: ../x", "4:18", "`../x` contains `..`"),
            ("image: a\nworking_dir: /x/../y", "4:18", "contains `..`"),
            ("image: a\nworking_dir: \"\"", "4:18", "is empty"),
            ("image: a\nartifacts: [/]", "4:17", "whole file system"),
            ("image: a\nartifacts: [../x]", "4:17", "contains `..`"),
            ("image: a\nartifacts: [~/x]", "4:17", "hint: set `home_dir`"),
            ("image: a\nartifacts: [.]", "4:17", "the working directory itself"),
            ("image: a\nartifacts: [/workflow]", "4:17", "the working directory itself"),
            ("image: a\nartifacts: [/workflow/]\nworking_dir: x", "4:17", "holds the working directory `/workflow/x`"),
            ("image: a\nartifacts: [/workflow]\nworking_dir: /data", "4:17", "the project directory itself"),
            ("image: a\nartifacts: [/proc/x]", "4:17", "which the kernel provides"),
            ("image: a\nartifacts:\n  - a\n  - ./a/", "6:9", "`a` and `a` on line 5 are one directory"),
            (
                "image: a\nartifacts:\n  - {path: a/b}\n  - {path: /workflow/a}",
                "6:16",
                "`/workflow/a` and `a/b` on line 5",
            ),
        ] {
            let text = planned(lines).unwrap_err().to_string();
            assert!(text.starts_with(&format!("w.yaml:{place}: ")), "{lines:?} gave: {text}");
            assert!(text.contains(expected), "{lines:?} gave: {text}");
        }
    }

    #[test]
    fn variables_of_every_run() {
        let plan = planned("image: a\nartifacts: [out, /models]").unwrap();
        let env = builtin_env("clever-otter-1", "host", &plan.artifacts);
        let value = |name: &str| env.iter().find(|(key, _)| key == name).unwrap().1.as_str();
        assert_eq!(value("PYTHONUNBUFFERED"), "1");
        assert_eq!(value("RUN_NAME"), "clever-otter-1");
        assert_eq!(value("JOB_HOSTNAME"), "host");
        assert_eq!(value("DOCKLESS_GPUS_NUM"), "0");
        assert_eq!(value("DOCKLESS_ARTIFACTS"), "/workflow/out\n/models");
    }
}
