//! From flags and environment to the devices of a container.

use super::args::{DeviceArgs, DriverArgs, LeaseArgs};
use super::context::variable;
use super::exit::CliError;
use crate::engine::devices::Devices;
use crate::gpu::lease::Wait;
use crate::gpu::{GpuRequest, Grant, Roots, parse_device};

/// Where the driver is to be looked for.
pub(super) fn roots(args: &DriverArgs) -> Result<Roots, CliError> {
    let Some(root) = &args.driver_root else { return Ok(Roots::host()) };
    // Whatever lies below is looked at by its path later, from other directories too.
    let root = root
        .canonicalize()
        .ok()
        .filter(|root| root.is_dir())
        .ok_or_else(|| CliError::Usage(format!("`--driver-root`: `{}` is not a directory", root.display())))?;
    Ok(Roots::below(&root))
}

/// What a scheduler or a container around us grants.
pub(super) fn grant() -> Grant {
    let set: Vec<(&str, String)> =
        Grant::VARIABLES.into_iter().filter_map(|name| Some((name, variable(name)?))).collect();
    Grant::from_variables(set.iter().map(|(name, value)| (*name, value.as_str())))
}

/// For containers without GPUs of their own yet.
pub(super) fn sharing(driver: &DriverArgs, lease: Option<&LeaseArgs>) -> Result<Devices, CliError> {
    Ok(Devices {
        roots: roots(driver)?,
        grant: grant(),
        shared: lease.is_some_and(|lease| lease.gpus_shared),
        wait: lease
            .and_then(|lease| lease.gpu_wait)
            .map_or(Wait::No, |wait| wait.map_or(Wait::Forever, |span| Wait::Until(span.duration()))),
        ..Devices::default()
    })
}

/// Reads every flag before anything is fetched.
pub(super) fn devices(args: &DeviceArgs, lease: Option<&LeaseArgs>) -> Result<Devices, CliError> {
    let mut devices = sharing(&args.driver, lease)?;
    if let Some(request) = &args.gpus {
        devices.gpus = request.parse::<GpuRequest>()?;
    }
    let shares = lease.is_some_and(|lease| lease.gpus_shared || lease.gpu_wait.is_some());
    if args.gpus.is_none() && shares {
        let hint = "hint: `--gpus all`, or without these flags";
        return Err(CliError::Usage(format!(
            "`--gpu-wait` and `--gpus-shared` say how `--gpus` is meant, which is missing\n{hint}"
        )));
    }
    let of_request = devices.gpus.capabilities.as_ref().map(ToString::to_string);
    devices.capabilities = args.gpu_capabilities.clone().or(of_request);
    for flag in &args.device {
        devices.add(parse_device(flag)?);
    }
    Ok(devices)
}
