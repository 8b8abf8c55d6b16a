//! GPUs are leased by many processes that are killed at any moment. The GPUs are made up; the locks are the kernel's.
//!
//! The processes are this binary again: a child runs one of the ignored tests below, told by its environment what to do.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dockless::gpu::lease::{Asking, Handed, LeaseError, Leased, Wait, Waiting, acquire, forget, holders, orphans};
use dockless::gpu::{Driver, Gpu, Grant, Inventory, Platform, Version};
use rustix::fs::{FlockOperation, flock};

const TASK: &str = "DOCKLESS_TEST_GPU_TASK";
const GPUS: u32 = 8;
const PROCESSES: u32 = 50;
const KILLS: u32 = 120;
/// How long one process goes on taking and giving back.
const ROUNDS: u32 = 6;

fn inventory() -> Inventory {
    let gpu = |index: u32| {
        let uuid = format!("GPU-{index:08}-0000-4000-8000-000000000000").parse().unwrap();
        let pci = format!("0000:{:02x}:00.0", 16 + index).parse().unwrap();
        Gpu { index, minor: Some(index), ..Gpu::new(uuid, "NVIDIA H200", pci) }
    };
    let driver = Driver { version: Version::new("570.86.10"), platform: Platform::Linux, cuda: None };
    Inventory { driver: Some(driver), gpus: (0..GPUS).map(gpu).collect(), ..Inventory::default() }
}

fn take(
    dir: &Path,
    id: &str,
    request: &str,
    shared: bool,
    wait: Wait,
    on_wait: impl FnMut(&Waiting) -> ControlFlow<()>,
) -> Result<Leased, LeaseError> {
    let asking = Asking {
        request: &request.parse().unwrap(),
        inventory: &inventory(),
        grant: &Grant::everything(),
        dir: &dir.join("gpus"),
        run: &"run".parse().unwrap(),
        store: Path::new("/var/lib/dockless"),
        id,
        since: "2024-05-01T12:00:00Z",
        shared,
    };
    acquire(&asking, wait, on_wait)
}

/// Takes without being told of the wait.
fn take_quietly(dir: &Path, id: &str, request: &str, wait: Wait) -> Result<Leased, LeaseError> {
    take(dir, id, request, false, wait, |_| ControlFlow::Continue(()))
}

/// A process that was started; killed when the test ends before it.
struct Process(Child);

impl Process {
    #[expect(clippy::disallowed_methods, reason = "a process that can be killed takes a process")]
    fn start(test: &str, task: &str) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("gpu_lease::{test}"), "--ignored", "--nocapture"]);
        Self(command.env(TASK, task).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn lines(&mut self) -> std::io::Lines<BufReader<ChildStdout>> {
        BufReader::new(self.0.stdout.take().unwrap()).lines()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[expect(clippy::disallowed_methods, reason = "a test in its own process is told what to do by its environment")]
fn task() -> (PathBuf, String) {
    let task = std::env::var(TASK).unwrap();
    let (dir, rest) = task.split_once(' ').unwrap();
    (dir.into(), rest.to_owned())
}

/// Small, even and the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Each holder proves with locks of another kind that it is alone. Their files are opened before those of the leases, so the
/// kernel closes them first when the process is killed.
#[test]
#[ignore = "run by gpu_leases_outlive_any_kill"]
fn in_own_process_hold() {
    let (dir, number) = task();
    let mut dice = Dice(number.parse::<u64>().unwrap() * 0x9e37_79b9 + 1);
    let proof = |index: u32| OpenOptions::new().write(true).open(dir.join(format!("proof.{index}"))).unwrap();
    let proofs: Vec<File> = (0..GPUS).map(proof).collect();
    let mut log = OpenOptions::new().append(true).open(dir.join("log")).unwrap();
    for round in 0..ROUNDS {
        let count = dice.below(3) + 1;
        let shared = dice.below(3) == 0;
        let wait = match dice.below(3) {
            0 => Wait::No,
            1 => Wait::Until(milliseconds(dice.below(200))),
            _ => Wait::Forever,
        };
        let id = format!("{number}-{round}");
        let go_on = |_: &Waiting| ControlFlow::Continue(());
        let taken = match take(&dir, &id, &count.to_string(), shared, wait, go_on) {
            Ok(taken) => taken,
            Err(LeaseError::Select(_) | LeaseError::Waited { .. } | LeaseError::InLine { .. }) => continue,
            Err(error) => panic!("{error}: {error:?}"),
        };
        assert_eq!(taken.chosen.len() as u64, count);
        let mode =
            if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        for chosen in &taken.chosen {
            let index = chosen.gpu().index;
            if flock(&proofs[index as usize], mode).is_err() {
                fs::write(dir.join(format!("twice.{id}")), format!("GPU {index}")).unwrap();
            }
        }
        sleep(milliseconds(dice.below(30)));
        for proof in &proofs {
            flock(proof, FlockOperation::Unlock).unwrap();
        }
        let mut leases = taken.leases.unwrap();
        log.write_all(if leases.orphans().is_empty() { b"." } else { b"!" }).unwrap();
        leases.forget_orphans().unwrap();
    }
}

/// Which process holds GPUs at the moment, or waits with some.
fn one_that_holds(gpus: &Path, running: &[(u32, Process)], dice: &mut Dice) -> Option<usize> {
    let holders = holders(gpus).unwrap();
    let which = usize::try_from(dice.below(holders.len().max(1) as u64)).unwrap();
    let number: u32 = holders.get(which)?.id.split_once('-')?.0.parse().ok()?;
    running.iter().position(|(running, _)| *running == number)
}

#[test]
fn gpu_leases_outlive_any_kill() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..GPUS {
        File::create(dir.path().join(format!("proof.{index}"))).unwrap();
    }
    File::create(dir.path().join("log")).unwrap();
    let start = |number: u32| Process::start("in_own_process_hold", &format!("{} {number}", dir.path().display()));
    let gpus = dir.path().join("gpus");
    let mut dice = Dice(0x2545_f491);
    let mut running: Vec<(u32, Process)> = (1..=PROCESSES).map(|number| (number, start(number))).collect();
    for number in PROCESSES + 1..=PROCESSES + KILLS {
        sleep(milliseconds(dice.below(25)));
        let any = usize::try_from(dice.below(u64::from(PROCESSES))).unwrap();
        let which = if dice.below(3) == 0 { any } else { one_that_holds(&gpus, &running, &mut dice).unwrap_or(any) };
        // One that has ended by itself has done so well.
        if running[which].1.0.try_wait().unwrap().is_some_and(|status| !status.success()) {
            break;
        }
        running[which].1.kill();
        running[which] = (number, start(number));
    }
    for (_, process) in &mut running {
        let status = process.0.wait().unwrap();
        assert!(status.success(), "{}", std::io::read_to_string(process.0.stderr.take().unwrap()).unwrap());
    }
    let names = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names().find(|name| name.starts_with("twice")), None, "two had the same GPU");
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let after_a_kill = log.matches('!').count();
    assert!(log.len() > PROCESSES as usize && after_a_kill > 5, "too little was tried: {log}");
    assert_eq!(holders(&gpus).unwrap(), []);
    let mut all = take_quietly(dir.path(), "last", "all", Wait::No).unwrap();
    assert_eq!(all.chosen.len(), GPUS as usize, "no GPU was lost");
    all.leases.as_mut().unwrap().forget_orphans().unwrap();
    assert_eq!(orphans(&gpus).unwrap(), []);
}

/// Takes, binds the locks to itself as the supervisor does, tells so, and stays.
#[test]
#[ignore = "run by gpu_leases_end_with_their_supervisor"]
fn in_own_process_supervise() {
    let (dir, id) = task();
    let shared = id.starts_with("shared");
    let taken = take(&dir, &id, "3", shared, Wait::No, |_| ControlFlow::Continue(())).unwrap();
    let leases = taken.leases.unwrap();
    let files: Vec<OwnedFd> = leases.descriptors().into_iter().map(|file| file.try_clone_to_owned().unwrap()).collect();
    leases.hand_over();
    let handed = Handed::adopt(&dir.join("gpus"), &id, shared, files).unwrap();
    println!("\nadopted");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    sleep(Duration::from_secs(if line.is_empty() { 60 } else { 0 }));
    handed.release().unwrap();
}

#[test]
fn gpu_leases_end_with_their_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let gpus = dir.path().join("gpus");
    let start = |id: &str| {
        let mut process = Process::start("in_own_process_supervise", &format!("{} {id}", dir.path().display()));
        assert!(process.lines().any(|line| line.unwrap() == "adopted"), "{id}");
        process
    };
    let mut alone = start("alone");
    let mut shared = start("shared-1");
    let other = start("shared-2");
    let held: Vec<(String, usize)> =
        holders(&gpus).unwrap().into_iter().map(|holder| (holder.id, holder.uuids.len())).collect();
    assert_eq!(held, [("alone".to_owned(), 3), ("shared-1".to_owned(), 3), ("shared-2".to_owned(), 3)]);
    let error = take_quietly(dir.path(), "next", "1", Wait::No).unwrap_err().to_string();
    assert!(error.contains("GPU 0 ") && error.contains("held by run `run` of store"), "{error}");
    alone.kill();
    assert_eq!(holders(&gpus).unwrap().len(), 2);
    let next = take_quietly(dir.path(), "next", "3", Wait::No).unwrap();
    let left = next.leases.as_ref().unwrap().orphans();
    assert_eq!(left.iter().map(|holder| holder.id.as_str()).collect::<Vec<_>>(), ["alone"]);
    shared.kill();
    assert!(take_quietly(dir.path(), "more", "device=6", Wait::No).is_err(), "the other sharing one has it still");
    drop(other);
    forget(&gpus, "alone").unwrap();
    let more = take_quietly(dir.path(), "more", "5", Wait::No);
    assert!(more.is_ok(), "{more:?}");
}

/// Waits in line for ever.
#[test]
#[ignore = "run by gpu_waiters_that_are_killed_are_passed_over"]
fn in_own_process_wait() {
    let (dir, id) = task();
    let mut told = false;
    let leased = take(&dir, &id, "all", false, Wait::Forever, |waiting| {
        if !std::mem::replace(&mut told, true) {
            println!("\nahead {}", waiting.ahead);
        }
        ControlFlow::Continue(())
    });
    println!("\nhas {}", leased.unwrap().chosen.len());
}

#[test]
fn gpu_waiters_that_are_killed_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let first = take_quietly(dir.path(), "first", "device=0", Wait::No).unwrap();
    let start = |id: &str, ahead: usize| {
        let mut process = Process::start("in_own_process_wait", &format!("{} {id}", dir.path().display()));
        let mut lines = process.lines();
        let expected = format!("ahead {ahead}");
        assert!(lines.any(|line| line.unwrap() == expected), "{id}");
        (process, lines)
    };
    let (mut head, _head_lines) = start("head", 0);
    let (mut second, _second_lines) = start("second", 1);
    let (_third, third_lines) = start("third", 2);
    // The head keeps the seven that are free.
    let waiting = holders(&dir.path().join("gpus")).unwrap().into_iter().find(|holder| holder.waiting).unwrap();
    assert_eq!((waiting.id.as_str(), waiting.uuids.len()), ("head", 7));
    head.kill();
    second.kill();
    drop(first);
    let began = Instant::now();
    assert!(third_lines.map(Result::unwrap).any(|line| line == "has 8"));
    assert!(began.elapsed() < Duration::from_secs(5));
}
