//! A workflow as it would run: filled in, changed by flags, with secrets masked. What `workflow show` prints and the record
//! of a run keeps.
//!
//! The keys are those of the schema, each in one form of the several that the schema takes; one that is not set is left out.
//!
//! | key | form |
//! |---|---|
//! | `name`, `provider`, `image`, `file`, `requirements`, `version` | string; the image in full |
//! | `entrypoint`, `before_run`, `commands`, `cache` | list of strings; `commands` also for a `file` that is run |
//! | `env` | mapping; `null` for a variable that is the caller's, `****` for a secret; in the order in which later wins |
//! | `working_dir`, `home_dir` | absolute path in the container |
//! | `artifacts` | list of `{path, mount}` |
//! | `deps` | list of `{workflow}` or `{tag}` |
//! | `ports` | list of `HOST:CONTAINER` |
//! | `resources` | `{cpu, memory, shm_size, gpu: {count, name, memory}, interruptible}`, sizes exact as `8GiB` |
//! | `registry_auth` | `{username, password}`, both masked |

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::interpolate::{Command, Filled, Given, MASK, Resolved, ResolvedDependency};
use super::plan::Plan;
use super::program::file_command;
use crate::image::ByteSize;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each key is")]
pub struct Shown {
    pub name: String,
    pub provider: String,
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_auth: Option<ShownAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before_run: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub env: Map<String, Value>,
    pub working_dir: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_dir: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ShownArtifact>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deps: Vec<ShownDependency>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    #[serde(default, skip_serializing_if = "ShownResources::is_empty")]
    pub resources: ShownResources,
}

/// `registry_auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownAuth {
    /// Masked.
    pub username: String,
    /// Masked.
    pub password: String,
}

/// One item of `artifacts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownArtifact {
    /// In its normal form.
    pub path: String,
    /// Whether it is visible while the run goes on.
    pub mount: bool,
}

/// One item of `deps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownDependency {
    /// `{workflow: NAME}`.
    Workflow(String),
    /// `{tag: NAME}`.
    Tag(String),
}

/// `resources`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table above says what each key is")]
pub struct ShownResources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<ShownGpu>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interruptible: bool,
}

/// `resources.gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownGpu {
    /// How many.
    pub count: u32,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The least memory of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl Shown {
    /// What is known of a workflow and the plan that was made of it.
    #[must_use]
    pub fn new(workflow: &Resolved, plan: &Plan) -> Self {
        let masked = |given: &Option<Given<Filled>>| given.as_ref().map(|given| given.value.masked().to_owned());
        // The words of the file, not the shell that commands are given to without any.
        let entrypoint = workflow.entrypoint.as_ref().and(plan.entrypoint.as_ref());
        Self {
            name: plan.name.clone(),
            provider: "docker".to_owned(),
            image: plan.image.to_string(),
            registry_auth: plan
                .registry_auth
                .is_some()
                .then(|| ShownAuth { username: MASK.to_owned(), password: MASK.to_owned() }),
            entrypoint: entrypoint.map(|words| words.iter().map(|word| word.masked().to_owned()).collect()),
            before_run: texts(workflow.before_run.as_ref()),
            requirements: masked(&workflow.requirements),
            commands: file_command(workflow).map_or_else(|| texts(workflow.commands.as_ref()), |command| vec![command]),
            file: masked(&workflow.file),
            version: workflow.version.as_ref().map(|given| given.value.clone()),
            env: env(plan),
            working_dir: plan.working_dir.display().to_string(),
            home_dir: plan.home_dir.as_ref().map(|dir| dir.display().to_string()),
            artifacts: plan
                .artifacts
                .iter()
                .map(|it| ShownArtifact { path: it.path.to_string(), mount: it.mount })
                .collect(),
            cache: plan.cache.iter().map(|dir| dir.display().to_string()).collect(),
            deps: plan.deps.iter().map(dependency).collect(),
            ports: plan.ports.iter().map(ToString::to_string).collect(),
            resources: resources(plan),
        }
    }
}

impl ShownResources {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn texts(commands: Option<&Given<Vec<Command>>>) -> Vec<String> {
    commands.iter().flat_map(|given| &given.value).map(|command| command.text.masked().to_owned()).collect()
}

fn env(plan: &Plan) -> Map<String, Value> {
    let mut env = Map::new();
    for (name, value) in &plan.secret_env {
        env.insert(name.clone(), Value::from(value.masked()));
    }
    for (name, value) in &plan.env {
        // The later one wins and stands at its own place.
        env.shift_remove(name);
        env.insert(name.clone(), value.as_ref().map_or(Value::Null, |value| Value::from(value.masked())));
    }
    env
}

fn dependency(dependency: &ResolvedDependency) -> ShownDependency {
    match dependency {
        ResolvedDependency::Workflow(name) => ShownDependency::Workflow(name.clone()),
        ResolvedDependency::Tag(name) => ShownDependency::Tag(name.clone()),
    }
}

fn resources(plan: &Plan) -> ShownResources {
    ShownResources {
        cpu: plan.cpus,
        memory: plan.memory.map(exact),
        shm_size: plan.shm_size.map(exact),
        gpu: plan.gpus.as_ref().map(|gpus| ShownGpu {
            count: gpus.count,
            name: gpus.name.clone(),
            memory: gpus.memory.map(exact),
        }),
        interruptible: plan.interruptible,
    }
}

/// A size as the schema reads it back, to the byte.
fn exact(ByteSize(bytes): ByteSize) -> String {
    const UNITS: [(u64, &str); 8] = [
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "KB"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes % unit == 0);
    unit.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::find::Workflows;
    use super::super::interpolate::Values;
    use super::super::overrides::Overrides;
    use super::super::run::prepare;
    use super::*;

    const FILE: &str = "\
workflows:
  - name: a
    help: not shown
    image: i
    entrypoint: bash -c
    setup: echo ${{ secrets.TOKEN }}
    commands: [\"a ${{ run.name }}\", b]
    env: {A: \"${{ secrets.TOKEN }}\", B: , C: plain}
    working_dir: src
    home_dir: /root/
    artifacts: [./out/, {path: /m, mount: yes}]
    cache: [~/.cache]
    deps: [{workflow: b}, {tag: t}]
    ports: [80, 8080:81]
    resources: {cpu: 1, memory: 1024MiB, shm_size: 64000000, gpu: 1, interruptible: true}
    registry_auth: {username: ann, password: hunter2}
    file: x.py
    requirements: r.txt
    version: 3.12
  - {name: b, image: i}
";

    fn shown(name: &str) -> Shown {
        let workflows = Workflows::of(parse("w.yaml", FILE.as_bytes()).unwrap());
        let values = Values { run_name: "r", args: &[], env: &|_| None, secret: &|_| Ok(Some("hunter2".to_owned())) };
        prepare(&workflows, name, &Overrides::default(), &values).unwrap_or_else(|error| panic!("{error}")).shown
    }

    #[test]
    fn every_key_is_shown_in_its_normal_form() {
        assert_eq!(
            serde_json::to_value(shown("a")).unwrap(),
            serde_json::json!({
                "name": "a",
                "provider": "docker",
                "image": "docker.io/library/i:latest",
                "registry_auth": {"username": "****", "password": "****"},
                "entrypoint": ["bash", "-c"],
                "before_run": ["echo ****"],
                "requirements": "r.txt",
                "commands": ["a r", "b"],
                "file": "x.py",
                "version": "3.12",
                "env": {"A": "****", "B": null, "C": "plain"},
                "working_dir": "/workflow/src",
                "home_dir": "/root",
                "artifacts": [{"path": "out", "mount": false}, {"path": "/m", "mount": true}],
                "cache": ["/root/.cache"],
                "deps": [{"workflow": "b"}, {"tag": "t"}],
                "ports": ["80:80", "8080:81"],
                "resources": {
                    "cpu": 1.0, "memory": "1GiB", "shm_size": "64MB", "gpu": {"count": 1}, "interruptible": true
                },
            })
        );
        let least = serde_json::json!({
            "name": "b", "provider": "docker", "image": "docker.io/library/i:latest", "working_dir": "/workflow"
        });
        assert_eq!(serde_json::to_value(shown("b")).unwrap(), least);
    }

    /// What is shown is a workflow of the schema, and means the same.
    #[test]
    fn it_reads_back() {
        for name in ["a", "b"] {
            let shown = shown(name);
            let json = serde_json::to_string(&shown).unwrap();
            assert_eq!(serde_json::from_str::<Shown>(&json).unwrap(), shown);
            let yaml = serde_yaml::to_string(&shown).unwrap();
            assert!(!yaml.contains("hunter2"), "{yaml}");
            let indented: String = yaml.lines().map(|line| format!("    {line}\n")).collect();
            let item = indented.replacen("    ", "  - ", 1);
            let other = "  - {name: other, image: i}\n";
            let file = format!("workflows:\n{item}{}", other.replace("other", if name == "a" { "b" } else { "a" }));
            let workflows = Workflows::of(parse("w", file.as_bytes()).unwrap_or_else(|it| panic!("{it}\n{file}")));
            let values = Values { run_name: "r", args: &[], env: &|_| None, secret: &|_| Ok(None) };
            let again = prepare(&workflows, name, &Overrides::default(), &values).unwrap_or_else(|it| panic!("{it}"));
            assert_eq!(again.shown, shown);
        }
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in [
            (1, "1"),
            (1000, "1KB"),
            (1024, "1KiB"),
            (1 << 30, "1GiB"),
            (16_000_000_000, "16GB"),
            (1_500_000_000, "1500MB"),
            ((1 << 30) + 1, "1073741825"),
        ] {
            assert_eq!(exact(ByteSize(bytes)), text);
            assert_eq!(ByteSize::from_workflow(text), Ok(ByteSize(bytes)));
        }
    }
}
