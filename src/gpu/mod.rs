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
mod chosen;
mod grant;
mod holder;
mod inventory;
pub mod lease;
mod model;
mod request;
mod roots;
mod select;

pub use capability::{Capabilities, Capability, CapabilityError};
pub use chosen::Chosen;
pub use grant::{Grant, Granted};
pub use holder::{Holder, Taken};
pub use inventory::{
    Driver, Gpu, GpuUuid, GpuUuidError, Inventory, MigDevice, MigMinors, PciAddress, Platform, Source, Utilisation,
    Version,
};
pub use model::{ModelName, has_memory, nominal_gigabytes, sold_gigabytes};
pub use request::{DeviceName, GpuRequest, MigProfile, RequestError, Which};
pub use roots::Roots;
pub use select::{SelectError, select};
