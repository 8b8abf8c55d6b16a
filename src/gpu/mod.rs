//! NVIDIA's GPUs, and devices of any vendor that a CDI specification describes, for containers on a machine that has the
//! bare driver and nothing of NVIDIA's container stack.
//!
//! ```text
//! before the image is fetched:
//!   Roots ─Machine::look→ Inventory ─lease::acquire(GpuRequest, Grant)→ Leased{Chosen…, Leases}
//! when it is there:
//!   Roots, Capabilities ─files→ DriverFiles ┐
//!   Chosen ─nodes, proc_view→               ├─edits→ Injection ─loader(View)→ spec::Edits, rootfs::RootEdits
//!   QualifiedName ─cdi→ Injected            ┘
//! ```
//!
//! | | |
//! |---|---|
//! | what there is | `roots`, `machine`, `discover`, `nvml` and `smi` (asked for `facts`), `mig_minors`, `inventory` |
//! | who gets what | `request`, `model`, `grant`, `select`, `chosen`, `lease`, `holder` |
//! | what a container is given | `capability`, `wishes`, `require`, `files`, `devices`, `proc_view`, `edits`, `explain` |
//! | how its loaders find it | `elf`, `ldcache`, `loader`, `compat`, `can_load` |
//! | other devices | `cdi`, `device_flag`, `node` |
//! | while it runs | `watch`, `usage`, `kernel_log`, `xid` |
//!
//! What the driver's directories, `/dev`, `/proc` and `/sys` say comes in through [`Roots`]; `select` and `edits` look at
//! nothing. No program of the image is run, no hook of ours, no ldconfig.

mod can_load;
mod capability;
mod chosen;
mod device_flag;
mod devices;
mod discover;
mod elf;
mod facts;
mod grant;
mod holder;
mod inventory;
mod kernel_log;
mod machine;
mod mig_minors;
mod model;
mod node;
mod nvml;
mod process;
mod request;
mod roots;
mod select;
mod small_file;
mod smi;
mod usage;
mod watch;
mod xid;

pub mod cdi;
pub mod compat;
pub mod edits;
pub mod explain;
pub mod files;
pub mod ldcache;
pub mod lease;
pub mod loader;
pub mod proc_view;
pub mod require;
pub mod wishes;

pub use can_load::{CanLoadError, can_load};
pub use capability::{Capabilities, Capability, CapabilityError};
pub use chosen::{Chosen, ChosenGpu};
pub use device_flag::{DeviceFlag, DeviceFlagError, HostDevice, parse_device};
pub use devices::{DevicesError, Nodes, load_modules, nodes};
pub use discover::{DiscoverError, discover, pci_gpus};
pub use facts::{Facts, GpuFacts};
pub use grant::{Grant, Granted};
pub use holder::{Holder, Taken};
pub use inventory::{
    Driver, Gpu, GpuUuid, GpuUuidError, Inventory, MigDevice, MigMinors, PciAddress, Platform, Source, Utilisation,
    Version,
};
pub use kernel_log::{KernelLog, KernelXid};
pub use machine::{Machine, ask, ask_from, driver_files};
pub use model::{ModelName, has_memory, nominal_gigabytes, sold_gigabytes};
pub use node::NodeProblem;
pub use nvml::{NVML_ARGV0, ProbeError, nvml_entry};
pub use request::{DeviceName, GpuRequest, MigProfile, RequestError, Which};
pub use roots::Roots;
pub use select::{SelectError, select};
pub use usage::UsagePeaks;
pub use watch::{WatchEvent, Watcher};
pub use xid::{is_lost, xid_words};
