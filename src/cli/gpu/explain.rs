//! `gpu explain`.

use super::roots;
use crate::cli::args::GpuExplainArgs;
use crate::cli::context::Context;
use crate::cli::exit::CliError;

pub(in crate::cli) fn explain(context: &Context, args: &GpuExplainArgs) -> Result<u8, CliError> {
    let _ = (context, roots(&args.driver));
    Ok(0)
}
