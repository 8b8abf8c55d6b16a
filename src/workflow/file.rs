//! A workflow file as typed values: text in, [`WorkflowFile`] out, with no I/O.
//!
//! ```yaml
//! workflows:
//!   - name: train
//!     image: python:3.12
//!     commands:
//!       - python train.py
//!     artifacts:
//!       - path: output
//! ```
//!
//! Here a mistake is one of shape (a typo in a key, a list where a string belongs, a size that is no size), and spoils the
//! file; what a workflow asks for is judged by [`plan`](super::plan), for that workflow alone. A value with `${{` in it is
//! kept as a [`Text::Template`], which [`interpolate`](super::interpolate) fills in with the same functions as here.

use std::collections::HashMap;
use std::sync::Arc;

use super::fields::{Entry, Fields, Keys, give, take_entry_at};
use super::mistake::{Mistake, Problem, shown};
use super::numbers::{free_ports, ports, resources};
use super::source::{At, Source, Span, Text};
use super::yaml;
use crate::image::{ByteSize, Reference, image_name};

/// Longest workflow name.
pub const MAX_NAME_LEN: usize = 63;
/// The smallest share of a core that a CPU quota can express: 1 ms in each 100 ms (`cpu.cfs_quota_us`).
pub const MIN_CPUS: f64 = 0.01;
/// Most ports that `ports: NUMBER` gives.
pub const MAX_FREE_PORTS: u16 = 100;
/// Most mistakes that are told of one workflow: each costs a reading of the whole.
const MAX_MISTAKES_IN_ONE: usize = 50;

/// One parsed file.
#[derive(Debug)]
pub struct WorkflowFile {
    /// Name and text of the file.
    pub source: Arc<Source>,
    /// Its workflows in their order; no two have one name.
    pub workflows: Vec<Workflow>,
}

/// What [`parse_on`] made of a file.
#[derive(Debug)]
pub struct Parsed {
    /// The file with those of its workflows that have no mistake.
    pub file: WorkflowFile,
    /// What is wrong in the others, in their order.
    pub mistakes: Vec<Mistake>,
}

/// One item of `workflows`, as the file gives it.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// The file it stands in.
    pub source: Arc<Source>,
    /// `name`, checked: `[a-z0-9][a-z0-9_.-]*`, 63 at most.
    pub name: At<String>,
    /// `help`: one line for `workflow list`.
    pub help: Option<At<Text<String>>>,
    /// `provider`: anything; `plan` takes `docker` alone.
    pub provider: Option<At<Text<String>>>,
    /// `image`.
    pub image: Option<At<Text<Reference>>>,
    /// `commands`: the items of the list, or the multi-line string as one item. At the key.
    pub commands: Option<At<Vec<At<Text<String>>>>>,
    /// `before_run` or `setup`, as `commands`. At the key.
    pub before_run: Option<At<Vec<At<Text<String>>>>>,
    /// `entrypoint`. At the key.
    pub entrypoint: Option<At<Entrypoint>>,
    /// `env` or `environment`, in order; of two with one name the later wins.
    pub env: Vec<At<Text<EnvEntry>>>,
    /// `working_dir`.
    pub working_dir: Option<At<Text<String>>>,
    /// `home_dir`. At the key.
    pub home_dir: Option<At<Text<String>>>,
    /// `artifacts`.
    pub artifacts: Vec<Artifact>,
    /// Paths of `cache`. At the key.
    pub cache: Option<At<Vec<At<Text<String>>>>>,
    /// `deps`. At the key.
    pub deps: Option<At<Vec<Dependency>>>,
    /// `ports` as a list. At the key.
    pub ports: Option<At<Vec<At<Text<Port>>>>>,
    /// `ports` as a number: so many free ports, told to the run as `PORT_0`, `PORT_1`, …
    pub free_ports: Option<At<Text<u16>>>,
    /// `resources`.
    pub resources: Resources,
    /// `registry_auth`. At the key.
    pub registry_auth: Option<At<RegistryAuth>>,
    /// `file`. At the key.
    pub file: Option<At<Text<String>>>,
    /// `requirements`. At the key.
    pub requirements: Option<At<Text<String>>>,
    /// `version`. At the key.
    pub version: Option<At<Text<String>>>,
}

/// `entrypoint`.
#[derive(Debug, Clone)]
pub enum Entrypoint {
    /// One string, to be split as a shell splits words.
    Line(At<Text<String>>),
    /// A list: the words themselves.
    Words(Vec<At<Text<String>>>),
}

/// One variable of `env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// The name: not empty, no `=`, no white space.
    pub name: String,
    /// The value; `None` takes the caller's.
    pub value: Option<String>,
}

/// One item of `artifacts`.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// `path`, unchecked.
    pub path: At<Text<String>>,
    /// `mount`: the store's own directory is written, so that files are visible while the run goes on.
    pub mount: bool,
}

/// One item of `deps`.
#[derive(Debug, Clone)]
pub enum Dependency {
    /// `workflow`: the last run of that workflow.
    Workflow(At<Text<String>>),
    /// `tag`: the run with that tag.
    Tag(At<Text<String>>),
}

/// One item of `ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The port of the host; `None` for the same as the container's.
    pub host: Option<u16>,
    /// The port of the container.
    pub container: u16,
}

/// `resources`.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// `cpu`: a number of cores, at least [`MIN_CPUS`].
    pub cpu: Option<At<Text<f64>>>,
    /// `memory`.
    pub memory: Option<At<Text<ByteSize>>>,
    /// `shm_size`.
    pub shm_size: Option<At<Text<ByteSize>>>,
    /// `gpu`. At the key.
    pub gpu: Option<At<Gpu>>,
    /// `interruptible`.
    pub interruptible: Option<At<bool>>,
    /// `local`: has no effect.
    pub local: Option<At<bool>>,
    /// `remote`: has no effect.
    pub remote: Option<At<bool>>,
}

/// `resources.gpu`.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// How many; 1 when only a name or a memory size is given.
    pub count: Text<u32>,
    /// The model.
    pub name: Option<At<Text<String>>>,
    /// The least memory of each.
    pub memory: Option<At<Text<ByteSize>>>,
}

/// `registry_auth`.
#[derive(Clone)]
pub struct RegistryAuth {
    /// `username`.
    pub username: At<Text<String>>,
    /// `password`.
    pub password: At<Text<String>>,
}

/// Shows that there are credentials and not what they are.
impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth(…)")
    }
}

impl Workflow {
    /// A mistake at a place of this workflow.
    #[must_use]
    pub fn mistake(&self, span: Span, problem: Problem) -> Mistake {
        Mistake::new(&self.source, span, problem)
    }
}

const WORKFLOW_KEYS: &[&str] = &[
    "name",
    "help",
    "provider",
    "image",
    "commands",
    "before_run",
    "entrypoint",
    "env",
    "working_dir",
    "home_dir",
    "artifacts",
    "cache",
    "deps",
    "ports",
    "resources",
    "registry_auth",
    "file",
    "requirements",
    "version",
];
const RESOURCES_KEYS: &[&str] = &["cpu", "memory", "shm_size", "gpu", "interruptible", "local", "remote"];
const REGISTRY_AUTH_KEYS: &[&str] = &["username", "password"];

pub(super) const FILE: Keys = Keys {
    context: "the file",
    known: &["workflows"],
    aliases: &[],
    elsewhere: &[(WORKFLOW_KEYS, "in an item of `workflows`")],
};

pub(super) const WORKFLOW: Keys = Keys {
    context: "a workflow",
    known: WORKFLOW_KEYS,
    aliases: &[("environment", "env"), ("setup", "before_run"), ("python", "version")],
    elsewhere: &[(RESOURCES_KEYS, "under `resources`"), (REGISTRY_AUTH_KEYS, "under `registry_auth`")],
};

pub(super) const RESOURCES: Keys = Keys {
    context: "`resources`",
    known: RESOURCES_KEYS,
    aliases: &[],
    elsewhere: &[(&["name", "count"], "under `gpu`"), (WORKFLOW_KEYS, "in the workflow, beside `resources`")],
};

pub(super) const GPU: Keys = Keys {
    context: "`gpu`",
    known: &["name", "count", "memory"],
    aliases: &[],
    elsewhere: &[(&["cpu", "shm_size", "interruptible"], "under `resources`")],
};

pub(super) const ARTIFACT: Keys =
    Keys { context: "an artifact", known: &["path", "mount"], aliases: &[], elsewhere: &[] };
pub(super) const CACHE: Keys = Keys { context: "an item of `cache`", known: &["path"], aliases: &[], elsewhere: &[] };
pub(super) const DEPENDENCY: Keys =
    Keys { context: "an item of `deps`", known: &["workflow", "tag"], aliases: &[], elsewhere: &[] };
pub(super) const REGISTRY_AUTH: Keys =
    Keys { context: "`registry_auth`", known: REGISTRY_AUTH_KEYS, aliases: &[], elsewhere: &[] };

/// Parses one file. `name` is how messages call it.
///
/// # Errors
/// The first [`Mistake`] in the order of reading.
pub fn parse(name: &str, bytes: &[u8]) -> Result<WorkflowFile, Mistake> {
    let Parsed { file, mistakes } = parse_on(name, bytes, 1)?;
    mistakes.into_iter().next().map_or(Ok(file), Err)
}

/// Parses one file to its end, over mistakes in single workflows, until there are `most_mistakes` (at least 1).
///
/// # Errors
/// A [`Mistake`] of the file itself, which leaves no workflows to read.
pub fn parse_on(name: &str, bytes: &[u8], most_mistakes: usize) -> Result<Parsed, Mistake> {
    let source = Arc::new(Source::new(name.to_owned(), text_of(name, bytes)?.to_owned()));
    let tree = yaml::parse(&source)?;
    let document = Entry::document(&source, &tree);
    if document.is_null() {
        return Err(Mistake::new(&source, Span::START, Problem::Empty));
    }
    if document.is_list() {
        return Err(document.wrong_type("a mapping with the key `workflows`", Some("put `workflows:` above the list")));
    }
    let fields = document.fields(&FILE, "a mapping with the key `workflows`")?;
    let Some(list) = fields.get("workflows") else {
        return Err(Mistake::new(
            &source,
            fields.span,
            missing("workflows", "the file", "add `workflows:` with a list"),
        ));
    };
    let mut parsed =
        Parsed { file: WorkflowFile { source: Arc::clone(&source), workflows: Vec::new() }, mistakes: Vec::new() };
    let mut places = HashMap::new();
    for item in list.items("a list of workflows")? {
        let wanted = most_mistakes - parsed.mistakes.len();
        match workflow_or_mistakes(&source, item, wanted) {
            Ok(workflow) => match places.insert(workflow.name.value.clone(), workflow.name.span) {
                Some(first) => parsed.mistakes.push(duplicate_name(&workflow, name, first)),
                None => parsed.file.workflows.push(workflow),
            },
            Err(mistakes) => parsed.mistakes.extend(mistakes),
        }
        if parsed.mistakes.len() >= most_mistakes {
            break;
        }
    }
    Ok(parsed)
}

/// The workflow, or at most `wanted` mistakes in it: the entry that is wrong is left out, and the rest read again.
fn workflow_or_mistakes(source: &Arc<Source>, item: Entry<'_>, wanted: usize) -> Result<Workflow, Vec<Mistake>> {
    let mut found = match workflow(source, item) {
        Ok(workflow) => return Ok(workflow),
        Err(mistake) => mistake,
    };
    let mut mistakes = Vec::new();
    let mut rest = item.value();
    while mistakes.len() + 1 < wanted.min(MAX_MISTAKES_IN_ONE) {
        let goes_on = is_no_name(&found) || take_entry_at(&mut rest, found.span());
        // A workflow without a name is not read to its end.
        if !goes_on || !give(&mut rest, "name", "left-out") {
            break;
        }
        match workflow(source, item.with(&rest)) {
            Ok(_) => break,
            Err(next) => mistakes.push(std::mem::replace(&mut found, next)),
        }
    }
    mistakes.push(found);
    Err(mistakes)
}

fn is_no_name(mistake: &Mistake) -> bool {
    matches!(mistake.problem(), Problem::MissingKey { key: "name", .. })
}

/// The mistake of a workflow whose name stood already at a place of another (or the same) file.
pub(super) fn duplicate_name(workflow: &Workflow, first_file: &str, first: Span) -> Mistake {
    let problem = Problem::DuplicateName { name: workflow.name.value.clone(), first: format!("{first_file}:{first}") };
    workflow.mistake(workflow.name.span, problem)
}

/// The bytes as text, without a byte order mark.
fn text_of<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Mistake> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let (good, rest) = bytes.split_at(error.valid_up_to());
        let good = String::from_utf8_lossy(good);
        let last_line = good.rsplit('\n').next().unwrap_or_default();
        let span = Span { line: good.matches('\n').count() + 1, column: last_line.chars().count() + 1, width: 1 };
        let shown_text = format!("{good}\u{fffd}");
        let source = Source::new(name.to_owned(), shown_text);
        Mistake::new(&source, span, Problem::NotUtf8(rest.first().copied().unwrap_or_default()))
    })
}

fn missing(key: &'static str, context: &str, hint: &str) -> Problem {
    Problem::MissingKey { key, context: context.to_owned(), hint: hint.to_owned() }
}

fn workflow(source: &Arc<Source>, item: Entry<'_>) -> Result<Workflow, Mistake> {
    let fields = item.fields(&WORKFLOW, "a list of workflows, each a mapping with a `name`")?;
    let name = match fields.get("name") {
        Some(entry) => name(entry)?,
        None => return Err(item.mistake(missing("name", "the workflow", "add `name: NAME`"))),
    };
    Ok(Workflow {
        source: Arc::clone(source),
        name,
        help: fields.read("help", |entry| entry.string("a string"))?,
        provider: fields.read("provider", |entry| entry.string("the string `docker`"))?,
        image: fields.read("image", |entry| entry.parsed("an image reference", image_name))?,
        commands: fields.read("commands", commands)?,
        before_run: fields.read("before_run", commands)?,
        entrypoint: fields.read("entrypoint", entrypoint)?,
        env: fields.read("env", env)?.unwrap_or_default(),
        working_dir: fields.read("working_dir", |entry| entry.string("a path"))?,
        home_dir: at_key(&fields, "home_dir", "a path")?,
        artifacts: fields.read("artifacts", artifacts)?.unwrap_or_default(),
        cache: fields.read("cache", cache)?,
        deps: fields.read("deps", dependencies)?,
        ports: fields.get("ports").filter(Entry::is_list).map(ports).transpose()?,
        free_ports: fields.get("ports").filter(|entry| !entry.is_list()).map(free_ports).transpose()?,
        resources: fields.read("resources", resources)?.unwrap_or_default(),
        registry_auth: fields.read("registry_auth", registry_auth)?,
        file: at_key(&fields, "file", "a path")?,
        requirements: at_key(&fields, "requirements", "a path")?,
        version: at_key(&fields, "version", "a version of Python")?,
    })
}

/// A string whose key is its place: what is wrong with it so far is that it is there.
fn at_key(fields: &Fields<'_>, key: &str, expected: &'static str) -> Result<Option<At<Text<String>>>, Mistake> {
    fields.read(key, |entry| Ok(At { value: entry.string(expected)?.value, span: entry.key_span() }))
}

fn name(entry: Entry<'_>) -> Result<At<String>, Mistake> {
    let text = entry.text("a string")?;
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let first_good = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if first_good && text.bytes().all(inner) && text.len() <= MAX_NAME_LEN {
        return Ok(At { value: text.to_owned(), span: entry.span() });
    }
    let lower = text.to_lowercase().replace([' ', '/'], "-");
    let lower_good = lower.bytes().all(inner) && lower.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let hint = if lower != text && lower_good && lower.len() <= MAX_NAME_LEN {
        format!("\nhint: write `{lower}`")
    } else {
        String::new()
    };
    Err(entry.bad_value(&format!(
        "`{}` is not a workflow name, expected 1 to {MAX_NAME_LEN} of `a-z`, `0-9`, `_`, `.`, `-`, the first a letter or digit{hint}",
        shown(text)
    )))
}

const COMMANDS: &str = "a list of commands or a multi-line string";

fn commands(entry: Entry<'_>) -> Result<At<Vec<At<Text<String>>>>, Mistake> {
    let value = if entry.is_list() {
        // An item without a value is an empty line, which is dropped.
        entry
            .items(COMMANDS)?
            .filter(|item| !item.is_null())
            .map(|item| item.string("a command"))
            .collect::<Result<_, _>>()?
    } else {
        vec![entry.string(COMMANDS)?]
    };
    Ok(At { value, span: entry.key_span() })
}

fn entrypoint(entry: Entry<'_>) -> Result<At<Entrypoint>, Mistake> {
    const EXPECTED: &str = "a string or a list of strings";
    let value = if entry.is_list() {
        Entrypoint::Words(entry.items(EXPECTED)?.map(|item| item.string("a string")).collect::<Result<_, _>>()?)
    } else {
        Entrypoint::Line(entry.string(EXPECTED)?)
    };
    Ok(At { value, span: entry.key_span() })
}

fn env(entry: Entry<'_>) -> Result<Vec<At<Text<EnvEntry>>>, Mistake> {
    if !entry.is_mapping() {
        return entry.items("a list of `KEY=VALUE` or a mapping")?.map(env_item).collect();
    }
    let mut lines = HashMap::new();
    let mut variables = Vec::new();
    for variable in entry.entries("a mapping")? {
        let variable = variable?;
        if let Some(first_line) = lines.insert(variable.key(), variable.key_span().line) {
            let key = shown(variable.key());
            return Err(variable.bad_key(Problem::DuplicateKey { key, context: "`env`", first_line }));
        }
        variables.push(env_variable(variable)?);
    }
    Ok(variables)
}

fn env_item(item: Entry<'_>) -> Result<At<Text<EnvEntry>>, Mistake> {
    if item.is_mapping() {
        let hint = "write `- KEY=VALUE`, or leave the dashes away to make `env` a mapping";
        return Err(item.wrong_type("a list of `KEY=VALUE` or a mapping", Some(hint)));
    }
    item.parsed("`KEY=VALUE` or `KEY`", env_text)
}

/// `KEY=VALUE`, or `KEY` for the caller's value.
pub(super) fn env_text(text: &str) -> Result<EnvEntry, String> {
    match text.split_once('=') {
        Some((name, value)) => env_entry(name, Some(value)),
        None => env_entry(text, None),
    }
}

fn env_variable(variable: Entry<'_>) -> Result<At<Text<EnvEntry>>, Mistake> {
    let value = variable.optional_text("a string")?;
    let entry = if variable.key().contains('=') {
        Err("the name of a variable cannot hold `=`".to_owned())
    } else if variable.key().contains("${{") {
        Err("the name of a variable is not interpolated here\nhint: make `env` a list of `KEY=VALUE`".to_owned())
    } else {
        env_entry(variable.key(), value)
    };
    let entry = entry.map_err(|reason| variable.bad_key(Problem::bad_value(&shown(variable.key()), &reason)))?;
    let value = match value {
        Some(text) if variable.is_template() => Text::Template(format!("{}={text}", entry.name)),
        _ => Text::Literal(entry),
    };
    Ok(At { value, span: variable.span() })
}

fn env_entry(name: &str, value: Option<&str>) -> Result<EnvEntry, String> {
    if name.is_empty() || name.contains(char::is_whitespace) || name.contains(char::is_control) {
        let problem = if name.is_empty() { "is empty" } else { "holds white space" };
        return Err(format!("the name of the variable `{}` {problem}, expected `KEY=VALUE` or `KEY`", shown(name)));
    }
    Ok(EnvEntry { name: name.to_owned(), value: value.map(str::to_owned) })
}

fn artifacts(entry: Entry<'_>) -> Result<Vec<Artifact>, Mistake> {
    const EXPECTED: &str = "a list of paths or of `{path, mount}`";
    entry
        .items(EXPECTED)?
        .map(|item| {
            if !item.is_mapping() {
                return Ok(Artifact { path: item.string("a path or `{path, mount}`")?, mount: false });
            }
            let fields = item.fields(&ARTIFACT, EXPECTED)?;
            let mount = fields.read("mount", |entry| entry.boolean())?.is_some_and(|mount| mount.value);
            Ok(Artifact { path: required(&item, &fields, "path", "the artifact", "add `path: DIRECTORY`")?, mount })
        })
        .collect()
}

fn cache(entry: Entry<'_>) -> Result<At<Vec<At<Text<String>>>>, Mistake> {
    const EXPECTED: &str = "a list of paths or of `{path}`";
    let value = entry
        .items(EXPECTED)?
        .map(|item| {
            if !item.is_mapping() {
                return item.string("a path or `{path}`");
            }
            required(&item, &item.fields(&CACHE, EXPECTED)?, "path", "the item of `cache`", "add `path: DIRECTORY`")
        })
        .collect::<Result<_, _>>()?;
    Ok(At { value, span: entry.key_span() })
}

fn dependencies(entry: Entry<'_>) -> Result<At<Vec<Dependency>>, Mistake> {
    let value = entry.items(DEPENDENCIES)?.map(dependency).collect::<Result<_, _>>()?;
    Ok(At { value, span: entry.key_span() })
}

const DEPENDENCIES: &str = "a list of `{workflow: NAME}` or `{tag: NAME}`";

fn dependency(item: Entry<'_>) -> Result<Dependency, Mistake> {
    if !item.is_mapping() {
        return short_dependency(item);
    }
    let fields = item.fields(&DEPENDENCY, DEPENDENCIES)?;
    let workflow = fields.read("workflow", |entry| entry.string("the name of a workflow"))?;
    let tag = fields.read("tag", |entry| entry.string("the name of a tag"))?;
    match (workflow, tag) {
        (Some(name), None) => Ok(Dependency::Workflow(name)),
        (None, Some(name)) => Ok(Dependency::Tag(name)),
        _ => Err(item.bad_value(&"each item names a `workflow` or a `tag`, and not both")),
    }
}

/// `NAME` or `:TAG`, as on the command line.
fn short_dependency(item: Entry<'_>) -> Result<Dependency, Mistake> {
    let At { value, span } = item.string("`NAME`, `:TAG`, `{workflow: NAME}` or `{tag: NAME}`")?;
    let (Text::Literal(text) | Text::Template(text)) = &value;
    let (name, is_tag) = text.strip_prefix(':').map_or((text.as_str(), false), |tag| (tag, true));
    if name.is_empty() {
        return Err(item.bad_value(&"there is no name, expected `NAME` of a workflow or `:TAG`"));
    }
    let name = name.to_owned();
    let value = if item.is_template() { Text::Template(name) } else { Text::Literal(name) };
    Ok(if is_tag { Dependency::Tag(At { value, span }) } else { Dependency::Workflow(At { value, span }) })
}

/// What stands here is secret even when it is wrong, so no message shows it.
fn registry_auth(entry: Entry<'_>) -> Result<At<RegistryAuth>, Mistake> {
    registry_auth_shown(entry).map_err(Mistake::concealed)
}

fn registry_auth_shown(entry: Entry<'_>) -> Result<At<RegistryAuth>, Mistake> {
    let fields = entry.fields(&REGISTRY_AUTH, "a mapping with `username` and `password`")?;
    let part = |key, hint| required(&entry, &fields, key, "`registry_auth`", hint);
    let username = part("username", "add `username`")?;
    let password = part("password", "add `password: ${{ secrets.NAME }}`")?;
    Ok(At { value: RegistryAuth { username, password }, span: entry.key_span() })
}

fn required(
    parent: &Entry<'_>,
    fields: &Fields<'_>,
    key: &'static str,
    context: &str,
    hint: &str,
) -> Result<At<Text<String>>, Mistake> {
    match fields.get(key) {
        Some(entry) => entry.string("a string"),
        None => Err(parent.mistake(missing(key, context, hint))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse("w.yaml", text.as_bytes()).map_or_else(|mistake| mistake.to_string(), |file| format!("parsed: {file:?}"))
    }

    /// One workflow with these lines in it.
    fn item(lines: &str) -> String {
        let indented = lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        format!("workflows:\n  - name: a\n{indented}")
    }

    fn workflow(lines: &str) -> Workflow {
        let text = item(lines);
        let mut file = parse("w.yaml", text.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}"));
        file.workflows.remove(0)
    }

    fn literals(values: &[At<Text<String>>]) -> Vec<&str> {
        values.iter().map(|value| value.value.literal().unwrap().as_str()).collect()
    }

    #[test]
    fn the_whole_schema_parses() {
        let text = "\
workflows:
  - name: train
    help: Trains the model
    provider: docker
    image: python:3.12
    commands: [python train.py, true]
    before_run:
      - pip install x
    entrypoint: [/bin/bash, -c]
    env:
      - A=1=2
      - B
    working_dir: src
    home_dir: /root
    artifacts:
      - path: output
      - {path: logs, mount: yes}
      - ./plain
    cache:
      - path: ~/.cache
      - .venv
    deps:
      - workflow: prepare
      - tag: v1
    ports: [8080, \"9090:80\"]
    resources:
      cpu: 1.5
      memory: 16GB
      shm_size: 8 GiB
      gpu: {name: V100, count: 2, memory: 16GB}
      interruptible: true
      local: false
    registry_auth:
      username: me
      password: ${{ secrets.TOKEN }}
    file: train.py
    requirements: requirements.txt
    version: 3.10
";
        let file = parse("w.yaml", text.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}"));
        let w = &file.workflows[0];
        assert_eq!((w.name.value.as_str(), w.name.span.line, w.name.span.column), ("train", 2, 11));
        assert_eq!(w.image.as_ref().unwrap().value, Text::Literal("python:3.12".parse().unwrap()));
        assert_eq!(literals(&w.commands.as_ref().unwrap().value), ["python train.py", "true"]);
        assert_eq!(literals(&w.before_run.as_ref().unwrap().value), ["pip install x"]);
        assert!(matches!(&w.entrypoint.as_ref().unwrap().value, Entrypoint::Words(words) if words.len() == 2));
        let env: Vec<&EnvEntry> = w.env.iter().map(|entry| entry.value.literal().unwrap()).collect();
        assert_eq!(env[0], &EnvEntry { name: "A".to_owned(), value: Some("1=2".to_owned()) });
        assert_eq!(env[1], &EnvEntry { name: "B".to_owned(), value: None });
        let artifacts: Vec<(&str, bool)> =
            w.artifacts.iter().map(|a| (a.path.value.literal().unwrap().as_str(), a.mount)).collect();
        assert_eq!(artifacts, [("output", false), ("logs", true), ("./plain", false)]);
        assert_eq!(literals(&w.cache.as_ref().unwrap().value), ["~/.cache", ".venv"]);
        assert!(matches!(&w.deps.as_ref().unwrap().value[..], [Dependency::Workflow(_), Dependency::Tag(_)]));
        let ports: Vec<Port> = w.ports.as_ref().unwrap().value.iter().map(|p| *p.value.literal().unwrap()).collect();
        assert_eq!(ports, [Port { host: None, container: 8080 }, Port { host: Some(9090), container: 80 }]);
        let r = &w.resources;
        assert_eq!(r.cpu.as_ref().unwrap().value, Text::Literal(1.5));
        assert_eq!(r.memory.as_ref().unwrap().value, Text::Literal(ByteSize(16_000_000_000)));
        assert_eq!(r.shm_size.as_ref().unwrap().value, Text::Literal(ByteSize(8 << 30)));
        assert_eq!(r.gpu.as_ref().unwrap().value.count, Text::Literal(2));
        assert!(r.interruptible.as_ref().unwrap().value && !r.local.as_ref().unwrap().value);
        let auth = &w.registry_auth.as_ref().unwrap().value;
        assert_eq!(auth.password.value, Text::Template("${{ secrets.TOKEN }}".to_owned()));
        assert!(!format!("{w:?}").contains("secrets.TOKEN"));
        assert_eq!(w.version.as_ref().unwrap().value, Text::Literal("3.10".to_owned()));
    }

    #[test]
    fn other_forms_and_names() {
        let w = workflow(
            "environment: {A: 1.50, B: , C: \"\", D: yes, E: \"${{ run.name }}\", 1: x}\nsetup: |\n  a\n  b\n",
        );
        let env: Vec<Text<(&str, Option<&str>)>> = w
            .env
            .iter()
            .map(|entry| match &entry.value {
                Text::Literal(entry) => Text::Literal((entry.name.as_str(), entry.value.as_deref())),
                Text::Template(text) => Text::Template(text.clone()),
            })
            .collect();
        assert_eq!(
            env,
            [
                Text::Literal(("A", Some("1.50"))),
                Text::Literal(("B", None)),
                Text::Literal(("C", Some(""))),
                Text::Literal(("D", Some("yes"))),
                Text::Template("E=${{ run.name }}".to_owned()),
                Text::Literal(("1", Some("x"))),
            ]
        );
        assert_eq!(literals(&w.before_run.unwrap().value), ["a\nb\n"]);
        let count = |gpu: &str| workflow(&format!("resources: {{gpu: {gpu}}}")).resources.gpu.unwrap().value.count;
        assert_eq!(count("2"), Text::Literal(2));
        assert_eq!(count("\"2\""), Text::Literal(2));
        assert_eq!(count("0"), Text::Literal(0));
        assert_eq!(count("{name: K80}"), Text::Literal(1));
        assert_eq!(count("{memory: 16GB}"), Text::Literal(1));
        let w = workflow("commands:\n  - echo ${{ run.args }}\n  -\nresources: {memory: 1048576, cpu: \"0.5\"}");
        assert_eq!(w.commands.as_ref().unwrap().value.len(), 1);
        assert_eq!(w.commands.unwrap().value[0].value, Text::Template("echo ${{ run.args }}".to_owned()));
        assert_eq!(w.resources.memory.unwrap().value, Text::Literal(ByteSize(1 << 20)));
        assert_eq!(w.resources.cpu.unwrap().value, Text::Literal(0.5));
        assert!(parse("w.yaml", b"workflows: []").unwrap().workflows.is_empty());
        let crlf = parse("w.yaml", b"workflows:\r\n  - name: a\r\n    commands: |\r\n      x\r\n      y\r\n").unwrap();
        assert_eq!(literals(&crlf.workflows[0].commands.as_ref().unwrap().value), ["x\ny\n"]);
    }

    #[test]
    fn a_mistake_in_full() {
        assert_eq!(
            message(&item("imgae: ubuntu")),
            "w.yaml:3:5: unknown key `imgae` in a workflow\n  |\n3 |     imgae: ubuntu\n  |     ^^^^^\nhint: did you mean `image`?"
        );
        assert_eq!(
            message(&item("resources:\n  memory: 16QB")),
            "w.yaml:4:15: `memory` is wrong: size `16QB` is malformed, expected a number with an optional unit, e.g. \
             `512MB`, `16GB`, `8GiB`, `64m`\n  |\n4 |       memory: 16QB\n  |               ^^^^"
        );
    }

    /// Each row: lines of a workflow that start on line 3, the place of the mistake, a part of the message.
    fn check(rows: &[(&str, &str, &str)]) {
        for (lines, place, expected) in rows {
            let text = message(&item(lines));
            assert!(text.starts_with(&format!("w.yaml:{place}: ")), "{lines:?} gave: {text}");
            assert!(text.contains(expected), "{lines:?} gave: {text}");
        }
    }

    #[test]
    fn mistakes_of_keys_and_commands() {
        check(&[
            ("Image: x", "3:5", "did you mean `image`?"),
            ("enviroment: []", "3:5", "did you mean `environment`?"),
            ("volumes: []", "3:5", "the keys of a workflow are `name`, `help`"),
            ("gpu: 1", "3:5", "`gpu` stands under `resources`"),
            ("password: x", "3:5", "`password` stands under `registry_auth`"),
            ("resources: {count: 1}", "3:17", "`count` stands under `gpu`"),
            ("resources: {image: 1}", "3:17", "`image` stands in the workflow"),
            ("resources: {gpu: {cpu: 1}}", "3:23", "`cpu` stands under `resources`"),
            ("resources: {gpu: {memry: 1}}", "3:23", "unknown key `memry` in `gpu`"),
            ("name: b", "3:5", "key `name` stands twice in a workflow, first on line 2"),
            ("env: []\nenvironment: []", "4:5", "`environment` is another name of `env`, which stands on line 3"),
            ("environment: []\nenv: []", "4:5", "`environment` is another name of `env`, which stands on line 3"),
            ("help: [a]", "3:11", "`help` must be a string, found a list"),
            ("help:", "3:5", "`help` must be a string, found nothing"),
            ("image: {a: b}", "3:12", "`image` must be an image reference, found a mapping"),
            ("image: Ubuntu", "3:12", "hint: use lower case: `ubuntu`"),
            ("image: https://x/y", "3:12", "leave `https://` away"),
            (
                "commands: {a: b}",
                "3:15",
                "`commands` must be a list of commands or a multi-line string, found a mapping",
            ),
            ("commands:\n  - echo a: b", "4:9", "put quotes around text that holds `: `"),
            ("commands:\n  - [a]", "4:9", "`commands` must be a command, found a list"),
            ("commands: [\"a\\0b\"]", "3:16", "NUL byte"),
            ("entrypoint: {a: b}", "3:17", "`entrypoint` must be a string or a list of strings, found a mapping"),
        ]);
    }

    #[test]
    fn mistakes_of_values() {
        check(&[
            ("env: x", "3:10", "`env` must be a list of `KEY=VALUE` or a mapping, found the string `x`"),
            ("env:\n  - A: b", "4:9", "write `- KEY=VALUE`, or leave the dashes away"),
            ("env: [\"=x\"]", "3:11", "the name of the variable `` is empty"),
            ("env: [\"A B=x\"]", "3:11", "the name of the variable `A B` holds white space"),
            ("env: {A=B: x}", "3:11", "cannot hold `=`"),
            ("env: {'${{ env.X }}': x}", "3:11", "hint: make `env` a list"),
            ("env: {A B: x}", "3:11", "the name of the variable `A B` holds white space"),
            ("env: {A: 1, A: 2}", "3:17", "key `A` stands twice in `env`"),
            ("env: {A: [1]}", "3:14", "`A` must be a string, found a list"),
            ("env: {[a]: 1}", "3:11", "a key of env` must be a string, found a list"),
            (
                "artifacts: output",
                "3:16",
                "`artifacts` must be a list of paths or of `{path, mount}`, found the string",
            ),
            ("artifacts: [{mount: true}]", "3:17", "the artifact has no `path`"),
            (
                "artifacts: [{path: a, mount: maybe}]",
                "3:34",
                "`mount` must be `true` or `false`, found the string `maybe`",
            ),
            ("artifacts: [{path: a, mout: true}]", "3:27", "did you mean `mount`?"),
            ("cache: [{dir: a}]", "3:14", "unknown key `dir` in an item of `cache`"),
            ("deps: [{workflow: a, tag: b}]", "3:12", "and not both"),
            ("deps: [':']", "3:12", "`deps` is wrong: there is no name, expected `NAME` of a workflow or `:TAG`"),
            ("deps: a", "3:11", "`deps` must be a list of `{workflow: NAME}` or `{tag: NAME}`, found the string `a`"),
            ("ports: [0]", "3:13", "`0` is not a port"),
            ("ports: [8080:99999]", "3:13", "`8080:99999` is not a port"),
            ("ports: 8080", "3:12", "hint: for port `8080` itself write `ports: [8080]`"),
            ("ports: {a: b}", "3:12", "`ports` must be a list of ports such as `8080`"),
            ("resources: 4", "3:16", "`resources` must be a mapping with `cpu`"),
            ("resources: {cpu: two}", "3:22", "`two` is not a number of cores"),
            ("resources: {cpu: 0}", "3:22", "expected 0.01 or more"),
            ("resources: {cpu: -1}", "3:22", "expected 0.01 or more"),
            ("resources: {cpu: .inf}", "3:22", "is not a number of cores"),
            ("resources: {cpu: [1]}", "3:22", "`cpu` must be a number of cores, found a list"),
            ("resources: {memory: 0}", "3:25", "leave the key away for no limit"),
            ("resources: {memory: -1}", "3:25", "size `-1` is malformed"),
            ("resources: {gpu: two}", "3:22", "`two` is not a number of GPUs"),
            ("resources: {gpu: 1.5}", "3:22", "`1.5` is not a number of GPUs"),
            (
                "resources: {gpu: [1]}",
                "3:22",
                "`gpu` must be a number of GPUs or `{name, count, memory}`, found a list",
            ),
            ("resources: {local: 1}", "3:24", "`local` must be `true` or `false`, found the number `1`"),
            ("registry_auth: {username: a}", "3:20", "`registry_auth` has no `password`"),
        ]);
    }

    #[test]
    fn mistakes_of_a_file() {
        for (text, expected) in [
            ("", "w.yaml:1:1: the file is empty"),
            ("# nothing\n", "w.yaml:1:1: the file is empty"),
            ("---\n", "w.yaml:1:1: the file is empty"),
            ("hello", "w.yaml:1:1: `the file` must be a mapping with the key `workflows`, found the string `hello`"),
            ("- name: a\n", "hint: put `workflows:` above the list"),
            ("{}", "w.yaml:1:1: the file has no `workflows`"),
            ("workflow:\n  - name: a\n", "w.yaml:1:1: unknown key `workflow` in the file"),
            ("name: a\n", "`name` stands in an item of `workflows`"),
            ("workflows:\n", "w.yaml:1:1: `workflows` must be a list of workflows, found nothing"),
            ("workflows: {a: b}\n", "`workflows` must be a list of workflows, found a mapping"),
            ("workflows: [a]\n", "w.yaml:1:13: `workflows` must be a list of workflows, each a mapping"),
            ("workflows:\n  - image: a\n", "w.yaml:2:5: the workflow has no `name`"),
            ("workflows:\n\t- name: a\n", "indent with spaces"),
            (
                "workflows:\n  - name: a\n  - name: b\n  - name: a\n",
                "w.yaml:4:11: workflow name `a` stands twice, first at w.yaml:2:11",
            ),
        ] {
            let text_found = message(text);
            assert!(text_found.contains(expected), "{text:?} gave: {text_found}");
        }
        let not_text = parse("w.yaml", b"workflows:\n  - name: \xc3\xa4\xff\n").unwrap_err().to_string();
        assert!(not_text.starts_with("w.yaml:2:12: the file is not UTF-8: found byte 0xff"), "{not_text}");
    }

    #[test]
    fn names() {
        for good in ["a", "0", "train-2.x_y", "2024"] {
            assert_eq!(
                parse("w", format!("workflows: [{{name: {good}}}]").as_bytes()).unwrap().workflows[0].name.value,
                good
            );
        }
        for (bad, hint) in [
            ("Train", "hint: write `train`"),
            ("train model", "hint: write `train-model`"),
            ("-a", "1 to 63"),
            (".a", "1 to 63"),
            ("\"\"", "1 to 63"),
            ("ä", "1 to 63"),
            ("a/../b", "hint: write `a-..-b`"),
            ("${{ x }}", "1 to 63"),
            (&"x".repeat(64), "1 to 63"),
        ] {
            let text = message(&format!("workflows:\n  - name: {bad}\n"));
            assert!(text.contains("is not a workflow name") && text.contains(hint), "{bad}: {text}");
        }
    }

    #[test]
    fn secrets_are_shown_by_no_mistake() {
        for lines in [
            "registry_auth: {username: me, pasword: hunter2}",
            "registry_auth: hunter2",
            "registry_auth: {username: me, password: [hunter2]}",
            "registry_auth: {password: hunter2}",
        ] {
            let text = message(&item(lines));
            assert!(text.starts_with("w.yaml:3:") && !text.contains("hunter2"), "{lines:?} gave: {text}");
        }
    }

    #[test]
    fn ten_thousand_workflows() {
        let text = (0..10_000)
            .map(|n| format!("  - name: w{n}\n    image: ubuntu\n    commands: [a, b]\n"))
            .collect::<Vec<_>>()
            .concat();
        let file = parse("w.yaml", format!("workflows:\n{text}").as_bytes()).unwrap();
        assert_eq!(file.workflows.len(), 10_000);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(workflows:\n  - )?[a-z:\\-\\[\\]{}&*!|>'\" \n\t#?,\u{e4}~0-9]{0,80}") {
            if let Err(mistake) = parse("w.yaml", text.as_bytes()) {
                let printed = mistake.to_string();
                proptest::prop_assert!(printed.starts_with("w.yaml:"), "{printed}");
            }
        }
    }
}
