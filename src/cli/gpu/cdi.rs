//! `gpu cdi`.

use super::{grant, roots};
use crate::cli::args::{CdiFormat, GpuCdiArgs};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::cli::printer::print_data;
use crate::engine::EngineError;
use crate::engine::devices::{Devices, cdi_specification};
use crate::gpu::GpuRequest;
use crate::gpu::cdi::Format;

pub(in crate::cli) fn cdi(_: &Context, args: &GpuCdiArgs) -> Result<u8, CliError> {
    let devices =
        Devices { gpus: GpuRequest::all(), roots: roots(&args.driver)?, grant: grant(), ..Devices::default() };
    print_data(&cdi_specification(&devices, format(args.format)).map_err(EngineError::from)?);
    Ok(0)
}

const fn format(format: CdiFormat) -> Format {
    match format {
        CdiFormat::Yaml => Format::Yaml,
        CdiFormat::Json => Format::Json,
    }
}
