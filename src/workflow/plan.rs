//! What to run: one workflow of a file, filled in, checked and put into the engine's terms, with no I/O.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::file::Port;
use super::interpolate::{Filled, Given, Place, Resolved, ResolvedDependency, ResolvedGpu, UsedSecret};
use super::mistake::{Mistake, Problem, shown};
use super::program::{self, Program};
use crate::artifact::{ArtifactPath, Declared, overlap};
use crate::gpu;
use crate::image::{ByteSize, Reference};
use crate::spec::{Cpus, MemoryLimit};
use crate::words::nearest;

pub use crate::engine::STEP_FILE;

/// Where the project directory is in the container.
pub const PROJECT_DIR: &str = "/workflow";

/// A workflow that can be run. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workflow's name.
    pub name: String,
    /// The image.
    pub image: Reference,
    /// How to log in where it comes from.
    pub registry_auth: Option<Credentials>,
    /// Replaces the image's entrypoint; `None` leaves it.
    pub entrypoint: Option<Vec<Filled>>,
    /// Replaces the image's command; empty with no `entrypoint` leaves it.
    pub command: Vec<Filled>,
    /// A label of each command, for reports, with secrets masked. With two or more, read by a shell, [`STEP_FILE`] in the
    /// container holds the number of the one that runs, from 1 on.
    pub steps: Vec<String>,
    /// Variables that are secrets; over the built-in ones.
    pub secret_env: Vec<(String, Filled)>,
    /// Variables in order, later wins; without a value the caller's is taken. Over the secrets.
    pub env: Vec<(String, Option<Filled>)>,
    /// The working directory, an absolute path in the container.
    pub working_dir: PathBuf,
    /// The home directory, an absolute path in the container.
    pub home_dir: Option<PathBuf>,
    /// What to keep; no two of them overlap.
    pub artifacts: Vec<Declared>,
    /// Directories to share between runs of this workflow: absolute paths in the container, in normal form. No two of them
    /// overlap, nor does one with an artifact.
    pub cache: Vec<PathBuf>,
    /// Runs whose artifacts it needs, each once.
    pub deps: Vec<ResolvedDependency>,
    /// Ports; no two of them are one of the host.
    pub ports: Vec<Port>,
    /// How many ports it needs that nobody else has, whichever they are.
    pub free_ports: u16,
    /// Number of cores, at least [`MIN_CPUS`](super::file::MIN_CPUS).
    pub cpus: Option<f64>,
    /// Memory limit.
    pub memory: Option<ByteSize>,
    /// Size of `/dev/shm`.
    pub shm_size: Option<ByteSize>,
    /// GPUs.
    pub gpus: Option<GpuRequest>,
    /// The run may be preempted.
    pub interruptible: bool,
    /// The secrets that are in it, each once.
    pub secrets: Vec<UsedSecret>,
}

/// Name and password for a registry; `Debug` shows neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: Filled,
    /// The password or token.
    pub password: Filled,
}

/// GPUs that a run needs; name and memory hold for each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuRequest {
    /// How many; at least 1.
    pub count: u32,
    /// The model.
    pub name: Option<String>,
    /// The least memory of each.
    pub memory: Option<ByteSize>,
}

impl Port {
    /// The port of the host that it takes.
    #[must_use]
    pub fn on_host(self) -> u16 {
        self.host.unwrap_or(self.container)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.on_host(), self.container)
    }
}

/// Checks a workflow and says what to run.
///
/// # Errors
/// The first [`Mistake`]: no image, nothing to run, a path or a limit that cannot be.
pub fn plan(workflow: &Resolved) -> Result<Plan, Mistake> {
    let check = Check { workflow };
    check.provider()?;
    check.args()?;
    let image = check.image()?;
    let Program { entrypoint, command, steps } = program::program(workflow)?;
    let working_dir = check.working_dir()?;
    let home_dir = check.home_dir()?;
    let directories = Directories { working: &working_dir, home: home_dir.as_deref() };
    let artifacts = check.artifacts(&directories)?;
    let cache = check.cache(&directories, &artifacts)?;
    Ok(Plan {
        name: workflow.name.value.clone(),
        image,
        registry_auth: workflow.registry_auth.clone().map(|(username, password)| Credentials { username, password }),
        entrypoint,
        command,
        steps,
        secret_env: workflow.secret_env.clone(),
        env: workflow.env.clone(),
        artifacts,
        cache,
        deps: check.deps()?,
        ports: check.ports()?,
        free_ports: workflow.free_ports.as_ref().map_or(0, |given| given.value),
        working_dir,
        home_dir,
        cpus: check.cpus()?,
        memory: check.memory()?,
        shm_size: workflow.shm_size.as_ref().map(|given| given.value),
        gpus: check.gpus()?,
        interruptible: workflow.interruptible,
        secrets: workflow.secrets.clone(),
    })
}

/// The environment that every run of a workflow gets, before its own. `DOCKLESS_GPUS_NUM` comes from whoever gives it GPUs.
#[must_use]
pub fn builtin_env(run_name: &str, host_name: &str, plan: &Plan) -> Vec<(String, String)> {
    let paths: Vec<String> = plan.artifacts.iter().map(|it| it.container_path.display().to_string()).collect();
    let mut env = vec![
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("RUN_NAME", run_name.to_owned()),
        ("JOB_ID", run_name.to_owned()),
        ("JOB_HOSTNAME", host_name.to_owned()),
        // One path in each line: a declared path may hold a colon or a space but no control character.
        ("DOCKLESS_ARTIFACTS", paths.join("\n")),
    ];
    if let Some(home) = &plan.home_dir {
        env.push(("HOME", home.display().to_string()));
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Where relative paths and `~/` start.
struct Directories<'a> {
    working: &'a Path,
    home: Option<&'a Path>,
}

struct Check<'a> {
    workflow: &'a Resolved,
}

impl Check<'_> {
    fn provider(&self) -> Result<(), Mistake> {
        let Some(Given { value: provider, place }) = &self.workflow.provider else { return Ok(()) };
        if provider == "docker" {
            return Ok(());
        }
        let hint = match nearest(provider, ["docker"].into_iter()) {
            Some(_) => "write `docker`, or leave the key away",
            None => "with `provider: docker`, name an `image` that has what the workflow needs",
        };
        let reason = format!("there is no provider `{}`, expected `docker`\nhint: {hint}", shown(provider));
        Err(self.workflow.mistake(*place, "provider", &reason))
    }

    /// Arguments that nothing asks for would go lost; a `file` that is run gets them in any case.
    fn args(&self) -> Result<(), Mistake> {
        let Resolved { args, args_used, file, commands, name, .. } = self.workflow;
        if args.is_empty() || *args_used || (file.is_some() && commands.is_none()) {
            return Ok(());
        }
        let reason = format!(
            "workflow `{}` does not use them\nhint: write `${{{{ run.args }}}}` where they belong, e.g. at the end of a command",
            name.value
        );
        Err(self.workflow.mistake(Place::Flag("-- ARGS"), "", &reason))
    }

    fn image(&self) -> Result<Reference, Mistake> {
        program::image(self.workflow)?.ok_or_else(|| {
            let problem = Problem::MissingKey {
                key: "image",
                context: format!("workflow `{}`", self.workflow.name.value),
                hint: "add `image: NAME[:TAG]`".to_owned(),
            };
            Mistake::new(&self.workflow.source, self.workflow.name.span, problem)
        })
    }

    fn working_dir(&self) -> Result<PathBuf, Mistake> {
        let Some(given) = &self.workflow.working_dir else { return Ok(PathBuf::from(PROJECT_DIR)) };
        self.directory(given, "working_dir", Some(Path::new(PROJECT_DIR)))
    }

    fn home_dir(&self) -> Result<Option<PathBuf>, Mistake> {
        self.workflow.home_dir.as_ref().map(|given| self.directory(given, "home_dir", None)).transpose()
    }

    /// An absolute path of the container in normal form; `base` is where relative ones start.
    fn directory(&self, given: &Given<String>, key: &str, base: Option<&Path>) -> Result<PathBuf, Mistake> {
        let text = given.value.as_str();
        let wrong = |reason: &str| Err(self.workflow.mistake(given.place, key, &format!("`{}` {reason}", shown(text))));
        let mut path = match base {
            _ if text.is_empty() => return wrong("is empty, expected a path"),
            _ if text.chars().any(char::is_control) => return wrong("holds a control character"),
            _ if text.starts_with('/') => PathBuf::from("/"),
            Some(base) => base.to_owned(),
            None => return wrong("is relative, expected an absolute path of the container such as `/root`"),
        };
        for component in Path::new(text).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::ParentDir => {
                    let relative = if base.is_some() { "a path in the project or " } else { "" };
                    return wrong(&format!("contains `..`, expected {relative}an absolute path"));
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(path)
    }

    fn artifacts(&self, directories: &Directories<'_>) -> Result<Vec<Declared>, Mistake> {
        let artifacts = &self.workflow.artifacts;
        let declared: Vec<Declared> = artifacts
            .iter()
            .map(|(given, mount)| self.declared(given, *mount, "artifact", directories))
            .collect::<Result<_, _>>()?;
        let given: Vec<&Given<String>> = artifacts.iter().map(|(given, _)| given).collect();
        self.no_overlap(&declared, &given).map(|()| declared)
    }

    fn cache(&self, directories: &Directories<'_>, artifacts: &[Declared]) -> Result<Vec<PathBuf>, Mistake> {
        let cache = &self.workflow.cache;
        let caches: Vec<Declared> =
            cache.iter().map(|given| self.declared(given, false, "cache", directories)).collect::<Result<_, _>>()?;
        let all: Vec<Declared> = artifacts.iter().chain(&caches).cloned().collect();
        let given: Vec<&Given<String>> = self.workflow.artifacts.iter().map(|(given, _)| given).chain(cache).collect();
        self.no_overlap(&all, &given)?;
        Ok(caches.into_iter().map(|cache| cache.container_path).collect())
    }

    /// A directory of the container that is mounted over; `kind` is what messages call it.
    fn declared(
        &self,
        given: &Given<String>,
        mount: bool,
        kind: &str,
        directories: &Directories<'_>,
    ) -> Result<Declared, Mistake> {
        let wrong = |reason: &str| self.workflow.mistake(given.place, "path", &reason);
        let declared = given
            .value
            .parse::<ArtifactPath>()
            .and_then(|path| Declared::new(path, mount, directories.working, directories.home))
            .map_err(|error| wrong(&error.to_string().replacen("artifact path", &format!("{kind} path"), 1)))?;
        if declared.container_path == Path::new(PROJECT_DIR) {
            let path = shown(&given.value);
            return Err(wrong(&format!(
                "`{path}` is the project directory itself\nhint: name a directory in it such as `output`"
            )));
        }
        Ok(declared)
    }

    fn no_overlap(&self, declared: &[Declared], given: &[&Given<String>]) -> Result<(), Mistake> {
        let Some((first, second)) = overlap(declared) else { return Ok(()) };
        let where_first = match given[first].place {
            Place::File(span) => format!(" on line {}", span.line),
            Place::Flag(flag) => format!(" of `{flag}`"),
        };
        let reason = format!(
            "`{}` and `{}`{where_first} are one directory or one is in the other\nhint: keep the outer one",
            shown(&declared[second].path.to_string()),
            shown(&declared[first].path.to_string()),
        );
        Err(self.workflow.mistake(given[second].place, "path", &reason))
    }

    /// Whether each is there is [`deps`](super::deps)' to say, who knows the project.
    fn deps(&self) -> Result<Vec<ResolvedDependency>, Mistake> {
        let mut deps: Vec<ResolvedDependency> = Vec::new();
        for Given { value, place } in &self.workflow.deps {
            let (ResolvedDependency::Workflow(name) | ResolvedDependency::Tag(name)) = value;
            let key = if matches!(value, ResolvedDependency::Tag(_)) { "tag" } else { "workflow" };
            if name.is_empty() {
                return Err(self.workflow.mistake(*place, key, &"the name is empty"));
            }
            if key == "workflow" && *name == self.workflow.name.value {
                return Err(self.workflow.mistake(*place, key, &"the workflow needs itself"));
            }
            if !deps.contains(value) {
                deps.push(value.clone());
            }
        }
        Ok(deps)
    }

    fn ports(&self) -> Result<Vec<Port>, Mistake> {
        let mut ports: Vec<Port> = Vec::new();
        for Given { value, place } in &self.workflow.ports {
            if ports.iter().any(|other| other.on_host() == value.on_host()) {
                let reason = format!("port {} of the host stands twice\nhint: keep one of the two", value.on_host());
                return Err(self.workflow.mistake(*place, "ports", &reason));
            }
            ports.push(*value);
        }
        Ok(ports)
    }

    fn cpus(&self) -> Result<Option<f64>, Mistake> {
        let Some(Given { value, place }) = &self.workflow.cpu else { return Ok(None) };
        let checked = value.to_string().parse::<Cpus>();
        checked.map(|_| Some(*value)).map_err(|error| self.workflow.mistake(*place, "cpu", &error))
    }

    fn memory(&self) -> Result<Option<ByteSize>, Mistake> {
        let Some(Given { value, place }) = &self.workflow.memory else { return Ok(None) };
        if *value < MemoryLimit::LEAST {
            let reason = format!("{value} is too little to start with, the least is {}", MemoryLimit::LEAST);
            return Err(self.workflow.mistake(*place, "memory", &reason));
        }
        MemoryLimit::new(*value)
            .map(|limit| Some(limit.size()))
            .map_err(|error| self.workflow.mistake(*place, "memory", &error))
    }

    fn gpus(&self) -> Result<Option<GpuRequest>, Mistake> {
        let Some(Given { value, place }) = &self.workflow.gpu else { return Ok(None) };
        let ResolvedGpu { count, name, memory } = value.clone();
        if name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(self.workflow.mistake(*place, "name", &"it is empty, expected a GPU model such as `V100`"));
        }
        gpu::GpuRequest::from_workflow(count, name.as_deref(), memory)
            .map_err(|error| self.workflow.mistake(*place, "gpu", &error))?;
        Ok((count > 0).then(|| GpuRequest { count, name: name.map(|name| name.trim().to_owned()), memory }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::interpolate::{Values, resolve};
    use super::*;

    fn workflow(lines: &str) -> String {
        let indented = lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        format!("workflows:\n  - name: a\n{indented}")
    }

    fn planned(lines: &str) -> Result<Plan, Mistake> {
        planned_with(lines, &[])
    }

    fn planned_with(lines: &str, args: &[&str]) -> Result<Plan, Mistake> {
        let file = parse("w.yaml", workflow(lines).as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}"));
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let values = Values { run_name: "swift-fox-1", args: &args, env: &|_| None, secret: &|_| Ok(None) };
        plan(&resolve(&file.workflows[0], &values)?)
    }

    fn texts(words: &[Filled]) -> Vec<&str> {
        words.iter().map(Filled::expose).collect()
    }

    fn sh() -> Vec<Filled> {
        ["/bin/sh", "-c"].map(Filled::plain).to_vec()
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
    resources:
      gpu:
        name: \"K80\"
        count: 1
";
        let file = parse("w.yaml", text.as_bytes()).unwrap();
        let declared = |path: &str| Declared::new(path.parse().unwrap(), false, Path::new("/workflow"), None).unwrap();
        let values = Values { run_name: "r", args: &[], env: &|_| None, secret: &|_| Ok(None) };
        let script = "{ command echo 1 >|/run/dockless/step; } 2>/dev/null || :\nmkdir -p output || exit\n\
                      { command echo 2 >|/run/dockless/step; } 2>/dev/null || :\n\
                      echo 'Hello, world!' > output/hello.txt";
        assert_eq!(
            plan(&resolve(&file.workflows[0], &values).unwrap()).unwrap(),
            Plan {
                name: "train".to_owned(),
                image: "ubuntu".parse().unwrap(),
                registry_auth: None,
                entrypoint: Some(sh()),
                command: vec![Filled::plain(script)],
                steps: vec!["mkdir -p output".to_owned(), "echo 'Hello, world!' > output/hello.txt".to_owned()],
                secret_env: Vec::new(),
                env: Vec::new(),
                working_dir: PathBuf::from("/workflow"),
                home_dir: None,
                artifacts: vec![declared("output")],
                cache: Vec::new(),
                deps: Vec::new(),
                ports: Vec::new(),
                free_ports: 0,
                cpus: None,
                memory: None,
                shm_size: None,
                gpus: Some(GpuRequest { count: 1, name: Some("K80".to_owned()), memory: None }),
                interruptible: false,
                secrets: Vec::new(),
            }
        );
    }

    #[test]
    fn every_key_is_planned() {
        let plan = planned(
            "help: uses ${{ nothing }}\nimage: a/b:1\nenv: [A=1, B]\nworking_dir: ./src//x\nhome_dir: /home//me/\n\
             artifacts: [./out/, {path: /models, mount: true}, ~/saved]\ncache: [~/.cache/pip, .venv, {path: /c}]\n\
             deps: [{workflow: prepare}, {tag: v1}, {workflow: prepare}]\nports: [8080, \"9090:80\"]\n\
             registry_auth: {username: me, password: hunter2}\n\
             resources: {cpu: 0.5, memory: 64MiB, shm_size: 1GB, gpu: 0, interruptible: true, local: true}",
        )
        .unwrap_or_else(|mistake| panic!("{mistake}"));
        assert_eq!((plan.entrypoint.as_ref(), plan.command.len(), plan.steps.len()), (None, 0, 0));
        assert_eq!(plan.env, [("A".to_owned(), Some(Filled::plain("1"))), ("B".to_owned(), None)]);
        assert_eq!(plan.working_dir, Path::new("/workflow/src/x"));
        assert_eq!(plan.home_dir.as_deref(), Some(Path::new("/home/me")));
        let artifacts: Vec<(String, bool)> =
            plan.artifacts.iter().map(|a| (a.container_path.display().to_string(), a.mount)).collect();
        assert_eq!(
            artifacts,
            [
                ("/workflow/src/x/out".to_owned(), false),
                ("/models".to_owned(), true),
                ("/home/me/saved".to_owned(), false)
            ]
        );
        assert_eq!(plan.cache, ["/home/me/.cache/pip", "/workflow/src/x/.venv", "/c"].map(PathBuf::from));
        let (prepare, tag) = ("prepare".to_owned(), "v1".to_owned());
        assert_eq!(plan.deps, [ResolvedDependency::Workflow(prepare), ResolvedDependency::Tag(tag)]);
        assert_eq!(plan.ports, [Port { host: None, container: 8080 }, Port { host: Some(9090), container: 80 }]);
        assert_eq!(
            (plan.cpus, plan.memory, plan.shm_size),
            (Some(0.5), Some(ByteSize(64 << 20)), Some(ByteSize(1_000_000_000)))
        );
        assert!(plan.interruptible && plan.gpus.is_none());
        let auth = plan.registry_auth.as_ref().unwrap();
        assert_eq!((auth.username.expose(), auth.password.expose()), ("me", "hunter2"));
        assert!(!format!("{plan:?}").contains("hunter2"), "{plan:?}");
        assert_eq!(planned("image: a\nworking_dir: /data").unwrap().working_dir, Path::new("/data"));
    }

    #[test]
    fn all_forms_of_gpu() {
        let gpus = |text: &str| planned(&format!("image: a\nresources: {{gpu: {text}}}")).unwrap().gpus;
        let request =
            |count, name: Option<&str>, memory| Some(GpuRequest { count, name: name.map(str::to_owned), memory });
        for (text, expected) in [
            ("2", request(2, None, None)),
            ("\"2\"", request(2, None, None)),
            ("0", None),
            ("{name: K80}", request(1, Some("K80"), None)),
            ("{name: ' V100 ', count: 2}", request(2, Some("V100"), None)),
            ("{memory: 16GB}", request(1, None, Some(ByteSize(16_000_000_000)))),
            ("{name: A100, memory: 40GiB, count: 8}", request(8, Some("A100"), Some(ByteSize(40 << 30)))),
            ("{name: K80, count: 0}", None),
        ] {
            assert_eq!(gpus(text), expected, "{text}");
        }
    }

    /// Rows: lines, arguments, entrypoint, the argument that follows.
    #[test]
    fn the_table_of_entrypoint_and_commands() {
        for (lines, args, entrypoint, command) in [
            ("commands: [a]", &[][..], &["/bin/sh", "-c"][..], Some("a")),
            ("entrypoint: [x, 'y z']\ncommands: [a]", &[], &["x", "y z"], Some("a")),
            ("entrypoint: /bin/bash -l -c\ncommands: [a]", &[], &["/bin/bash", "-l", "-c"], Some("a")),
            ("entrypoint: \"x 'y z' \\\"q\\\" a\\\\ b\"", &[], &["x", "y z", "q", "a b"], None),
            ("entrypoint: [x]", &[], &["x"], None),
            ("entrypoint: [x, '${{ run.args }}', y]", &["1", "2 3"], &["x", "1", "2 3", "y"], None),
            ("entrypoint: [x, 'a=${{ run.args }}']", &["1", "2 3"], &["x", "a=1 '2 3'"], None),
            ("entrypoint: x ${{ run.args }}", &["1", "it's"], &["x", "1", "it's"], None),
            (
                "entrypoint: [python, -c]\ncommands: |\n  import os\n  x()",
                &[],
                &["python", "-c"],
                Some("import os\nx()\n"),
            ),
            ("entrypoint: [tini, --]\ncommands: [a, b]", &[], &["tini", "--"], Some("a && b")),
            (
                "commands: ['a ${{ run.args }}']",
                &["it's", "x y", "", "$HOME"],
                &["/bin/sh", "-c"],
                Some("a \"it's\" 'x y' '' '$HOME'"),
            ),
            ("commands: ['a ${{ run.args }}']", &[], &["/bin/sh", "-c"], Some("a")),
        ] {
            let plan = planned_with(&format!("image: i\n{lines}"), args).unwrap_or_else(|mistake| panic!("{mistake}"));
            assert_eq!(texts(plan.entrypoint.as_deref().unwrap_or_default()), entrypoint, "{lines}");
            assert_eq!(texts(&plan.command), Vec::from_iter(command), "{lines}");
        }
        let neither = planned("image: i").unwrap();
        assert_eq!((neither.entrypoint, neither.command), (None, Vec::new()));
        for wrapped in ["[/usr/bin/env, bash, -c]", "busybox sh -c", "/bin/dash -ec", "tini -- sh -c"] {
            let plan = planned(&format!("image: i\nentrypoint: {wrapped}\ncommands: [a, b]")).unwrap();
            assert!(plan.command[0].expose().contains(STEP_FILE), "{wrapped}");
        }
    }

    #[test]
    fn what_comes_before_and_python() {
        for (lines, args, steps) in [
            ("image: i\nbefore_run: [x]\ncommands: [a, b]", &[][..], &["x", "a", "b"][..]),
            ("image: i\nsetup: [x]\ncommands: [a]", &[], &["x", "a"]),
            ("image: i\nfile: train.py", &[], &["python train.py"]),
            ("image: i\nfile: train.py", &["--lr", "1 2"], &["python train.py --lr '1 2'"]),
            ("image: i\nfile: my train.py\nversion: 3.10", &[], &["python3.10 'my train.py'"]),
            ("image: i\nfile: -x.py\nversion: 3.10.4", &[], &["python3.10 ./-x.py"]),
            (
                "image: i\nfile: a.py\nrequirements: r.txt\nbefore_run: [x]\nversion: 3",
                &[],
                &["x", "python3 -m pip install -r r.txt", "python3 a.py"],
            ),
            (
                "image: i\nfile: a.py\nrequirements: r.txt\ncommands: [b]\nversion: 3.9",
                &[],
                &["python3.9 -m pip install -r r.txt", "b"],
            ),
            ("image: i\nrequirements: r.txt\ncommands: [b]", &[], &["python -m pip install -r r.txt", "b"]),
        ] {
            let plan = planned_with(lines, args).unwrap_or_else(|mistake| panic!("{mistake}"));
            assert_eq!(plan.steps, steps, "{lines}");
        }
        let image = |lines: &str| planned(lines).unwrap().image.to_string();
        assert!(image("file: a.py").ends_with("/python:3.10"));
        assert!(image("file: a.py\nversion: 3.12").ends_with("/python:3.12"));
        assert!(image("file: a.py\nimage: x:1\nversion: 3.12").ends_with("/x:1"));
        assert_eq!(planned("file: a.py").unwrap().steps, ["python a.py"]);
    }

    #[test]
    fn what_cannot_be_run() {
        for (lines, place, expected) in [
            ("help: x", "2:11", "workflow `a` has no `image`"),
            ("version: 3.10\ncommands: [a]", "2:11", "workflow `a` has no `image`"),
            ("provider: bash", "3:15", "there is no provider `bash`, expected `docker`"),
            ("provider: dokcer", "3:15", "hint: write `docker`"),
            ("image: a\ncommands: []", "4:5", "`commands` is wrong: there is no command in it"),
            ("image: a\ncommands: |\n  # x\n", "4:5", "there is no command in it"),
            ("image: a\nbefore_run: [x]", "4:5", "`before_run` is wrong: there is nothing to run after it"),
            ("image: a\nrequirements: x", "4:5", "`requirements` is wrong: there is nothing to run after it"),
            ("image: a\nfile: \"\"", "4:5", "`file` is wrong: it is empty"),
            ("file: a\nversion: 3.x", "4:5", "`3.x` is not a version of Python"),
            ("image: a\nfile: a\nversion: latest", "5:5", "`latest` is not a version of Python"),
            ("image: a\nentrypoint: \"\"", "4:5", "there is no word in it"),
            ("image: a\nentrypoint: []", "4:5", "there is no word in it"),
            ("image: a\nentrypoint: ['']", "4:5", "its first word is empty"),
            ("image: a\nentrypoint: a 'b", "4:5", "a quote without its other half"),
            ("image: a\nworking_dir: ../x", "4:18", "`../x` contains `..`"),
            ("image: a\nworking_dir: /x/../y", "4:18", "contains `..`"),
            ("image: a\nworking_dir: \"\"", "4:18", "is empty"),
            ("image: a\nhome_dir: root", "4:5", "`home_dir` is wrong: `root` is relative"),
            ("image: a\nhome_dir: /a/..", "4:5", "`/a/..` contains `..`"),
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
            ("image: a\ncache: [/]", "4:13", "`path` is wrong: cache path `/` is the container's whole file system"),
            ("image: a\ncache: [a/../b]", "4:13", "cache path `a/../b` contains `..`"),
            ("image: a\ncache: [~/x]", "4:13", "cache path `~/x` needs a home directory"),
            ("image: a\nworking_dir: /w\ncache: [/workflow]", "5:13", "the project directory itself"),
            ("image: a\ncache: [x]\nartifacts: [x/y]", "4:13", "`x` and `x/y` on line 5"),
            ("image: a\ncache: [x, ./x]", "4:16", "`x` and `x` on line 4"),
            ("image: a\ndeps: [{workflow: a}]", "4:23", "the workflow needs itself"),
            ("image: a\ndeps: [{tag: ''}]", "4:18", "`tag` is wrong: the name is empty"),
            ("image: a\nports: [80, '80:81']", "4:17", "port 80 of the host stands twice"),
            ("image: a\nresources: {memory: 1MB}", "4:25", "the least is 6 MiB"),
            ("image: a\nresources: {cpu: 1.0123456789}", "4:22", "is malformed"),
            ("image: a\nresources: {gpu: {name: ' '}}", "4:17", "expected a GPU model"),
        ] {
            let text = planned(lines).unwrap_err().to_string();
            assert!(text.starts_with(&format!("w.yaml:{place}: ")), "{lines:?} gave: {text}");
            assert!(text.contains(expected), "{lines:?} gave: {text}");
        }
    }

    #[test]
    fn arguments_that_go_nowhere_are_refused() {
        let text = planned_with("image: a\ncommands: [b]", &["x"]).unwrap_err().to_string();
        assert!(
            text.starts_with("`-- ARGS` is wrong: workflow `a` does not use them\nhint: write `${{ run.args }}`"),
            "{text}"
        );
        assert!(planned_with("image: a\ncommands: ['b ${{ run.args }}']", &["x"]).is_ok());
        assert!(planned_with("image: a\ncommands: [b]\nenv: ['A=${{ run.args }}']", &["x"]).is_ok());
        assert!(planned_with("image: a\nfile: b\ncommands: [b]", &["x"]).is_err());
    }

    #[test]
    fn variables_of_every_run() {
        let plan = planned("image: a\nhome_dir: /h\nartifacts: [out, /models]").unwrap();
        let env = builtin_env("clever-otter-1", "host", &plan);
        let value = |name: &str| env.iter().find(|(key, _)| key == name).unwrap().1.as_str();
        assert_eq!(value("PYTHONUNBUFFERED"), "1");
        assert_eq!(value("RUN_NAME"), "clever-otter-1");
        assert_eq!(value("JOB_HOSTNAME"), "host");
        assert_eq!(value("HOME"), "/h");
        assert_eq!(value("DOCKLESS_ARTIFACTS"), "/workflow/out\n/models");
        assert!(builtin_env("r", "h", &planned("image: a").unwrap()).iter().all(|(name, _)| name != "HOME"));
    }
}
