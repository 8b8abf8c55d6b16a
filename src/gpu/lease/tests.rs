//! Leases of one process: each [`Leases`] has open files of its own, which is what the kernel's locks go by.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;
use crate::gpu::chosen::testing::{equal, uuid};

/// A machine of equal GPUs and its directory.
struct Machine {
    dir: tempfile::TempDir,
    inventory: Inventory,
}

impl Machine {
    fn new(gpus: u32) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), inventory: equal(gpus) }
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("gpus")
    }

    fn acquire(&self, id: &str, request: &str, shared: bool, wait: Wait) -> Result<Leased, LeaseError> {
        self.acquire_telling(id, request, shared, wait, |_| ControlFlow::Continue(()))
    }

    fn acquire_telling(
        &self,
        id: &str,
        request: &str,
        shared: bool,
        wait: Wait,
        on_wait: impl FnMut(&Waiting) -> ControlFlow<()>,
    ) -> Result<Leased, LeaseError> {
        let asking = Asking {
            request: &request.parse().unwrap(),
            inventory: &self.inventory,
            grant: &Grant::everything(),
            dir: &self.dir(),
            run: &"run".parse().unwrap(),
            store: Path::new("/var/lib/dockless"),
            id,
            since: "2024-05-01T12:00:00Z",
            shared,
        };
        acquire(&asking, wait, on_wait)
    }

    fn held(&self) -> Vec<(String, Vec<u32>)> {
        let held = |holder: Holder| (holder.id, holder.uuids.iter().map(index).collect());
        holders(&self.dir()).unwrap().into_iter().map(held).collect()
    }

    /// Waits until exactly so many locks of GPUs are held: another test of this process that is between fork and exec still has
    /// the files that are open here.
    fn settle(&self, expected: usize, holders: usize) {
        let is_held = |entry: &fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            name.starts_with("gpu.") && Lock::holder(&entry.path()).unwrap().is_some()
        };
        let held = || fs::read_dir(self.dir()).map_or(0, |entries| entries.flatten().filter(is_held).count());
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while held() != expected || self.held().len() != holders {
            assert!(std::time::Instant::now() < until, "{} locks, expected {expected}", held());
            sleep(Duration::from_millis(2));
        }
    }

    fn is_empty(&self) -> bool {
        let left = |entry: &fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            name.starts_with("holder.") || name.starts_with("ticket.") || name == "new"
        };
        !fs::read_dir(self.dir()).unwrap().any(|entry| left(&entry.unwrap()))
    }
}

fn index(uuid_asked: &GpuUuid) -> u32 {
    (0..99).find(|index| uuid(*index) == *uuid_asked).unwrap()
}

fn indices(leased: &Leased) -> Vec<u32> {
    leased.chosen.iter().map(|chosen| chosen.gpu().index).collect()
}

/// What a kill leaves: notes without locks.
fn kill(leased: Leased) {
    leased.leases.unwrap().hand_over();
}

#[test]
fn a_gpu_belongs_to_one_run() {
    let machine = Machine::new(3);
    let one = machine.acquire("one", "2", false, Wait::No).unwrap();
    let two = machine.acquire("two", "1", false, Wait::No).unwrap();
    assert_eq!((indices(&one), indices(&two)), (vec![0, 1], vec![2]));
    assert_eq!(machine.held(), [("one".to_owned(), vec![0, 1]), ("two".to_owned(), vec![2])]);
    let error = machine.acquire("three", "2", false, Wait::No).unwrap_err().to_string();
    let line = "GPU 0 `NVIDIA A100-SXM4-40GB` (40 GB): held by run `run` of store `/var/lib/dockless` since 2024-05-01T12:00:00Z\n";
    assert!(error.starts_with("asked for 2 GPUs, and none can be had\n  ") && error.contains(line), "{error}");
    drop(one);
    assert_eq!(indices(&machine.acquire("three", "2", false, Wait::No).unwrap()), [0, 1]);
    drop(two);
    assert!(machine.is_empty());
}

#[test]
fn nothing_is_leased_for_no_gpus() {
    let machine = Machine::new(1);
    let leased = machine.acquire("one", "none", false, Wait::Forever).unwrap();
    assert!(leased.chosen.is_empty() && leased.leases.is_none() && !machine.dir().exists());
    assert_eq!((machine.held(), orphans(&machine.dir()).unwrap()), (Vec::new(), Vec::new()));
    forget(&machine.dir(), "one").unwrap();
    assert!(!machine.dir().exists());
}

#[test]
fn sharing_runs_share_with_each_other_only() {
    let machine = Machine::new(2);
    let one = machine.acquire("one", "2", true, Wait::No).unwrap();
    let two = machine.acquire("two", "device=1", true, Wait::No).unwrap();
    let three = machine.acquire("three", "1", true, Wait::No).unwrap();
    assert_eq!(indices(&three), [0], "which fewer have");
    assert!(machine.acquire("four", "1", false, Wait::No).is_err());
    drop((one, three));
    assert_eq!(indices(&machine.acquire("four", "1", false, Wait::No).unwrap()), [0]);
    let held = machine.acquire("five", "device=0", false, Wait::No).unwrap();
    assert!(machine.acquire("six", "device=0", true, Wait::No).is_err());
    drop((two, held));
    assert!(machine.is_empty());
}

#[test]
fn who_was_killed_is_told_to_the_next() {
    let machine = Machine::new(3);
    kill(machine.acquire("dead", "device=0,1", false, Wait::No).unwrap());
    assert_eq!(machine.held(), []);
    let other = machine.acquire("other", "device=2", false, Wait::No).unwrap();
    assert!(other.leases.as_ref().unwrap().orphans().is_empty(), "it had nothing of that");
    let mut next = machine.acquire("next", "device=1", false, Wait::No).unwrap().leases.unwrap();
    let dead = |holders: &[Holder]| holders.iter().map(|holder| holder.id.clone()).collect::<Vec<_>>();
    assert_eq!(dead(next.orphans()), ["dead"]);
    // Nobody knows yet whether its container is gone.
    let third = machine.acquire("third", "device=0", false, Wait::No).unwrap();
    assert_eq!(dead(third.leases.as_ref().unwrap().orphans()), ["dead"]);
    assert_eq!(dead(&orphans(&machine.dir()).unwrap()), ["dead"]);
    next.forget_orphans().unwrap();
    assert_eq!((dead(&orphans(&machine.dir()).unwrap()), next.orphans().len()), (Vec::new(), 0));
    forget(&machine.dir(), "next").unwrap();
    assert_eq!(machine.held().len(), 3, "one that lives keeps its note");
}

#[test]
fn locks_and_notes_are_handed_over() {
    let machine = Machine::new(2);
    let leases = machine.acquire("one", "2", false, Wait::No).unwrap().leases.unwrap();
    let files: Vec<OwnedFd> = leases.descriptors().into_iter().map(|file| file.try_clone_to_owned().unwrap()).collect();
    assert_eq!((files.len(), leases.holder().uuids.len()), (3, 2));
    leases.hand_over();
    assert_eq!(machine.held(), [("one".to_owned(), vec![0, 1])], "the copies hold on");
    assert!(machine.acquire("two", "1", false, Wait::No).is_err());
    drop(files);
    assert_eq!(machine.held(), []);
    assert_eq!(indices(&machine.acquire("two", "1", false, Wait::No).unwrap()), [0]);
}

#[test]
fn a_lock_without_a_note_counts() {
    let machine = Machine::new(2);
    drop(machine.acquire("one", "2", false, Wait::No).unwrap());
    machine.settle(0, 0);
    let path = machine.dir().join(format!("gpu.{}", uuid(0)));
    let lock = Lock::try_acquire(&path, LockMode::Exclusive).unwrap().unwrap();
    assert_eq!(indices(&machine.acquire("two", "1", false, Wait::No).unwrap()), [1]);
    let error = machine.acquire("three", "2", false, Wait::No).unwrap_err().to_string();
    assert!(error.contains("held by a process that left no note"), "{error}");
    machine.settle(1, 0);
    assert_eq!(taken(&machine.dir(), &machine.inventory).unwrap().len(), 1);
    drop(lock);
}

#[test]
fn damaged_notes_tell_nothing() {
    let machine = Machine::new(1);
    drop(machine.acquire("one", "1", false, Wait::No).unwrap());
    fs::write(machine.dir().join("holder.x"), "{").unwrap();
    fs::write(machine.dir().join("holder.y"), vec![b'['; 1 << 20]).unwrap();
    fs::write(machine.dir().join("ticket.x"), "").unwrap();
    fs::create_dir(machine.dir().join("holder.dir")).unwrap();
    assert_eq!((machine.held(), orphans(&machine.dir()).unwrap()), (Vec::new(), Vec::new()));
    assert_eq!(indices(&machine.acquire("one", "1", false, Wait::Forever).unwrap()), [0]);
}

#[test]
fn the_directory_is_ours_alone() {
    let machine = Machine::new(1);
    drop(machine.acquire("one", "1", false, Wait::No).unwrap());
    assert_eq!(fs::metadata(machine.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(machine.dir(), fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(machine.acquire("one", "1", false, Wait::No), Err(LeaseError::Unsafe { .. })));
    fs::remove_dir_all(machine.dir()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), machine.dir()).unwrap();
    assert!(matches!(machine.acquire("one", "1", false, Wait::No), Err(LeaseError::Unsafe { .. })));
    for id in ["", "../x", "a/b", ".x", &"x".repeat(129)] {
        assert!(matches!(machine.acquire(id, "1", false, Wait::No), Err(LeaseError::Id(_))), "{id}");
    }
}

#[test]
fn what_can_never_be_had_is_not_waited_for() {
    let machine = Machine::new(2);
    let _one = machine.acquire("one", "2", false, Wait::No).unwrap();
    for request in ["3", "name=H100", "device=7", "memory=80GB"] {
        assert!(
            matches!(machine.acquire("two", request, false, Wait::Forever), Err(LeaseError::Select(_))),
            "{request}"
        );
    }
}

#[test]
fn waiting_ends_with_its_time_or_will() {
    let machine = Machine::new(1);
    let one = machine.acquire("one", "1", false, Wait::No).unwrap();
    let began = Instant::now();
    let error = machine.acquire("two", "1", false, Wait::Until(Duration::from_millis(250))).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(250));
    let told = crate::words::describe(&error);
    assert!(
        told.starts_with("waited 0s for GPUs: asked for 1 GPU, and none can be had\n  GPU 0 ")
            && told.contains("\nhint: "),
        "{told}"
    );
    let mut heard = Vec::new();
    let error = machine.acquire_telling("three", "1", false, Wait::Forever, |waiting| {
        heard.push(waiting.clone());
        if heard.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(error, Err(LeaseError::GivenUp)) && heard.len() == 3);
    assert!(heard[0].ahead == 0 && heard[0].missing.as_ref().unwrap().to_string().contains("held by run `run`"));
    drop(one);
    assert!(machine.is_empty(), "whoever waited in vain leaves nothing");
}

#[test]
fn spans_are_told_in_words() {
    for (seconds, told) in [(0, "0s"), (59, "59s"), (300, "5m"), (3661, "1h1m1s"), (7200, "2h")] {
        assert_eq!(span(Duration::from_secs(seconds)), told);
    }
}

/// Waits in a thread; tells when it stands in line, then what it got.
fn waiter(
    machine: &std::sync::Arc<Machine>,
    id: &'static str,
    request: &'static str,
) -> (JoinHandle<Leased>, Receiver<usize>) {
    let (tell, heard) = channel();
    let machine = std::sync::Arc::clone(machine);
    let waits = move || {
        let on_wait = |waiting: &Waiting| {
            let _ = tell.send(waiting.ahead);
            ControlFlow::Continue(())
        };
        machine.acquire_telling(id, request, false, Wait::Forever, on_wait).unwrap()
    };
    (std::thread::spawn(waits), heard)
}

#[test]
fn who_came_first_is_served_first_and_small_runs_do_not_starve_a_large_one() {
    let machine = std::sync::Arc::new(Machine::new(3));
    let first = machine.acquire("first", "1", false, Wait::No).unwrap();
    let second = machine.acquire("second", "1", false, Wait::No).unwrap();
    let third = machine.acquire("third", "1", false, Wait::No).unwrap();
    let (large, heard) = waiter(&machine, "large", "3");
    assert_eq!(heard.recv().unwrap(), 0);
    let (small, heard_small) = waiter(&machine, "small", "1");
    assert_eq!(heard_small.recv().unwrap(), 1);
    let (last, heard_last) = waiter(&machine, "last", "1");
    assert_eq!(heard_last.recv().unwrap(), 2);
    drop(second);
    while machine.held().iter().all(|(id, _)| id != "large") {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(machine.held()[1], ("large".to_owned(), vec![1]), "it keeps what comes free");
    let error = machine.acquire("hasty", "1", false, Wait::No).unwrap_err().to_string();
    assert!(error.contains("since 2024-05-01T12:00:00Z, which waits for more\n"), "{error}");
    let error = machine.acquire("patient", "1", false, Wait::Until(Duration::from_millis(1))).unwrap_err();
    assert!(matches!(error, LeaseError::InLine { ahead: 3, .. }), "{error}");
    drop(first);
    assert!(!large.is_finished());
    drop(third);
    let large = large.join().unwrap();
    assert_eq!((indices(&large), small.is_finished(), last.is_finished()), (vec![0, 1, 2], false, false));
    drop(large);
    let (small, last) = (small.join().unwrap(), last.join().unwrap());
    assert_eq!((indices(&small), indices(&last)), (vec![0], vec![1]));
    drop((small, last));
    assert!(machine.is_empty());
}

#[test]
fn who_was_killed_in_line_is_passed_over() {
    let machine = Machine::new(1);
    drop(machine.acquire("one", "1", false, Wait::No).unwrap());
    fs::write(machine.dir().join("ticket.00000000000000000007"), "4711").unwrap();
    let collected = Holder {
        waiting: true,
        ..machine.acquire("dead", "1", false, Wait::No).unwrap().leases.unwrap().holder.clone()
    };
    drop(Place::at(&machine.dir()).publish(&collected).unwrap());
    let leased = machine.acquire("two", "1", false, Wait::Forever).unwrap();
    assert!(leased.leases.as_ref().unwrap().orphans().is_empty(), "who waited had no container");
    drop(leased);
    assert!(machine.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Take { count: u32, shared: bool },
    Release(usize),
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u32..4, any::<bool>()).prop_map(|(count, shared)| Step::Take { count, shared }),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Release(index.index(8))),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Kill(index.index(8))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A GPU has one holder, or holders that all share; a request is met when there are enough; who was killed is told.
    #[test]
    fn never_two_holders(steps in prop::collection::vec(step(), 1..24)) {
        const GPUS: u32 = 4;
        let machine = Machine::new(GPUS);
        let mut live: Vec<(Leased, bool)> = Vec::new();
        let mut dead: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Take { count, shared } => {
                    let blocks = |index: u32| live.iter().any(|(it, is_shared)| indices(it).contains(&index) && !(shared && *is_shared));
                    let free = (0..GPUS).filter(|index| !blocks(*index)).count();
                    let found = machine.acquire(&format!("r{number}"), &count.to_string(), shared, Wait::No);
                    prop_assert_eq!(found.is_ok(), free >= count as usize);
                    let Ok(found) = found else { continue };
                    let had = indices(&found);
                    prop_assert!(had.len() == count as usize && !had.iter().any(|index| blocks(*index)));
                    let told: Vec<&String> = found.leases.as_ref().unwrap().orphans().iter().map(|it| &it.id).collect();
                    let mut expected: Vec<&String> = dead.iter().filter(|(_, had_it)| had_it.iter().any(|it| had.contains(it))).map(|(id, _)| id).collect();
                    expected.sort();
                    prop_assert_eq!(told, expected);
                    live.push((found, shared));
                }
                Step::Release(which) if which < live.len() => drop(live.remove(which)),
                Step::Kill(which) if which < live.len() => {
                    let (killed, _) = live.remove(which);
                    dead.insert(killed.leases.as_ref().unwrap().holder().id.clone(), indices(&killed));
                    kill(killed);
                }
                Step::Release(_) | Step::Kill(_) => {}
            }
            let held: std::collections::BTreeSet<u32> = live.iter().flat_map(|(it, _)| indices(it)).collect();
            machine.settle(held.len(), live.len());
        }
    }
}
