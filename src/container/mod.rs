//! One container: created, started, waited for, taken apart. Runs only in the single-threaded supervisor.
//!
//! The order of a container's life is in its types: [`Container<Created>`] can be started, [`Container<Running>`] can be
//! waited for. That nobody else reaps our child or kills the cgroup is not in the types; the supervisor sees to it.

mod capacity;
mod cgroup;
mod device_filter;
mod exec;
mod host;
mod init;
mod member;
mod tenant;
mod youki;

pub use capacity::{HostResources, host_resources};
pub use cgroup::{Cgroup, CgroupError, Usage};
pub use device_filter::{DeviceFilterError, restrict_devices};
pub use exec::{Reporter, StartFailure};
pub use host::{HostError, boot_id, bounding_capabilities, cpu_count, host_facts};
pub use member::Member;
pub use tenant::{Started, Tenant, TenantStreams, start_tenant};
pub use youki::{Container, ContainerError, Created, Running, Stdio, remove_state};
