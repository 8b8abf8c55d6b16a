//! `gpu list`, `explain` and `cdi`.

pub(super) mod cdi;
pub(super) mod explain;
pub(super) mod list;

use super::args::DriverArgs;
use crate::gpu::Roots;

/// Where the driver is to be looked for.
fn roots(args: &DriverArgs) -> Roots {
    args.driver_root.as_deref().map_or_else(Roots::host, Roots::below)
}
