//! The private network of a run, from its supervisor's side.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::container::StartFailure;
use crate::network::{self, Plan};
use crate::sys::{self, LockMode};
use crate::words::describe;

/// What a supervisor holds of a private network. Nothing of it for a run that has none.
#[derive(Debug, Default)]
pub(super) struct OwnNetwork {
    /// The lock of its address.
    lease: Option<OwnedFd>,
    /// The machine's mount namespace: aardvark-dns outlives this run, and must not keep its mounts.
    machine: Option<File>,
    /// Taken for nobody else to publish on.
    ports: Vec<OwnedFd>,
    /// The container's network namespace.
    namespace: Option<File>,
}

impl OwnNetwork {
    /// Binds the lease to this process.
    pub(super) fn adopt(lease: Option<OwnedFd>) -> std::io::Result<Self> {
        if let Some(lease) = &lease {
            sys::bind_lock_to_process(lease, LockMode::Exclusive)?;
        }
        Ok(Self { lease, ..Self::default() })
    }

    /// Before this process leaves the machine's mount namespace.
    pub(super) fn open(&mut self, plan: Option<&Plan>) -> Result<(), StartFailure> {
        let Some(plan) = plan else { return Ok(()) };
        let machine = File::open("/proc/self/ns/mnt");
        self.machine = Some(machine.map_err(|error| failure("open the mount namespace", &error))?);
        self.ports = network::hold(&plan.ports).map_err(|error| StartFailure::ours(describe(&error)))?;
        Ok(())
    }

    /// Gives the created container its network. That of the container before it goes only now: until then bridge and route say
    /// to everybody on this machine that the addresses are taken.
    pub(super) fn set_up(&mut self, plan: Option<&Plan>, init: Pid) -> Result<(), StartFailure> {
        let (Some(plan), Some(machine)) = (plan, &self.machine) else { return Ok(()) };
        let namespace = File::open(format!("/proc/{init}/ns/net"));
        let namespace = namespace.map_err(|error| failure("open the network namespace", &error))?;
        let last = self.namespace.take();
        let namespace = self.namespace.insert(namespace);
        let set_up = sys::in_mount_namespace(machine, || match &last {
            Some(last) => network::move_over(plan, last, namespace),
            None => network::set_up(plan, namespace),
        });
        set_up
            .map_err(|error| failure("visit the machine's mount namespace", &error))?
            .map_err(|error| StartFailure::ours(describe(&error)))
    }

    /// When nothing of the container is left; what could not be done is returned in words.
    pub(super) fn end(&mut self, plan: Option<&Plan>) -> Option<String> {
        let (Some(plan), Some(_)) = (plan, &self.lease) else { return None };
        let problem = match &self.machine {
            None => plan.end(None).err().map(|error| describe(&error)),
            Some(machine) => match sys::in_mount_namespace(machine, || plan.end(self.namespace.as_ref())) {
                Ok(ended) => ended.err().map(|error| describe(&error)),
                Err(error) => Some(error.to_string()),
            },
        };
        self.namespace = None;
        self.ports.clear();
        problem.map(|problem| format!("the network is not taken down, the next command sees to it: {problem}"))
    }
}

fn failure(what: &str, error: &std::io::Error) -> StartFailure {
    StartFailure::ours(format!("cannot {what}: {error}"))
}
