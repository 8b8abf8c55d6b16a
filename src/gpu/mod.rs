//! NVIDIA's GPUs, and devices of any vendor that a CDI specification describes, for containers on a machine that has the
//! bare driver and nothing of NVIDIA's container stack.
//!
//! ```text
//! Roots ─discover→ Inventory ─select(request, grant, holders)→ Chosen ─lease→ Leases      before the image is fetched
//! Roots ─files→ DriverFiles ┐
//! Chosen, image's facts     ┴─edits→ Injection{spec edits, root file system edits}        when the image is there
//! ```
//!
//! What the driver's directories, `/dev`, `/proc` and `/sys` say comes in through [`Roots`]; `select` and `edits` look at
//! nothing. No program of the image is run, no hook of ours, no ldconfig.

mod capability;
pub mod cdi;
mod device_flag;
mod inventory;
mod node;
mod roots;

pub use capability::{Capabilities, Capability, CapabilityError};
pub use device_flag::{DeviceFlag, DeviceFlagError, HostDevice, parse_device};
pub use inventory::{
    Driver, Gpu, GpuUuid, GpuUuidError, Inventory, MigDevice, MigMinors, PciAddress, Platform, Source, Utilisation,
    Version,
};
pub use node::NodeProblem;
pub use roots::Roots;
