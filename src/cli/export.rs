//! `export`: the root file system of a run as a tar.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use super::args::{ExportArgs, TalkArgs};
use super::context::Context;
use super::exit::CliError;
use crate::transport::replace_file;

/// A tar consists of small pieces.
const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn export(context: &Context, args: &ExportArgs) -> Result<u8, CliError> {
    let stdout = io::stdout();
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if output.is_none() && stdout.is_terminal() {
        let what = "standard output is a terminal, and an archive is no text";
        return Err(CliError::Usage(format!("{what}\nhint: name a place with `--output FILE`")));
    }
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let run = engine.store().find_run(&args.run)?;
    let fill = |out: &mut dyn Write| -> Result<(), CliError> {
        Ok(engine.export(&run, &mut BufWriter::with_capacity(BUFFER_BYTES, out))?)
    };
    match output {
        Some(path) => {
            let failed = |source| CliError::Write { path: path.to_owned(), source };
            replace_file(path, failed, fill)?;
        }
        None => fill(&mut stdout.lock())?,
    }
    Ok(0)
}
