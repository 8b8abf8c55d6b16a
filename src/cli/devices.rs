//! From flags and environment to the devices of a container.

use std::path::PathBuf;

use super::args::{DeviceArgs, DriverArgs, LeaseArgs};
use super::context::{setting, variable};
use super::exit::CliError;
use crate::engine::devices::{Devices, LEASE_DIR};
use crate::gpu::lease::Wait;
use crate::gpu::{GpuRequest, Grant, Roots, parse_device};

/// Where the driver is to be looked for.
pub(super) fn roots(args: &DriverArgs) -> Roots {
    args.driver_root.as_deref().map_or_else(Roots::host, Roots::below)
}

/// Where this machine leases its GPUs.
pub(super) fn lease_dir() -> PathBuf {
    let set = setting("DOCKLESS_GPU_LEASES").map(PathBuf::from);
    // The supervisor works in another directory.
    set.map_or_else(|| LEASE_DIR.into(), |dir| std::path::absolute(&dir).unwrap_or(dir))
}

/// What a scheduler or a container around us grants.
pub(super) fn grant() -> Grant {
    let set: Vec<(&str, String)> =
        Grant::VARIABLES.into_iter().filter_map(|name| Some((name, variable(name)?))).collect();
    Grant::from_variables(set.iter().map(|(name, value)| (*name, value.as_str())))
}

/// For containers without GPUs of their own yet.
pub(super) fn sharing(driver: &DriverArgs, lease: Option<&LeaseArgs>) -> Devices {
    Devices {
        roots: roots(driver),
        grant: grant(),
        shared: lease.is_some_and(|lease| lease.gpus_shared),
        wait: lease
            .and_then(|lease| lease.gpu_wait)
            .map_or(Wait::No, |wait| wait.map_or(Wait::Forever, |span| Wait::Until(span.duration()))),
        ..Devices::default()
    }
}

/// Reads every flag before anything is fetched.
pub(super) fn devices(args: &DeviceArgs, lease: Option<&LeaseArgs>) -> Result<Devices, CliError> {
    let mut devices = sharing(&args.driver, lease);
    if let Some(request) = &args.gpus {
        devices.gpus = request.parse::<GpuRequest>()?;
    }
    let of_request = devices.gpus.capabilities.as_ref().map(ToString::to_string);
    devices.capabilities = args.gpu_capabilities.clone().or(of_request);
    for flag in &args.device {
        devices.add(parse_device(flag)?);
    }
    Ok(devices)
}
