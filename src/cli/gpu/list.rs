//! `gpu list`.

use super::roots;
use crate::cli::args::GpuListArgs;
use crate::cli::context::Context;
use crate::cli::exit::CliError;

pub(in crate::cli) fn list(context: &Context, args: &GpuListArgs) -> Result<u8, CliError> {
    let _ = (context, roots(&args.driver));
    Ok(0)
}
