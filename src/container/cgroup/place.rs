//! Where a run's cgroup is to be: what was wished for, what this machine permits, and which limits can be kept there.
//!
//! Version 2 (cgroup-v2.rst, "No Internal Process Constraint"): a cgroup other than the root hands controllers on to its
//! children only while no process is in it. Nobody's processes are moved to make that so.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::hierarchy::{Hierarchy, Version, hierarchies, used, version};
use super::{Cgroup, CgroupError, PARENT, Place, has_processes, is_root, start_time_of};
use crate::store::{CgroupMode, RunCgroup, RunRecord};

/// Longest path that is taken for a parent.
const MAX_PARENT_BYTES: usize = 1024;

/// Where a run's cgroup is wished to be.
#[derive(Debug, Clone, Default)]
pub struct CgroupWish {
    /// How it stands to those that are there.
    pub mode: CgroupMode,
    /// The cgroup above it, with [`CgroupMode::Own`] only.
    pub parent: Option<CgroupParent>,
}

/// `--cgroup-parent`: a cgroup below the root of every hierarchy; made when it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupParent(PathBuf);

impl FromStr for CgroupParent {
    type Err = CgroupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| CgroupError::Parent { path: text.to_owned(), why };
        let path = Path::new(text.trim_start_matches('/'));
        if text.len() > MAX_PARENT_BYTES || text.chars().any(char::is_control) {
            return Err(wrong("is no path of a cgroup"));
        }
        if path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(wrong("has `.` or `..` in it"));
        }
        if path.components().next().is_none() {
            return Err(wrong("names no cgroup"));
        }
        Ok(Self(path.components().collect()))
    }
}

/// Which place is taken when none is asked for, and why; nothing said about the ordinary one.
///
/// `scheduler` is the variable that a batch system has set, if one has.
#[must_use]
pub fn default_cgroup_mode(scheduler: Option<&str>) -> (CgroupMode, Option<String>) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(variable) = scheduler {
        return (CgroupMode::Inherit, Some(format!("`{variable}` is set, so this is a scheduler's job")));
    }
    if let Some(job) = scheduler_in(&own) {
        return (CgroupMode::Inherit, Some(format!("cgroup `{job}` is a scheduler's job")));
    }
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    if hierarchies.is_empty() {
        return (CgroupMode::None, Some("no cgroup hierarchy is mounted".to_owned()));
    }
    match used(&hierarchies).find(|hierarchy| !is_writable(&hierarchy.mount)) {
        Some(hierarchy) => (CgroupMode::Inherit, Some(format!("`{}` is mounted read-only", hierarchy.mount.display()))),
        None => (CgroupMode::Own, None),
    }
}

/// The first path in the text of `/proc/self/cgroup` that a batch system has made: Slurm's `job_7` or `slurmstepd.scope`,
/// PBS's `pbs_jobs.service`, LSF's `lsf`.
fn scheduler_in(proc_cgroup: &str) -> Option<&str> {
    let is_schedulers = |name: &str| {
        let is_job =
            name.strip_prefix("job_").is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
        is_job || name.starts_with("slurm") || name.starts_with("pbs_jobs") || name == "lsf"
    };
    let paths = proc_cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.into_iter().find(|path| path.split('/').any(is_schedulers))
}

fn is_writable(dir: &Path) -> bool {
    accessat(CWD, dir, Access::WRITE_OK, AtFlags::empty()).is_ok()
}

impl Cgroup {
    /// The cgroup that a run with this id is to have. Nothing is made; what this machine cannot give is refused.
    pub fn plan(wish: &CgroupWish, id: &str) -> Result<Self, CgroupError> {
        let hierarchies = mounted()?;
        if wish.parent.is_some() && wish.mode != CgroupMode::Own {
            return Err(CgroupError::ParentWithout(wish.mode));
        }
        if !wish.mode.makes_one() {
            return Ok(Self::without(hierarchies, wish.mode, id));
        }
        if hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        let callers = fs::read_to_string("/proc/self/cgroup").map_err(CgroupError::Callers)?;
        let place = |hierarchy: &Hierarchy| {
            let base =
                if wish.mode == CgroupMode::Nested { hierarchy.dir_of(&callers) } else { hierarchy.mount.clone() };
            let parent = wish.parent.as_ref().map_or(Path::new(PARENT), |parent| &parent.0);
            Place { dir: base.join(parent).join(id), hierarchy: hierarchy.clone() }
        };
        let places: Vec<Place> = used(&hierarchies).map(place).collect();
        for Place { hierarchy, .. } in &places {
            if !is_writable(&hierarchy.mount) {
                return Err(CgroupError::ReadOnly { path: hierarchy.mount.clone(), mode: wish.mode });
            }
        }
        Ok(Self { hierarchies, places, mode: wish.mode, id: id.to_owned(), init: None, kills_before: 0 })
    }

    /// The cgroup that a record names; that of a record which names none is the one of earlier versions.
    ///
    /// A path that is not that of a cgroup named `id` is passed over: nothing else is ever touched.
    pub fn recorded(recorded: Option<&RunCgroup>, id: &str) -> Result<Self, CgroupError> {
        let Some(recorded) = recorded else { return Self::of(id) };
        let hierarchies = mounted()?;
        let place = |path: &String| {
            let dir = PathBuf::from(path);
            let is_plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            let is_its_own = is_plain && !id.is_empty() && dir.file_name().is_some_and(|name| name == id);
            let hierarchy = hierarchies.iter().filter(|hierarchy| dir.starts_with(&hierarchy.mount));
            let hierarchy = hierarchy.max_by_key(|hierarchy| hierarchy.mount.as_os_str().len())?.clone();
            is_its_own.then_some(Place { hierarchy, dir })
        };
        let places = recorded.paths.iter().filter_map(place).collect();
        let mode = recorded.mode;
        Ok(Self { hierarchies, places, mode, id: id.to_owned(), init: None, kills_before: 0 })
    }

    /// That of a run that goes on, as its record has it.
    pub fn of_run(record: &RunRecord) -> Result<Self, CgroupError> {
        let mut cgroup = Self::recorded(record.cgroup.as_ref(), &record.id)?;
        let init = record.pid.map(Pid::from_raw);
        if let Some(init) = init.filter(|init| start_time_of(*init) == record.pid_start) {
            cgroup.has_init(init);
        }
        Ok(cgroup)
    }

    fn without(hierarchies: Vec<Hierarchy>, mode: CgroupMode, id: &str) -> Self {
        Self { hierarchies, places: Vec::new(), mode, id: id.to_owned(), init: None, kills_before: 0 }
    }

    /// What the record says of it.
    #[must_use]
    pub fn record(&self) -> RunCgroup {
        let paths = self.places.iter().map(|place| place.dir.to_string_lossy().into_owned());
        RunCgroup { mode: self.mode, paths: paths.collect() }
    }

    /// The path that the specification names: relative to the root of the first hierarchy.
    #[must_use]
    pub fn path(&self) -> String {
        let place = self.places.first();
        let below = place.and_then(|place| place.dir.strip_prefix(&place.hierarchy.mount).ok());
        below.map_or_else(|| Self::spec_path(&self.id), |below| format!("/{}", below.display()))
    }

    /// Refuses limits that would not be kept here.
    pub fn check_limits(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let asked = controllers(resources);
        if asked.is_empty() {
            return Ok(());
        }
        if !self.mode.makes_one() {
            return Err(CgroupError::LimitsWithout { mode: self.mode, limits: in_words(&asked) });
        }
        match version(&self.hierarchies) {
            Version::V1 => match asked.iter().find(|asked| self.place_of(asked.v1).is_none()) {
                Some(asked) => Err(CgroupError::NoController { limit: asked.limit, controller: asked.v1 }),
                None => Ok(()),
            },
            Version::V2 => {
                let Some(place) = self.places.first() else { return Ok(()) };
                asked.iter().try_for_each(|asked| self.check_v2(place, asked))
            }
        }
    }

    /// Whether a controller reaches the directory: from the first that shows what there is down to its parent.
    fn check_v2(&self, place: &Place, asked: &Asked) -> Result<(), CgroupError> {
        let top = place.top(self.mode);
        let mut chain: Vec<&Path> = place.dir.ancestors().skip(1).take_while(|dir| dir.starts_with(top)).collect();
        chain.reverse();
        let has = |dir: &Path, file: &str| {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            text.split_whitespace().any(|word| word == asked.v2)
        };
        if !has(top, "cgroup.controllers") {
            return Err(CgroupError::NotHandedOn { limit: asked.limit, controller: asked.v2, path: top.to_owned() });
        }
        for dir in chain.into_iter().filter(|dir| dir.is_dir()) {
            if !is_root(dir) && !has(dir, "cgroup.subtree_control") && has_processes(dir) {
                return Err(CgroupError::Occupied { limit: asked.limit, path: dir.to_owned() });
            }
        }
        Ok(())
    }

    /// Its directory in the hierarchy of version 1 with this controller.
    pub(super) fn place_of(&self, controller: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.hierarchy.controls(controller))
    }
}

fn mounted() -> Result<Vec<Hierarchy>, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    Ok(hierarchies(&mounts))
}

/// A limit that was asked for, and the controllers that keep it.
struct Asked {
    limit: &'static str,
    v1: &'static str,
    v2: &'static str,
}

fn controllers(resources: &LinuxResources) -> Vec<Asked> {
    let cpu = resources.cpu().as_ref();
    let time = cpu.is_some_and(|cpu| cpu.quota().is_some() || cpu.shares().is_some() || cpu.period().is_some());
    let sets = cpu.is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some());
    [
        (time, Asked { limit: "processor time", v1: "cpu", v2: "cpu" }),
        (sets, Asked { limit: "processors", v1: "cpuset", v2: "cpuset" }),
        (resources.memory().is_some(), Asked { limit: "memory", v1: "memory", v2: "memory" }),
        (resources.pids().is_some(), Asked { limit: "processes", v1: "pids", v2: "pids" }),
        (resources.block_io().is_some(), Asked { limit: "disk input and output", v1: "blkio", v2: "io" }),
        (
            resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()),
            Asked { limit: "huge pages", v1: "hugetlb", v2: "hugetlb" },
        ),
    ]
    .into_iter()
    .filter_map(|(is_asked, asked)| is_asked.then_some(asked))
    .collect()
}

fn in_words(asked: &[Asked]) -> String {
    asked.iter().map(|asked| asked.limit).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder};

    use super::super::hierarchy::tests::{HYBRID, UNIFIED};
    use super::*;

    #[test]
    fn parents_are_paths_below_the_root() {
        for (text, path) in [("/batch", "batch"), ("batch/x", "batch/x"), ("//a//b/", "a/b"), ("my.slice", "my.slice")]
        {
            assert_eq!(text.parse::<CgroupParent>().unwrap().0, Path::new(path), "{text}");
        }
        for (text, words) in [
            ("", "names no cgroup"),
            ("/", "names no cgroup"),
            ("/a/../b", "`..`"),
            ("./a", "`.`"),
            ("a\nb", "no path"),
        ] {
            let message = text.parse::<CgroupParent>().unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
        assert!("x".repeat(2000).parse::<CgroupParent>().is_err());
    }

    #[test]
    fn schedulers_are_known_by_their_cgroups() {
        for (text, job) in [
            ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", true),
            ("4:memory:/slurm/uid_0/job_12/step_batch\n0::/\n", true),
            ("0::/pbs_jobs.service/jobid/77.host\n", true),
            ("0::/lsf/cluster/job.7.1.2\n", true),
            ("0::/job_\n", false),
            ("0::/user.slice/jobs/job_x\n", false),
            ("9:name=systemd:/\n4:memory:/process/1\n0::/\n", false),
        ] {
            assert_eq!(scheduler_in(text).is_some(), job, "{text}");
        }
        assert_eq!(default_cgroup_mode(Some("SLURM_JOB_ID")).0, CgroupMode::Inherit);
    }

    fn limits() -> LinuxResources {
        let memory = LinuxMemoryBuilder::default().limit(1 << 30).build().unwrap();
        let cpu = LinuxCpuBuilder::default().quota(1).build().unwrap();
        LinuxResourcesBuilder::default().memory(memory).cpu(cpu).build().unwrap()
    }

    #[test]
    fn no_cgroup_no_limits() {
        for mode in [CgroupMode::Inherit, CgroupMode::None] {
            let cgroup = Cgroup::without(hierarchies(HYBRID), mode, "x");
            cgroup.check_limits(&LinuxResources::default()).unwrap();
            let message = cgroup.check_limits(&limits()).unwrap_err().to_string();
            assert!(message.contains("processor time, memory") && message.contains("--cgroups nested"), "{message}");
        }
    }

    #[test]
    fn a_missing_controller_is_named() {
        let mounts: Vec<Hierarchy> = hierarchies(HYBRID).into_iter().filter(|h| !h.controls("cpu")).collect();
        let places = mounts.iter().map(|h| Place { hierarchy: h.clone(), dir: h.mount.join("dockless/x") }).collect();
        let cgroup = Cgroup { places, ..Cgroup::without(mounts, CgroupMode::Own, "x") };
        let message = cgroup.check_limits(&limits()).unwrap_err().to_string();
        assert!(message.contains("processor time") && message.contains("`cpu`"), "{message}");
    }

    /// Directories that look like the kernel's.
    #[test]
    fn controllers_have_to_reach_the_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cgroup.controllers", "cpu memory pids\n");
        write("cgroup.procs", "1\n");
        write("job/cgroup.type", "domain\n");
        write("job/cgroup.controllers", "cpu memory\n");
        write("job/cgroup.procs", "7\n");
        write("job/cgroup.subtree_control", "\n");
        let mut mounts = hierarchies(UNIFIED);
        root.path().clone_into(&mut mounts[0].mount);
        let checked = |mode, dir: &str| {
            let places = vec![Place { hierarchy: mounts[0].clone(), dir: root.path().join(dir) }];
            Cgroup { places, ..Cgroup::without(mounts.clone(), mode, "x") }.check_limits(&limits())
        };
        checked(CgroupMode::Own, "dockless/x").unwrap();
        let message = checked(CgroupMode::Nested, "job/dockless/x").unwrap_err().to_string();
        assert!(message.contains("job") && message.contains("--cgroup-parent"), "{message}");
        assert!(matches!(checked(CgroupMode::Own, "job/x"), Err(CgroupError::Occupied { .. })));
        write("job/cgroup.procs", "");
        checked(CgroupMode::Nested, "job/dockless/x").unwrap();
        write("job/cgroup.procs", "7\n");
        write("job/cgroup.subtree_control", "cpu memory\n");
        checked(CgroupMode::Nested, "job/dockless/x").unwrap();
        write("job/cgroup.controllers", "cpu\n");
        assert!(matches!(checked(CgroupMode::Nested, "job/dockless/x"), Err(CgroupError::NotHandedOn { .. })));
    }

    #[test]
    fn records_lead_nowhere_else() {
        let paths = |paths: &[&str]| RunCgroup {
            mode: CgroupMode::Own,
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        };
        let dirs = |recorded: &RunCgroup| Cgroup::recorded(Some(recorded), "run-1").unwrap().record().paths;
        for bad in ["/etc/run-1", "/sys/fs/cgroup/../run-1", "run-1", "/sys/fs/cgroup/memory/dockless/other"] {
            assert!(dirs(&paths(&[bad])).is_empty(), "{bad}");
        }
        let hierarchies = mounted().unwrap();
        if let Some(hierarchy) = used(&hierarchies).next() {
            let good = hierarchy.mount.join("dockless/run-1").to_string_lossy().into_owned();
            assert_eq!(dirs(&paths(&[good.as_str()])), [good]);
        }
        assert_eq!(Cgroup::recorded(None, "run-1").unwrap().mode, CgroupMode::Own);
    }
}
