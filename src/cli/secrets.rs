//! `secrets add`, `list` and `delete`. No value is ever printed, nor taken from where others see it.

use std::fs::File;
use std::io::{self, IsTerminal, Read};

use serde::Serialize;

use super::args::{ListArgs, SecretsAddArgs, SecretsDeleteArgs};
use super::ask::{confirm, hidden_line, somebody_is_there};
use super::context::{Context, variable};
use super::exit::CliError;
use super::printer::{print_data, print_list};
use crate::store::{MAX_SECRET_BYTES, SecretInfo, SecretName, SecretValue, SecretValueError, StoreError};

/// One line of `secrets list`.
#[derive(Serialize)]
struct Line {
    name: String,
    /// When it got its value (RFC 3339, UTC).
    changed: String,
}

pub(super) fn list(context: &Context, args: &ListArgs) -> Result<u8, CliError> {
    let line = |info: SecretInfo| Line { name: info.name.to_string(), changed: format!("{:.0}", info.changed) };
    let lines: Vec<Line> = context.store()?.secrets().list()?.into_iter().map(line).collect();
    print_list(args.format, ["SECRET", "CHANGED"], &lines, |line| [line.name.clone(), line.changed.clone()]);
    Ok(0)
}

pub(super) fn add(context: &Context, args: &SecretsAddArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (name, rest) = args.name.split_once('=').map_or((args.name.as_str(), None), |(name, rest)| (name, Some(rest)));
    if rest.is_some() || args.value.is_some() {
        return Err(CliError::Usage(format!(
            "a value on the command line is seen by every user of this machine, and stays in the shell's history\nhint: `dockless secrets add {}` reads it from standard input; there are `--file` and `--env` too",
            name.escape_debug()
        )));
    }
    let name: SecretName = name.parse()?;
    let secrets = context.store()?.secrets();
    let mut replace = args.force;
    if !replace && secrets.has(&name) {
        // Before the value is asked for, so that nobody types it in vain.
        if !somebody_is_there() {
            return Err(StoreError::SecretExists { name: name.to_string() }.into());
        }
        replace = confirm(&format!("there is a secret `{name}` already; replace it?"))?;
        if !replace {
            return Err(CliError::Usage(format!("the secret `{name}` is as it was")));
        }
    }
    let value = SecretValue::new(value(args, &name)?).map_err(|error| explained(error, args))?;
    let replaced = secrets.add(&name, &value, replace)?;
    printer.say(&format!("{} secret `{name}`", if replaced { "replaced" } else { "added" }));
    Ok(0)
}

/// Reads one byte more than a secret may have, so that the rest need not be read to know.
fn value(args: &SecretsAddArgs, name: &SecretName) -> Result<Vec<u8>, CliError> {
    let limit = MAX_SECRET_BYTES as u64 + 2;
    let mut bytes = Vec::new();
    if let Some(path) = &args.file {
        let read = |source| CliError::Read { path: path.clone(), source };
        File::open(path).map_err(read)?.take(limit).read_to_end(&mut bytes).map_err(read)?;
        return Ok(bytes);
    }
    if let Some(key) = &args.env {
        let unset = || CliError::Usage(format!("the variable `{}` is not set, or is no text", key.escape_debug()));
        return Ok(variable(key).ok_or_else(unset)?.into_bytes());
    }
    // Also where nobody sees the question: what is typed at a terminal is not to be shown.
    if io::stdin().is_terminal() {
        return hidden_line(&format!("value of `{name}` (not shown): "));
    }
    let read = |source| CliError::Process("read standard input", source);
    io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(read)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

fn explained(error: SecretValueError, args: &SecretsAddArgs) -> CliError {
    match error {
        SecretValueError::Empty if args.file.is_none() && args.env.is_none() => CliError::Usage(format!(
            "{error}\nhint: write it to standard input: `printf %s \"$VALUE\" | dockless secrets add {}`",
            args.name
        )),
        error => error.into(),
    }
}

pub(super) fn delete(context: &Context, args: &SecretsDeleteArgs) -> Result<u8, CliError> {
    let secrets = context.store()?.secrets();
    // All names are looked up before any is removed, so that a typing error removes nothing.
    let names = args.names.iter().map(|name| Ok(name.parse::<SecretName>()?)).collect::<Result<Vec<_>, CliError>>()?;
    for name in names.iter().filter(|name| !secrets.has(name)) {
        // The one place that knows what to say.
        secrets.delete(name)?;
    }
    for name in names {
        secrets.delete(&name)?;
        print_data(&format!("{name}\n"));
    }
    Ok(0)
}
