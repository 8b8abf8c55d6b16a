//! `${{ … }}` filled in: from a [`Workflow`], whose values may be templates, to a [`Resolved`] one, which has none. No I/O.
//!
//! | expression | gives |
//! |---|---|
//! | `${{ run.name }}` | the name of the run |
//! | `${{ run.args }}` | the arguments after `--`, quoted for a shell |
//! | `${{ env.X }}` | the variable of whoever starts the run |
//! | `${{ secrets.X }}` | the secret |
//! | `$${{` | `${{` itself |
//!
//! * An expression stands in one line. What it gives is taken as it stands and never looked at for expressions again.
//! * A lone `$$` stays: in the commands it is the shell's process number. (dstack's page has it give `$`.)
//! * In a list of `entrypoint`, an item that is `${{ run.args }}` and nothing else gives one word for each argument.
//! * What is filled in goes through the same checks as what a file spells out.
//! * `help` runs nothing and is left alone.
//!
//! A secret can stand where only the workload sees the value: commands, `entrypoint`, values of `env`, `file`,
//! `requirements`, `registry_auth`. Images, paths, names and sizes are shown in lists, messages and records, so there it is
//! refused. Text that a secret took part in is a [`Filled`], which shows `****` instead.

use std::fmt;
use std::sync::Arc;

use super::file::{self, Artifact, Dependency, Entrypoint, EnvEntry, Gpu, Port, RegistryAuth, Resources, Workflow};
use super::mistake::{Mistake, Problem, shown};
use super::numbers;
use super::source::{At, Source, Span, Text};
use crate::image::{ByteSize, Reference, image_name};
use crate::words::nearest;

/// What stands for a secret wherever its value must not.
pub const MASK: &str = "****";

const OPEN: &str = "${{";
const CLOSE: &str = "}}";
const ESCAPED: &str = "$${{";
const ARGS: &str = "run.args";

/// Looks a variable of the caller up.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;
/// Looks a secret up; an error is the text of why the secrets cannot be read.
pub type SecretLookup<'a> = dyn Fn(&str) -> Result<Option<String>, String> + 'a;

/// What expressions stand for.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// `run.name`.
    pub run_name: &'a str,
    /// `run.args`.
    pub args: &'a [String],
    /// `env.X`.
    pub env: &'a Lookup<'a>,
    /// `secrets.X`.
    pub secret: &'a SecretLookup<'a>,
}

/// Text that may hold secrets; its `Debug` and [`Filled::masked`] do not.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Filled {
    text: String,
    /// The same with the secrets masked, if there are any.
    masked: Option<String>,
}

/// A secret that a run was given.
#[derive(Clone, PartialEq, Eq)]
pub struct UsedSecret {
    /// Its name.
    pub name: String,
    value: String,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file of the workflow.
    File(Span),
    /// A flag of this name.
    Flag(&'static str),
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

/// One item of `commands`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The text.
    pub text: Filled,
    /// Whether the file has it in several lines. What was filled in does not count.
    pub is_script: bool,
}

/// A workflow without templates. The fields are those of [`Workflow`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys of the schema, see `Workflow`")]
pub struct Resolved {
    pub source: Arc<Source>,
    pub name: At<String>,
    pub provider: Option<Given<String>>,
    pub image: Option<Given<Reference>>,
    pub commands: Option<Given<Vec<Command>>>,
    pub before_run: Option<Given<Vec<Command>>>,
    pub entrypoint: Option<Given<ResolvedEntrypoint>>,
    pub env: Vec<(String, Option<Filled>)>,
    pub working_dir: Option<Given<String>>,
    pub home_dir: Option<Given<String>>,
    pub artifacts: Vec<(Given<String>, bool)>,
    pub cache: Vec<Given<String>>,
    pub deps: Vec<Given<ResolvedDependency>>,
    pub ports: Vec<Given<Port>>,
    pub free_ports: Option<Given<u16>>,
    pub cpu: Option<Given<f64>>,
    pub memory: Option<Given<ByteSize>>,
    pub shm_size: Option<Given<ByteSize>>,
    pub gpu: Option<Given<ResolvedGpu>>,
    pub interruptible: bool,
    pub registry_auth: Option<(Filled, Filled)>,
    pub file: Option<Given<Filled>>,
    pub requirements: Option<Given<Filled>>,
    pub version: Option<Given<String>>,
    /// Variables that are secrets, over the built-in ones and below `env`.
    pub secret_env: Vec<(String, Filled)>,
    /// The arguments after `--`.
    pub args: Vec<String>,
    /// Whether something asked for them.
    pub args_used: bool,
    /// The secrets that were used, each once.
    pub secrets: Vec<UsedSecret>,
}

/// `entrypoint`, filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedEntrypoint {
    /// One string, to be split as a shell splits words.
    Line(Filled),
    /// The words themselves.
    Words(Vec<Filled>),
}

/// One item of `deps`, filled in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResolvedDependency {
    /// The last run of a workflow.
    Workflow(String),
    /// The run with a tag.
    Tag(String),
}

/// `resources.gpu`, filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedGpu {
    /// How many; 0 takes them away.
    pub count: u32,
    /// The model.
    pub name: Option<String>,
    /// The least memory of each.
    pub memory: Option<ByteSize>,
}

impl Filled {
    /// Text with no secret in it.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), masked: None }
    }

    /// Text that is a secret as a whole.
    #[must_use]
    pub fn secret(text: impl Into<String>) -> Self {
        Self { text: text.into(), masked: Some(MASK.to_owned()) }
    }

    /// The text itself, secrets and all: for the workload only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The text to show.
    #[must_use]
    pub fn masked(&self) -> &str {
        self.masked.as_deref().unwrap_or(&self.text)
    }

    /// Whether a secret took part.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.masked.is_some()
    }

    /// The same change made to the text and to what is shown of it.
    #[must_use]
    pub(super) fn map(&self, change: impl Fn(&str) -> String) -> Self {
        Self { text: change(&self.text), masked: self.masked.as_deref().map(change) }
    }

    /// The text, with another one to show.
    #[must_use]
    pub(super) fn shown_as(self, masked: String) -> Self {
        Self { masked: Some(masked), ..self }
    }

    /// Appends to the text and to what is shown of it.
    fn push(&mut self, text: &str, shown: Option<&str>) {
        if let (Some(shown), None) = (shown, &self.masked) {
            self.masked = Some(format!("{}{shown}", self.text));
        } else if let Some(masked) = &mut self.masked {
            masked.push_str(shown.unwrap_or(text));
        }
        self.text.push_str(text);
    }
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.masked().fmt(f)
    }
}

impl UsedSecret {
    /// The value, for whoever masks it in logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for UsedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UsedSecret({} = {MASK})", self.name)
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("run_name", &self.run_name).field("args", &self.args).finish_non_exhaustive()
    }
}

impl Resolved {
    /// A value that says something impossible: of the file with its place, of a flag with its name.
    #[must_use]
    pub fn mistake(&self, place: Place, key: &str, reason: &dyn fmt::Display) -> Mistake {
        match place {
            Place::File(span) => Mistake::new(&self.source, span, Problem::bad_value(key, reason)),
            Place::Flag(flag) => Mistake::of_flag(Problem::bad_value(flag, reason)),
        }
    }

    /// Gives the run a secret as a variable.
    ///
    /// # Errors
    /// A secret that is not there.
    pub fn add_secret_env(&mut self, name: &str, values: &Values<'_>) -> Result<(), Mistake> {
        let value = secret(name, values).map_err(|reason| Mistake::of_flag(Problem::bad_value("--secret", &reason)))?;
        self.secret_env.push((name.to_owned(), Filled::secret(value.clone())));
        note(&mut self.secrets, name, value);
        Ok(())
    }
}

/// Fills in what a workflow leaves open.
///
/// # Errors
/// An expression that cannot be, and a value that is wrong once it is filled in, each with its place.
pub fn resolve(workflow: &Workflow, values: &Values<'_>) -> Result<Resolved, Mistake> {
    let mut filler = Filler { workflow, values, secrets: Vec::new(), args_used: false };
    let fill = &mut filler;
    let Resources { cpu, memory, shm_size, gpu, interruptible, local: _, remote: _ } = &workflow.resources;
    let mut resolved = Resolved {
        source: Arc::clone(&workflow.source),
        name: workflow.name.clone(),
        provider: fill.optional("provider", workflow.provider.as_ref())?,
        image: fill.typed("image", workflow.image.as_ref(), image_name)?,
        commands: fill.commands("commands", workflow.commands.as_ref())?,
        before_run: fill.commands("before_run", workflow.before_run.as_ref())?,
        entrypoint: fill.entrypoint(workflow.entrypoint.as_ref())?,
        env: fill.env(&workflow.env)?,
        working_dir: fill.optional("working_dir", workflow.working_dir.as_ref())?,
        home_dir: fill.optional("home_dir", workflow.home_dir.as_ref())?,
        artifacts: fill.artifacts(&workflow.artifacts)?,
        cache: fill.list("cache", workflow.cache.as_ref(), Filler::plain)?,
        deps: fill.list("deps", workflow.deps.as_ref(), Filler::dependency)?,
        ports: fill.list("ports", workflow.ports.as_ref(), |fill, key, at| fill.value(key, at, numbers::port))?,
        free_ports: fill.typed("ports", workflow.free_ports.as_ref(), numbers::free_ports_text)?,
        cpu: fill.typed("cpu", cpu.as_ref(), numbers::cpus)?,
        memory: fill.typed("memory", memory.as_ref(), numbers::size_text)?,
        shm_size: fill.typed("shm_size", shm_size.as_ref(), numbers::size_text)?,
        gpu: gpu.as_ref().map(|gpu| fill.gpu(gpu)).transpose()?,
        interruptible: interruptible.as_ref().is_some_and(|at| at.value),
        registry_auth: fill.registry_auth(workflow.registry_auth.as_ref())?,
        file: fill.filled("file", workflow.file.as_ref())?,
        requirements: fill.filled("requirements", workflow.requirements.as_ref())?,
        version: fill.optional("version", workflow.version.as_ref())?,
        secret_env: Vec::new(),
        args: values.args.to_vec(),
        args_used: false,
        secrets: Vec::new(),
    };
    (resolved.secrets, resolved.args_used) = (filler.secrets, filler.args_used);
    Ok(resolved)
}

/// The value of a secret, or why there is none.
fn secret(name: &str, values: &Values<'_>) -> Result<String, String> {
    let shown_name = shown(name);
    match (values.secret)(name) {
        Ok(Some(value)) if value.contains('\0') => Err(format!("the secret `{shown_name}` holds a NUL byte")),
        Ok(Some(value)) => Ok(value),
        Ok(None) => {
            Err(format!("there is no secret `{shown_name}`\nhint: add it with `dockless secrets add {shown_name}`"))
        }
        Err(reason) => Err(reason),
    }
}

fn note(secrets: &mut Vec<UsedSecret>, name: &str, value: String) {
    if secrets.iter().all(|used| used.name != name) {
        secrets.push(UsedSecret { name: name.to_owned(), value });
    }
}

struct Filler<'a> {
    workflow: &'a Workflow,
    values: &'a Values<'a>,
    secrets: Vec<UsedSecret>,
    args_used: bool,
}

impl Filler<'_> {
    /// A template filled in.
    fn fill(&mut self, key: &str, template: &str, span: Span) -> Result<Filled, Mistake> {
        let mut filled = Filled::default();
        let mut rest = template;
        let mut nth = 0;
        while let Some(start) = rest.find(OPEN) {
            let before = &rest[..start];
            let after = &rest[start + OPEN.len()..];
            // `$${{` and not `${{`: the dollar before it says so.
            if let Some(before) = before.strip_suffix('$') {
                filled.push(before, None);
                filled.push(OPEN, None);
                rest = after;
            } else {
                filled.push(before, None);
                let line = after.split('\n').next().unwrap_or_default();
                let end = line.find(CLOSE);
                let written = &rest[start..start + OPEN.len() + end.map_or(line.len(), |end| end + CLOSE.len())];
                let done = match end {
                    Some(end) => self.expression(key, line[..end].trim(), &mut filled),
                    None => Err(format!(
                        "`{OPEN}` has no `{CLOSE}` in its line\nhint: write `{ESCAPED}` for the text `{OPEN}` itself"
                    )),
                };
                done.map_err(|reason| {
                    let place = expression_span(&self.workflow.source, span, nth, written);
                    self.workflow.mistake(place, Problem::bad_value(key, &reason))
                })?;
                rest = &rest[start + written.len()..];
            }
            nth += 1;
        }
        filled.push(rest, None);
        Ok(filled)
    }

    /// What stands for one expression, or why nothing does.
    fn expression(&mut self, key: &str, name: &str, filled: &mut Filled) -> Result<(), String> {
        if name.is_empty() {
            return Err(format!("`{OPEN} {CLOSE}` names nothing\nhint: {KNOWN_NAMES}"));
        }
        match name.split_once('.') {
            Some(("run", "name")) => filled.push(self.values.run_name, None),
            Some(("run", "args")) => {
                filled.push(&quoted(self.values.args)?, None);
                self.args_used = true;
            }
            Some(("env", variable)) if is_name(variable) => {
                let value = (self.values.env)(variable).ok_or_else(|| {
                    let variable = shown(variable);
                    format!("the variable `{variable}` is not set where the run is started\nhint: `{variable}=… dockless workflow run …`, or `export {variable}=…` before it")
                })?;
                filled.push(&value, None);
            }
            Some(("secrets", secret)) if is_name(secret) => self.secret(key, secret, filled)?,
            _ => return Err(unknown_name(name)),
        }
        Ok(())
    }

    fn secret(&mut self, key: &str, name: &str, filled: &mut Filled) -> Result<(), String> {
        if !MAY_BE_SECRET.contains(&key) {
            return Err(format!(
                "a secret cannot stand in `{key}`, which lists, messages and records show\nhint: take it from a variable: `{OPEN} env.{} {CLOSE}`",
                shown(name)
            ));
        }
        let value = secret(name, self.values)?;
        filled.push(&value, Some(MASK));
        note(&mut self.secrets, name, value);
        Ok(())
    }

    /// Text that may hold secrets.
    fn text(&mut self, key: &str, at: &At<Text<String>>) -> Result<Filled, Mistake> {
        match &at.value {
            Text::Literal(text) => Ok(Filled::plain(text.clone())),
            Text::Template(template) => self.fill(key, template, at.span),
        }
    }

    /// Text that holds none.
    fn plain(&mut self, key: &str, at: &At<Text<String>>) -> Result<Given<String>, Mistake> {
        Ok(Given { value: self.text(key, at)?.text, place: Place::File(at.span) })
    }

    /// A value of another type, by the function that a literal of the file goes through.
    fn value<T: Clone, E: fmt::Display>(
        &mut self,
        key: &str,
        at: &At<Text<T>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Given<T>, Mistake> {
        let value = match &at.value {
            Text::Literal(value) => value.clone(),
            Text::Template(template) => {
                let filled = self.fill(key, template, at.span)?;
                parse(&filled.text).map_err(|error| self.workflow.mistake(at.span, Problem::bad_value(key, &error)))?
            }
        };
        Ok(Given { value, place: Place::File(at.span) })
    }

    fn typed<T: Clone, E: fmt::Display>(
        &mut self,
        key: &str,
        at: Option<&At<Text<T>>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<Given<T>>, Mistake> {
        at.map(|at| self.value(key, at, parse)).transpose()
    }

    fn optional(&mut self, key: &str, at: Option<&At<Text<String>>>) -> Result<Option<Given<String>>, Mistake> {
        at.map(|at| self.plain(key, at)).transpose()
    }

    fn filled(&mut self, key: &str, at: Option<&At<Text<String>>>) -> Result<Option<Given<Filled>>, Mistake> {
        at.map(|at| Ok(Given { value: self.text(key, at)?, place: Place::File(at.span) })).transpose()
    }

    fn list<T, U>(
        &mut self,
        key: &str,
        list: Option<&At<Vec<T>>>,
        mut item: impl FnMut(&mut Self, &str, &T) -> Result<U, Mistake>,
    ) -> Result<Vec<U>, Mistake> {
        list.iter().flat_map(|at| &at.value).map(|at| item(self, key, at)).collect()
    }

    fn commands(
        &mut self,
        key: &str,
        list: Option<&At<Vec<At<Text<String>>>>>,
    ) -> Result<Option<Given<Vec<Command>>>, Mistake> {
        let Some(At { value: items, span }) = list else { return Ok(None) };
        let command = |at: &At<Text<String>>| {
            let (Text::Literal(written) | Text::Template(written)) = &at.value;
            let is_script = written.trim_matches('\n').contains('\n');
            Ok(Command { text: self.text(key, at)?, is_script })
        };
        let value = items.iter().map(command).collect::<Result<_, _>>()?;
        Ok(Some(Given { value, place: Place::File(*span) }))
    }

    fn entrypoint(&mut self, at: Option<&At<Entrypoint>>) -> Result<Option<Given<ResolvedEntrypoint>>, Mistake> {
        const KEY: &str = "entrypoint";
        let Some(At { value, span }) = at else { return Ok(None) };
        let value = match value {
            Entrypoint::Line(line) => ResolvedEntrypoint::Line(self.text(KEY, line)?),
            Entrypoint::Words(items) => {
                let mut words = Vec::new();
                for item in items {
                    if is_args_alone(&item.value) {
                        words.extend(self.values.args.iter().map(Filled::plain));
                        self.args_used = true;
                    } else {
                        words.push(self.text(KEY, item)?);
                    }
                }
                ResolvedEntrypoint::Words(words)
            }
        };
        Ok(Some(Given { value, place: Place::File(*span) }))
    }

    fn env(&mut self, entries: &[At<Text<EnvEntry>>]) -> Result<Vec<(String, Option<Filled>)>, Mistake> {
        entries.iter().map(|entry| self.env_entry(entry)).collect()
    }

    fn env_entry(&mut self, at: &At<Text<EnvEntry>>) -> Result<(String, Option<Filled>), Mistake> {
        let template = match &at.value {
            Text::Literal(EnvEntry { name, value }) => {
                return Ok((name.clone(), value.as_ref().map(|value| Filled::plain(value.clone()))));
            }
            Text::Template(template) => template,
        };
        let filled = self.fill("env", template, at.span)?;
        let wrong = |reason: &dyn fmt::Display| self.workflow.mistake(at.span, Problem::bad_value("env", reason));
        // What is shown has the same name as what is meant only if no secret is in it.
        let masked = file::env_text(filled.masked()).map_err(|reason| wrong(&reason))?;
        if filled.text.split('=').next() != Some(masked.name.as_str()) {
            return Err(wrong(&"a secret cannot be in the name of a variable"));
        }
        let EnvEntry { name, value } = file::env_text(&filled.text).map_err(|reason| wrong(&reason))?;
        let value = value.map(|text| Filled { text, masked: masked.value.filter(|_| filled.is_secret()) });
        Ok((name, value))
    }

    fn artifacts(&mut self, artifacts: &[Artifact]) -> Result<Vec<(Given<String>, bool)>, Mistake> {
        artifacts.iter().map(|artifact| Ok((self.plain("path", &artifact.path)?, artifact.mount))).collect()
    }

    fn dependency(&mut self, key: &str, dependency: &Dependency) -> Result<Given<ResolvedDependency>, Mistake> {
        let (at, make): (_, fn(String) -> ResolvedDependency) = match dependency {
            Dependency::Workflow(at) => (at, ResolvedDependency::Workflow),
            Dependency::Tag(at) => (at, ResolvedDependency::Tag),
        };
        let Given { value, place } = self.plain(key, at)?;
        Ok(Given { value: make(value), place })
    }

    fn gpu(&mut self, At { value, span }: &At<Gpu>) -> Result<Given<ResolvedGpu>, Mistake> {
        let Gpu { count, name, memory } = value;
        let count = self.value("gpu", &At { value: count.clone(), span: *span }, numbers::gpu_count)?.value;
        let name = self.optional("name", name.as_ref())?.map(|name| name.value);
        let memory = self.typed("memory", memory.as_ref(), numbers::size_text)?.map(|memory| memory.value);
        Ok(Given { value: ResolvedGpu { count, name, memory }, place: Place::File(*span) })
    }

    /// A password that stands in the file in clear is as secret as one that was filled in.
    fn registry_auth(&mut self, at: Option<&At<RegistryAuth>>) -> Result<Option<(Filled, Filled)>, Mistake> {
        let Some(At { value: RegistryAuth { username, password }, .. }) = at else { return Ok(None) };
        let mut part = |key, at| Ok(Filled::secret(self.text(key, at).map_err(Mistake::concealed)?.text));
        Ok(Some((part("username", username)?, part("password", password)?)))
    }
}

/// Keys of which nothing but the workload (or the registry) sees the value.
const MAY_BE_SECRET: [&str; 8] =
    ["commands", "before_run", "entrypoint", "env", "file", "requirements", "username", "password"];
const KNOWN_NAMES: &str = "there are `run.name`, `run.args`, `env.NAME` and `secrets.NAME`";

/// What can follow `env.` and `secrets.`.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "=${}".contains(c))
}

/// Whether this is `${{ run.args }}` and nothing else.
fn is_args_alone(text: &Text<String>) -> bool {
    let Text::Template(template) = text else { return false };
    let inner = template.trim().strip_prefix(OPEN).and_then(|rest| rest.strip_suffix(CLOSE));
    inner.is_some_and(|name| name.trim() == ARGS)
}

/// The arguments as words of a shell.
fn quoted(args: &[String]) -> Result<String, String> {
    shlex::try_join(args.iter().map(String::as_str)).map_err(|_| "an argument of the run holds a NUL byte".to_owned())
}

fn unknown_name(name: &str) -> String {
    let (top, rest) = name.split_once('.').unwrap_or((name, ""));
    let meant = nearest(name, ["run.name", "run.args"].into_iter()).map(str::to_owned).or_else(|| {
        let top = nearest(top, ["env", "secrets"].into_iter())?;
        is_name(rest).then(|| format!("{top}.{}", shown(rest)))
    });
    let hint = meant.map_or_else(|| KNOWN_NAMES.to_owned(), |meant| format!("did you mean `{meant}`?"));
    format!("there is no `{}` to fill in\nhint: {hint}", shown(name))
}

/// The place of the `nth` expression of the value at `span`, whose text is `written`; the value's place where the file
/// spells it in another way.
fn expression_span(source: &Source, span: Span, nth: usize, written: &str) -> Span {
    let text = source.text();
    let line_start = text.split_inclusive('\n').take(span.line - 1).map(str::len).sum::<usize>();
    let line = &text[line_start..];
    let start = line_start + line.char_indices().nth(span.column - 1).map_or(0, |(index, _)| index);
    let mut found = text[start..].match_indices(OPEN).map(|(index, _)| start + index).skip(nth);
    let Some(index) = found.find(|index| text[*index..].starts_with(written)) else { return span };
    let before = &text[..index];
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Span { line: before.matches('\n').count() + 1, column, width: written.trim_end().chars().count() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::file::parse;
    use super::super::plan::plan;
    use super::*;

    /// One workflow with these lines, from line 3 on.
    fn workflow(lines: &str) -> Workflow {
        let indented = lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        let text = format!("workflows:\n  - name: a\n{indented}");
        parse("w.yaml", text.as_bytes()).unwrap_or_else(|mistake| panic!("{mistake}")).workflows.remove(0)
    }

    fn env(name: &str) -> Option<String> {
        let known = [
            ("X", "x"),
            ("EMPTY", ""),
            ("TRICKY", "${{ run.name }} $${{ }} '"),
            ("IMAGE", "a/b:1"),
            ("BAD_IMAGE", "Not An Image"),
            ("CPU", "1.5"),
            ("SIZE", "16GB"),
            ("PORT", "8080:80"),
            ("TWO", "2"),
        ];
        known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn secret(name: &str) -> Result<Option<String>, String> {
        match name {
            "TOKEN" => Ok(Some("hunter2".to_owned())),
            "LINES" => Ok(Some("hunter2\nhunter3 \"".to_owned())),
            "NUL" => Ok(Some("hunter2\0".to_owned())),
            "BROKEN" => Err("the secrets cannot be read".to_owned()),
            _ => Ok(None),
        }
    }

    fn resolved(lines: &str) -> Result<Resolved, Mistake> {
        let args = ["one".to_owned(), "two three".to_owned(), "it's".to_owned()];
        resolve(&workflow(lines), &Values { run_name: "swift-fox-1", args: &args, env: &env, secret: &secret })
    }

    fn command(text: &str) -> String {
        let lines = format!("commands:\n- '{}'", text.replace('\'', "''"));
        let resolved = resolved(&lines).unwrap_or_else(|mistake| panic!("{mistake}"));
        resolved.commands.unwrap().value[0].text.expose().to_owned()
    }

    #[test]
    fn expressions_and_what_they_give() {
        for (template, expected) in [
            ("a ${{ run.name }} b", "a swift-fox-1 b"),
            ("${{run.name}}${{  run.name  }}", "swift-fox-1swift-fox-1"),
            ("x ${{ run.args }}", "x one 'two three' \"it's\""),
            ("${{ env.X }}${{ env.EMPTY }}", "x"),
            ("${{ env.TRICKY }}", "${{ run.name }} $${{ }} '"),
            ("${{ secrets.TOKEN }}", "hunter2"),
            ("$${{ env.X }}", "${{ env.X }}"),
            ("$$${{ env.X }}", "$${{ env.X }}"),
            ("$${{ ${{ env.X }}", "${{ x"),
            ("echo $$ ${{ env.X }} $$", "echo $$ x $$"),
            ("${{ env.X }}}}", "x}}"),
            ("$ {{ x }} ${ {x} }", "$ {{ x }} ${ {x} }"),
            ("\u{e4}${{ env.X }}\u{e4}", "\u{e4}x\u{e4}"),
        ] {
            assert_eq!(command(template), expected, "{template}");
        }
    }

    #[test]
    fn every_typed_value_is_filled_in_and_checked() {
        let resolved = resolved(
            "image: ${{ env.IMAGE }}\nworking_dir: ${{ env.X }}/y\nhome_dir: /${{ env.X }}\n\
             env: {A: '${{ env.X }}=${{ secrets.TOKEN }}', B: plain}\n\
             artifacts: [{path: 'out/${{ run.name }}', mount: true}]\ncache: ['${{ env.X }}']\n\
             deps: [{workflow: '${{ env.X }}'}, {tag: '${{ env.X }}'}]\nports: ['${{ env.PORT }}']\n\
             resources: {cpu: '${{ env.CPU }}', memory: '${{ env.SIZE }}', shm_size: '${{ env.TWO }}MiB', \
             gpu: {count: '${{ env.TWO }}', name: '${{ env.X }}', memory: '${{ env.SIZE }}'}}\n\
             registry_auth: {username: '${{ env.X }}', password: '${{ secrets.TOKEN }}'}\n\
             file: '${{ secrets.TOKEN }}.py'\nversion: 3.1${{ env.TWO }}\nprovider: docker${{ env.EMPTY }}",
        )
        .unwrap_or_else(|mistake| panic!("{mistake}"));
        assert_eq!(resolved.image.as_ref().unwrap().value, "a/b:1".parse().unwrap());
        assert_eq!(resolved.working_dir.as_ref().unwrap().value, "x/y");
        let value = resolved.env[0].1.as_ref().unwrap();
        assert_eq!((resolved.env[0].0.as_str(), value.expose(), value.masked()), ("A", "x=hunter2", "x=****"));
        assert_eq!(resolved.env[1], ("B".to_owned(), Some(Filled::plain("plain"))));
        assert_eq!(resolved.artifacts[0].0.value, "out/swift-fox-1");
        assert_eq!(resolved.ports[0].value, Port { host: Some(8080), container: 80 });
        assert_eq!(resolved.cpu.as_ref().unwrap().value.to_string(), "1.5");
        assert_eq!(resolved.memory.as_ref().unwrap().value, ByteSize(16_000_000_000));
        assert_eq!(resolved.shm_size.as_ref().unwrap().value, ByteSize(2 << 20));
        let gpu = &resolved.gpu.as_ref().unwrap().value;
        assert_eq!((gpu.count, gpu.name.as_deref(), gpu.memory), (2, Some("x"), Some(ByteSize(16_000_000_000))));
        assert_eq!(resolved.version.as_ref().unwrap().value, "3.12");
        assert_eq!(resolved.file.as_ref().unwrap().value.masked(), "****.py");
        let used: Vec<(&str, &str)> = resolved.secrets.iter().map(|used| (used.name.as_str(), used.expose())).collect();
        assert_eq!(used, [("TOKEN", "hunter2")]);
        assert!(!format!("{resolved:?}").contains("hunter2"), "{resolved:?}");
        assert!(!resolved.args_used);
    }

    #[test]
    fn mistakes_have_their_place() {
        for (lines, place, expected) in [
            ("commands:\n- echo ${{ run.nmae }}", "4:12", "there is no `run.nmae` to fill in"),
            ("commands:\n- echo ${{ run.nmae }}", "4:12", "hint: did you mean `run.name`?"),
            ("commands:\n- echo ${{ secret.X }}", "4:12", "hint: did you mean `secrets.X`?"),
            ("commands:\n- echo ${{ environ.X }}", "4:12", "hint: there are `run.name`, `run.args`"),
            ("commands:\n- echo ${{ X }}", "4:12", "there is no `X` to fill in"),
            ("commands:\n- echo ${{ env. }}", "4:12", "there is no `env.` to fill in"),
            ("commands:\n- echo ${{ env.A B }}", "4:12", "there is no `env.A B` to fill in"),
            ("commands:\n- echo ${{ }}", "4:12", "`${{ }}` names nothing"),
            ("commands:\n- echo ${{}}", "4:12", "`${{ }}` names nothing"),
            ("commands:\n- echo ${{ run.name }", "4:12", "`${{` has no `}}` in its line\n"),
            ("commands:\n- echo ${{ run.name }} ${{ run.name", "4:28", "hint: write `$${{` for the text `${{` itself"),
            ("commands: |\n  one\n  two ${{ env.X }} ${{\n  run.name }}", "5:24", "has no `}}` in its line"),
            ("commands: |\n  one ${{ env.X }}\n  two ${{ nothing }}\n", "5:11", "there is no `nothing`"),
            ("commands: >\n  one ${{ env.X }}\n  two ${{ nothing }}\n", "5:11", "there is no `nothing`"),
            ("commands:\n- $${{ nothing }} ${{ nothing }}", "4:23", "there is no `nothing`"),
            ("commands:\n- \"\u{e4}\u{e4} ${{ nothing }}\"", "4:11", "there is no `nothing`"),
            ("commands: [a, 'b ${{ nothing }}']", "3:22", "there is no `nothing`"),
            // The file spells it in another way, so that its place is the value's.
            ("commands: [\"a \\x24{{ nothing }}\"]", "3:16", "there is no `nothing`"),
            ("image: i${{ env.UNSET }}", "3:13", "the variable `UNSET` is not set where the run is started"),
            ("image: i${{ env.UNSET }}", "3:13", "hint: `UNSET=… dockless workflow run …`"),
            ("image: ${{ env.BAD_IMAGE }}", "3:12", "`image` is wrong: "),
            ("resources: {cpu: 'x${{ env.CPU }}'}", "3:22", "`x1.5` is not a number of cores"),
            ("resources: {memory: '${{ env.X }}'}", "3:25", "size `x` is malformed"),
            ("resources: {memory: '0${{ env.EMPTY }}'}", "3:25", "leave the key away for no limit"),
            (
                "resources: {gpu: {name: '${{ env.X }}', count: '${{ env.NO }}'}}",
                "3:53",
                "the variable `NO` is not set",
            ),
            ("ports: ['${{ env.X }}']", "3:13", "`x` is not a port"),
            ("env: ['${{ env.TRICKY }}=1']", "3:11", "holds white space"),
            ("commands: ['${{ secrets.NONE }}']", "3:17", "there is no secret `NONE`\n"),
            ("commands: ['${{ secrets.NONE }}']", "3:17", "hint: add it with `dockless secrets add NONE`"),
            ("commands: ['${{ secrets.BROKEN }}']", "3:17", "the secrets cannot be read"),
            ("commands: ['${{ secrets.NUL }}']", "3:17", "the secret `NUL` holds a NUL byte"),
        ] {
            let text = resolved(lines).unwrap_err().to_string();
            assert!(text.starts_with(&format!("w.yaml:{place}: ")), "{lines:?} gave: {text}");
            assert!(text.contains(expected), "{lines:?} gave: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert_eq!(
            resolved("commands:\n- echo ${{ run.nmae }} x").unwrap_err().to_string(),
            "w.yaml:4:12: `commands` is wrong: there is no `run.nmae` to fill in\n  |\n\
             4 |     - echo ${{ run.nmae }} x\n  |            ^^^^^^^^^^^^^^^\nhint: did you mean `run.name`?"
        );
    }

    #[test]
    fn secrets_stand_only_where_nobody_sees_them() {
        for lines in [
            "image: 'a:${{ secrets.TOKEN }}'",
            "provider: '${{ secrets.TOKEN }}'",
            "working_dir: '${{ secrets.TOKEN }}'",
            "home_dir: '/${{ secrets.TOKEN }}'",
            "artifacts: ['${{ secrets.TOKEN }}']",
            "cache: ['${{ secrets.TOKEN }}']",
            "deps: [{tag: '${{ secrets.TOKEN }}'}]",
            "ports: ['${{ secrets.TOKEN }}']",
            "version: '${{ secrets.TOKEN }}'",
            "resources: {memory: '${{ secrets.TOKEN }}'}",
            "resources: {gpu: {name: '${{ secrets.TOKEN }}'}}",
            "env: ['${{ secrets.TOKEN }}=1']",
            "env: ['${{ secrets.TOKEN }}']",
            "env: ['a ${{ secrets.TOKEN }}=x']",
        ] {
            let mistake = resolved(lines).unwrap_err();
            let text = mistake.to_string();
            assert!(text.starts_with("w.yaml:3:") && text.contains("secret"), "{lines:?} gave: {text}");
            assert!(!text.contains("hunter2") && !format!("{mistake:?}").contains("hunter2"), "{text}");
        }
        // A password that stands in the file in clear, next to an expression that is wrong.
        let text = resolved("registry_auth: {username: ann, password: 'hunter2 ${{ x }}'}").unwrap_err().to_string();
        assert!(text.starts_with("w.yaml:3:") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn filled_text_is_shown_masked() {
        let resolved = resolved(
            "commands: ['a ${{ secrets.TOKEN }} b ${{ env.X }} ${{ secrets.LINES }}.', 'c']\nentrypoint: ['x', '${{ secrets.TOKEN }}']",
        )
        .unwrap();
        let commands = &resolved.commands.as_ref().unwrap().value;
        assert_eq!(commands[0].text.masked(), "a **** b x ****.");
        assert_eq!(commands[0].text.expose(), "a hunter2 b x hunter2\nhunter3 \".");
        assert!(!commands[0].is_script, "what a secret brings makes no script of a command");
        assert!(commands[0].text.is_secret() && !commands[1].text.is_secret());
        let names: Vec<&str> = resolved.secrets.iter().map(|used| used.name.as_str()).collect();
        assert_eq!(names, ["TOKEN", "LINES"]);
        assert!(!format!("{resolved:?}").contains("hunter"));
        let mut word = Filled::plain("a");
        word.push("b", Some("*"));
        word.push("c", None);
        assert_eq!((word.expose(), word.masked()), ("abc", "a*c"));
        let upper = word.map(str::to_uppercase);
        assert_eq!((upper.expose(), upper.masked()), ("ABC", "A*C"));
    }

    proptest! {
        /// What comes out of a variable or a secret stands in the result as it is, whatever it looks like.
        #[test]
        fn nothing_is_filled_in_twice(value in "(\\$|\\{|\\}| |run\\.name|env\\.V|secrets\\.S|x){0,12}") {
            let workflow = workflow("commands: ['a${{ env.V }}b${{ secrets.S }}c']");
            let env = |_: &str| Some(value.clone());
            let secret = |_: &str| Ok(Some(value.clone()));
            let values = Values { run_name: "SWIFT", args: &[], env: &env, secret: &secret };
            let resolved = resolve(&workflow, &values).unwrap();
            let text = &resolved.commands.unwrap().value[0].text;
            prop_assert_eq!(text.expose(), format!("a{value}b{value}c"));
            prop_assert_eq!(text.masked(), format!("a{value}b{MASK}c"));
        }

        /// Any text at all is filled in or refused with a place in it, and a secret is in no message.
        #[test]
        fn no_text_makes_it_panic(text in "(\\$\\$?\\{\\{|\\}\\}|[ \n.'\u{e4}$]|run|name|args|env|secrets|TOKEN|X){0,14}") {
            let quoted = serde_json::to_string(&text).unwrap();
            for lines in [format!("commands: [{quoted}]"), format!("env: {{A: {quoted}}}"), format!("entrypoint: {quoted}"), format!("image: {quoted}")] {
                let Ok(mut file) = parse("w.yaml", format!("workflows:\n  - name: a\n    {lines}\n").as_bytes()) else { continue };
                let args = ["it's".to_owned()];
                let values = Values { run_name: "r", args: &args, env: &env, secret: &secret };
                match resolve(&file.workflows.remove(0), &values) {
                    Ok(resolved) => {
                        let shown = format!("{resolved:?} {:?}", plan(&resolved).map_err(|mistake| mistake.to_string()));
                        prop_assert!(!shown.contains("hunter2"), "{}", shown);
                    }
                    Err(mistake) => {
                        prop_assert_eq!(mistake.span().line, 3);
                        prop_assert!(!mistake.to_string().contains("hunter2"), "{}", mistake);
                    }
                }
            }
        }

        /// A shell gets back the very arguments.
        #[test]
        fn arguments_survive_the_shells_words(args in proptest::collection::vec("[ -~\u{e4}\n]{0,8}", 0..4)) {
            prop_assert_eq!(shlex::split(&quoted(&args).unwrap()).unwrap(), args);
        }
    }
}
