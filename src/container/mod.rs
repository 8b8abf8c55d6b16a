//! One container: created, started, waited for, taken apart. Runs only in the single-threaded supervisor.
//!
//! The order of a container's life is in its types: [`Container<Created>`] can be started, [`Container<Running>`] can be
//! waited for. That nobody else reaps our child or kills the cgroup is not in the types; the supervisor sees to it.

mod capacity;
mod cgroup;
mod device_filter;
mod exec;
mod freezer;
mod host;
mod init;
mod limits;
mod live_root;
mod member;
mod process;
mod session;
mod stats;
mod tenant;
mod update;
mod youki;

pub use capacity::{HostResources, host_resources};
pub use cgroup::{
    Cgroup, CgroupError, CgroupParent, CgroupWish, Usage, default_cgroup_mode, kill_container, kill_init, start_time_of,
};
pub use device_filter::{DeviceFilterError, attach_rules, restrict_devices};
pub use exec::{Reporter, StartFailure};
pub use freezer::FreezeError;
pub use host::{HostError, boot_id, bounding_capabilities, cpu_count, host_devices, host_facts};
pub use live_root::{LiveRootError, live_init, live_root};
pub use member::Member;
pub use process::{Ids, Process};
pub use session::kill_session;
pub use stats::Sample;
pub use tenant::{Started, Tenant, TenantStreams, start_tenant};
pub use update::{LimitChange, UpdateError};
pub use youki::{Container, ContainerError, Created, Running, Stdio, remove_state};
