//! What the container runs: `entrypoint`, `before_run`, `commands`, and the Python keys `file`, `requirements`, `version`.
//!
//! | given | the container's arguments |
//! |---|---|
//! | commands only | `/bin/sh -c "<joined>"` |
//! | entrypoint and commands | those of the entrypoint, then the joined commands as one |
//! | entrypoint only | those of the entrypoint; the image's command is dropped |
//! | neither | the image's own |
//!
//! The commands are, in this order and in one shell: `before_run`, the installation of `requirements`, then `commands`, or
//! without them `python FILE ARGS`. `version` makes it `python3.X`; without it `python` is what the image calls so.

use super::commands::{Joined, Reader, join};
use super::interpolate::{Command, Filled, Given, Place, Resolved, ResolvedEntrypoint};
use super::mistake::{Mistake, shown};
use crate::image::Reference;

/// The Python of a workflow that names a `file`, but neither `image` nor `version`.
const DEFAULT_PYTHON: &str = "3.10";

/// Programs that read the argument after `-c` as a script.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"];

/// What to run.
#[derive(Debug)]
pub(super) struct Program {
    /// Replaces the image's entrypoint.
    pub(super) entrypoint: Option<Vec<Filled>>,
    /// Replaces the image's command.
    pub(super) command: Vec<Filled>,
    /// A label of each command.
    pub(super) steps: Vec<String>,
}

/// Puts together what a workflow runs.
pub(super) fn program(workflow: &Resolved) -> Result<Program, Mistake> {
    let entrypoint = workflow.entrypoint.as_ref().map(|given| words(workflow, given)).transpose()?;
    let reader = match &entrypoint {
        Some(words) if !is_shell(words) => Reader::Unknown,
        _ => Reader::Shell,
    };
    let joined = join(&commands(workflow)?, reader);
    if joined.is_none()
        && let Some(commands) = &workflow.commands
    {
        let reason = "there is no command in it\nhint: leave the key away to run what the image runs by itself";
        return Err(workflow.mistake(commands.place, "commands", &reason));
    }
    let (command, steps) = match joined {
        Some(Joined { script, steps }) => (vec![script], steps),
        None => (Vec::new(), Vec::new()),
    };
    let shell = || ["/bin/sh", "-c"].map(Filled::plain).to_vec();
    let entrypoint = entrypoint.or_else(|| (!command.is_empty()).then(shell));
    Ok(Program { entrypoint, command, steps })
}

/// The image: as given, or one with Python for a `file`.
pub(super) fn image(workflow: &Resolved) -> Result<Option<Reference>, Mistake> {
    let version = version(workflow)?;
    if let Some(image) = &workflow.image {
        return Ok(Some(image.value.clone()));
    }
    let Some(file) = &workflow.file else { return Ok(None) };
    let name = format!("python:{}", version.unwrap_or(DEFAULT_PYTHON));
    name.parse().map(Some).map_err(|error| workflow.mistake(file.place, "version", &error))
}

/// All commands in their order.
fn commands(workflow: &Resolved) -> Result<Vec<Command>, Mistake> {
    let Resolved { before_run, requirements, commands, file, .. } = workflow;
    let python = interpreter(workflow)?;
    let mut all: Vec<Command> = before_run.iter().flat_map(|given| given.value.iter().cloned()).collect();
    if let Some(requirements) = requirements {
        let install = |file: &str| format!("{python} -m pip install -r {file}");
        all.push(command(quoted(workflow, requirements, "requirements")?.map(install)));
    }
    match (commands, file) {
        (Some(commands), _) => all.extend(commands.value.iter().cloned()),
        (None, Some(file)) => all.push(command(run_file(workflow, &python, file)?)),
        (None, None) => nothing_after(workflow)?,
    }
    Ok(all)
}

fn command(text: Filled) -> Command {
    Command { text, is_script: false }
}

/// The command that a `file` stands for, with secrets masked; none with `commands`.
pub(super) fn file_command(workflow: &Resolved) -> Option<String> {
    let file = workflow.file.as_ref().filter(|_| workflow.commands.is_none())?;
    let command = run_file(workflow, &interpreter(workflow).ok()?, file).ok()?;
    Some(command.masked().to_owned())
}

/// `python FILE ARGS`.
fn run_file(workflow: &Resolved, python: &str, file: &Given<Filled>) -> Result<Filled, Mistake> {
    let args = shlex::try_join(workflow.args.iter().map(String::as_str))
        .map_err(|_| workflow.mistake(Place::Flag("-- ARGS"), "", &"an argument holds a NUL byte"))?;
    let args = if args.is_empty() { args } else { format!(" {args}") };
    Ok(quoted(workflow, file, "file")?.map(|file| format!("{python} {file}{args}")))
}

/// Refuses what comes before nothing: the image's own command is not known here, and would not run after all.
fn nothing_after(workflow: &Resolved) -> Result<(), Mistake> {
    let Resolved { before_run, requirements, .. } = workflow;
    let places = [
        (before_run.as_ref().map(|given| given.place), "before_run"),
        (requirements.as_ref().map(|given| given.place), "requirements"),
    ];
    match places.into_iter().find_map(|(place, key)| Some((place?, key))) {
        None => Ok(()),
        Some((place, key)) => Err(workflow.mistake(
            place,
            key,
            &"there is nothing to run after it\nhint: add `commands` or `file`; what the image runs by itself is not known here",
        )),
    }
}

/// A path as one word of a shell, and of no option.
fn quoted(workflow: &Resolved, given: &Given<Filled>, key: &str) -> Result<Filled, Mistake> {
    if given.value.expose().is_empty() {
        return Err(workflow.mistake(given.place, key, &"it is empty, expected a path"));
    }
    let quote = |path: &str| {
        let dot = if path.starts_with('-') { "./" } else { "" };
        // Files hold no NUL, and nothing that is filled in does.
        shlex::try_quote(&format!("{dot}{path}")).map_or_else(|_| String::new(), |word| word.into_owned())
    };
    if given.value.is_secret() {
        return Ok(Filled::plain(quote(given.value.expose())).shown_as(given.value.masked().to_owned()));
    }
    Ok(given.value.map(quote))
}

/// `version`, checked.
fn version(workflow: &Resolved) -> Result<Option<&str>, Mistake> {
    let Some(Given { value, place }) = &workflow.version else { return Ok(None) };
    let number = |part: &str| !part.is_empty() && part.len() < 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = value.split('.').count();
    if parts <= 3 && value.split('.').all(number) {
        return Ok(Some(value));
    }
    let reason = format!("`{}` is not a version of Python, expected one such as `3.10`", shown(value));
    Err(workflow.mistake(*place, "version", &reason))
}

/// `python3.10` for the version `3.10` as for `3.10.4`.
fn interpreter(workflow: &Resolved) -> Result<String, Mistake> {
    let short = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    Ok(format!("python{}", version(workflow)?.map(short).unwrap_or_default()))
}

/// The words of the entrypoint; at least one.
fn words(workflow: &Resolved, given: &Given<ResolvedEntrypoint>) -> Result<Vec<Filled>, Mistake> {
    let wrong = |reason: &str| Err(workflow.mistake(given.place, "entrypoint", &reason));
    let words = match &given.value {
        ResolvedEntrypoint::Words(words) => words.clone(),
        ResolvedEntrypoint::Line(line) => match shlex::split(line.expose()) {
            None => {
                return wrong(
                    "it has a quote without its other half, or ends in a backslash\nhint: make it a list of words",
                );
            }
            Some(words) => with_masks(words, line),
        },
    };
    match words.first() {
        None => wrong("there is no word in it\nhint: leave the key away for the image's own entrypoint"),
        Some(first) if first.expose().is_empty() => wrong("its first word is empty, expected a program"),
        Some(_) => Ok(words),
    }
}

/// The words of a line of which a secret may be a part: shown split in the same way, or not at all.
fn with_masks(words: Vec<String>, line: &Filled) -> Vec<Filled> {
    if !line.is_secret() {
        return words.into_iter().map(Filled::plain).collect();
    }
    match shlex::split(line.masked()) {
        Some(masks) if masks.len() == words.len() => {
            words.into_iter().zip(masks).map(|(word, mask)| Filled::plain(word).shown_as(mask)).collect()
        }
        _ => words.into_iter().map(Filled::secret).collect(),
    }
}

/// Whether what comes after these words is a script of a shell: `bash -c`, also as `env A=1 /bin/bash -lc`.
fn is_shell(words: &[Filled]) -> bool {
    let shell = |word: &Filled| word.expose().rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    let takes_script = words.last().is_some_and(|last| last.expose().starts_with('-') && last.expose().ends_with('c'));
    words.first().is_some_and(shell) || (takes_script && words.iter().any(shell))
}
