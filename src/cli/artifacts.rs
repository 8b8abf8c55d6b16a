//! `artifacts ls` and `artifacts cp`.

use super::args::{ArtifactsCpArgs, ArtifactsLsArgs};
use super::context::Context;
use super::exit::CliError;
use crate::artifact::ArtifactStore;
use crate::image::ByteSize;

pub(super) fn list(context: &Context, args: ArtifactsLsArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.list.talk);
    let manifest = ArtifactStore::at(context.store()?.root()).list(&args.run)?;
    printer.list(args.list.format, ["ARTIFACT", "FILES", "SIZE"], &manifest.artifacts, |artifact| {
        [artifact.path.to_string(), artifact.files.to_string(), ByteSize(artifact.bytes).to_string()]
    });
    Ok(0)
}

pub(super) fn copy(context: &Context, args: ArtifactsCpArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (run, path) = args.source.split_once('/').map_or((args.source.as_str(), None), |(run, path)| (run, Some(path)));
    let copied = ArtifactStore::at(context.store()?.root()).copy_out(run, path, &args.destination)?;
    printer.say(&format!("copied {} files, {}", copied.files, ByteSize(copied.bytes)));
    Ok(0)
}
