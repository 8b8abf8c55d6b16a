//! `gpu explain`.

use super::{grant, roots};
use crate::cli::args::{Format, GpuExplainArgs};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::cli::printer::{print_data, print_json};
use crate::engine::devices::{Devices, explain as report};
use crate::gpu::GpuRequest;

pub(in crate::cli) fn explain(_: &Context, args: &GpuExplainArgs) -> Result<u8, CliError> {
    let gpus = args.gpus.parse::<GpuRequest>()?;
    let of_request = gpus.capabilities.as_ref().map(ToString::to_string);
    let capabilities = args.gpu_capabilities.clone().or(of_request);
    let devices = Devices { gpus, capabilities, roots: roots(&args.driver)?, grant: grant(), ..Devices::default() };
    let report = report(&devices).map_err(crate::engine::EngineError::from)?;
    match args.format {
        Format::Json => print_json(&report),
        Format::Table => print_data(&report.text()),
    }
    Ok(0)
}
