//! `gpu cdi`.

use super::roots;
use crate::cli::args::{CdiFormat, GpuCdiArgs};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::gpu::cdi::Format;

pub(in crate::cli) fn cdi(context: &Context, args: &GpuCdiArgs) -> Result<u8, CliError> {
    let _ = (context, roots(&args.driver), format(args.format));
    Ok(0)
}

const fn format(format: CdiFormat) -> Format {
    match format {
        CdiFormat::Yaml => Format::Yaml,
        CdiFormat::Json => Format::Json,
    }
}
