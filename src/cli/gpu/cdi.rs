//! `gpu cdi`.

use super::roots;
use crate::cli::args::GpuCdiArgs;
use crate::cli::context::Context;
use crate::cli::exit::CliError;

pub(in crate::cli) fn cdi(context: &Context, args: &GpuCdiArgs) -> Result<u8, CliError> {
    let _ = (context, roots(&args.driver));
    Ok(0)
}
