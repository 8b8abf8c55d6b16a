//! `save`: images into archives and layouts.

use std::io::{self, IsTerminal};
use std::path::Path;

use super::args::{SaveArgs, SaveAs};
use super::context::Context;
use super::exit::CliError;
use crate::image::Platform;
use crate::store::{StoreError, StoredImage};
use crate::transport::{self, Destination, SaveFormat};

pub(super) fn save(context: &Context, args: &SaveArgs) -> Result<u8, CliError> {
    let format = match args.format {
        SaveAs::DockerArchive => SaveFormat::DockerArchive,
        SaveAs::OciArchive => SaveFormat::OciArchive,
        SaveAs::OciDir => SaveFormat::OciDir,
    };
    let platform = args.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?;
    let stdout = io::stdout();
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if output.is_none() {
        let hint = "hint: name a place with `--output PATH`";
        if format == SaveFormat::OciDir {
            return Err(CliError::Usage(format!("`--format oci-dir` makes a directory\n{hint}")));
        }
        if stdout.is_terminal() {
            return Err(CliError::Usage(format!("standard output is a terminal, and an archive is no text\n{hint}")));
        }
    }
    let store = context.store()?;
    // Before it is found, so that what is found stays.
    let _kept = store.shared()?;
    let found: Result<Vec<StoredImage>, StoreError> = args.images.iter().map(|name| store.find(name)).collect();
    let mut stream = stdout.lock();
    let destination = match output {
        Some(path) => Destination::Path(path),
        None => Destination::Stream(&mut stream),
    };
    transport::save(&store, &found?, format, &platform, destination)?;
    Ok(0)
}
