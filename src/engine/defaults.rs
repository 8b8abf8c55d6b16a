//! What docker does when nothing is said, so that a program says only what it wants otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

use super::devices::{Devices, LEASE_DIR};
use super::{
    BucketVariables, CgroupWish, Conduct, Engine, EngineError, HealthWishes, HostCheck, ImageRequest, InputsWanted,
    NetworkWishes, Origin, Output, PullPolicy, RunRequest, STATE_DIR, Settings,
};
use crate::container::default_cgroup_mode;
use crate::image::{Platform, Reference};
use crate::network::Places;
use crate::registry;
use crate::rootfs::Choice;
use crate::spec;
use crate::store::{Reservation, RunName};

impl Settings {
    /// A store at `root`, all else where the command line has it.
    ///
    /// No auth file, proxy or bucket is known, and nothing is looked up in an environment: what is needed of that is set in
    /// [`Settings::registry`] and [`Settings::bucket`].
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            state: STATE_DIR.into(),
            registry: registry::Settings::default(),
            bucket: BucketVariables::default(),
            leases: LEASE_DIR.into(),
            clock: Timestamp::now,
            network: Places::default(),
        }
    }
}

impl ImageRequest {
    /// The image of this name for this machine; its registry is asked when it is not in the store.
    #[must_use]
    pub fn new(reference: Reference) -> Self {
        Self { reference, platform: Platform::host(), pull: PullPolicy::Missing, login: None, brought: None }
    }
}

impl RunRequest {
    /// A run of what the image itself runs: attached, without input, with the machine's network, no limits and no devices,
    /// its cgroup at the root.
    ///
    /// `created` is the time now (RFC 3339, UTC), `nonce` any number that tells runs of one name apart.
    #[must_use]
    pub fn new(reservation: Reservation, image: ImageRequest, created: String, nonce: u32) -> Self {
        Self {
            reservation,
            origin: Origin::default(),
            image,
            options: spec::Options::default(),
            rootfs: Choice::default(),
            artifacts: Vec::new(),
            artifact_store: None,
            artifact_owner: None,
            remove: false,
            keep: false,
            stdin: None,
            output: Output::default(),
            interactive: false,
            terminal_size: None,
            init: false,
            detached: false,
            interruptible: false,
            ports: Vec::new(),
            network: NetworkWishes::default(),
            inputs: InputsWanted::default(),
            devices: Devices::default(),
            host_check: HostCheck::None,
            health: HealthWishes::default(),
            labels: BTreeMap::new(),
            tag: None,
            cgroups: CgroupWish::default(),
            conduct: Conduct::default(),
            events: None,
            created,
            nonce,
        }
    }
}

impl Engine {
    /// A run of that name, which is taken for it: docker's defaults, to be changed field by field.
    ///
    /// Its cgroup is where this machine permits one: in a scheduler's job, or where cgroups are mounted read-only, the run
    /// stays in the cgroup of this program. When the request is dropped the name is free again.
    ///
    /// # Errors
    /// The name is taken, or nothing can be written.
    pub fn request(&self, name: &RunName, image: ImageRequest) -> Result<RunRequest, EngineError> {
        let reservation = self.store.create_run(name)?;
        let now = (self.settings.clock)();
        let (mode, _) = default_cgroup_mode(None);
        let request = RunRequest::new(reservation, image, in_words(now), nonce(now));
        Ok(RunRequest { cgroups: CgroupWish { mode, parent: None }, ..request })
    }
}

/// A time as records have it.
fn in_words(time: Timestamp) -> String {
    format!("{time:.9}")
}

/// Runs of one name follow each other, as the name is taken for each: the nanosecond tells them apart.
fn nonce(now: Timestamp) -> u32 {
    let nanoseconds = now.as_nanosecond();
    u32::try_from((nanoseconds ^ (nanoseconds >> 32)) & i128::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn nothing_is_asked_for_that_nobody_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let reservation = store.create_run(&"job".parse().unwrap()).unwrap();
        let image = ImageRequest::new("busybox".parse().unwrap());
        assert_eq!((image.platform.clone(), image.pull), (Platform::host(), PullPolicy::Missing));
        let request = RunRequest::new(reservation, image, "2026-01-02T03:04:05.000000000Z".to_owned(), 7);
        assert_eq!(request.id(), "job-00000007");
        assert!(matches!(request.output, Output::Inherited));
        assert!(!request.remove && !request.detached && request.devices.gpus.is_none());
    }

    #[test]
    fn runs_of_one_name_differ_in_their_nanosecond() {
        let time: Timestamp = "2026-01-02T03:04:05.000000001Z".parse().unwrap();
        assert_eq!(in_words(time), "2026-01-02T03:04:05.000000001Z");
        let later = time.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap();
        assert_ne!(nonce(time), nonce(later));
    }
}
