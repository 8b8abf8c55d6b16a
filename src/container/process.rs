//! The processes of a cgroup, as `/proc` shows them.
//!
//! A number may be given to another process at any time, so `/proc/PID` is opened first and belongs to one process from then
//! on; only then it is asked which cgroup it is in (`proc_pid_cgroup(5)`). All that is read is bounded: a process chooses its
//! own name and arguments.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};

use super::cgroup::Cgroup;
use crate::sys::beneath::Dir;

/// Longest file of `/proc` that is read; a list of cgroups or network devices is the longest.
const MAX_BYTES: u64 = 64 << 10;
/// Of a command line so much is kept.
const MAX_COMMAND_BYTES: u64 = 4096;
/// Processes that are looked at; more can hardly be read by anybody.
const MAX_PROCESSES: usize = 32_768;
/// What the kernel counts time in for user space (`USER_HZ`), on every architecture of ours.
const TICKS_PER_SECOND: u64 = 100;

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on this machine.
    pub pid: i32,
    /// Its number in the container.
    pub container_pid: i32,
    /// The number of its parent on this machine.
    pub parent: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its other users and groups.
    pub ids: Ids,
    /// Its process group.
    pub group: i32,
    /// The terminal it belongs to: `pts/0`.
    pub terminal: Option<String>,
    /// -20 to 19.
    pub nice: i64,
    /// How many it has, the first included.
    pub threads: u64,
    /// How long it is there.
    pub age: Duration,
    /// Bytes of its address space.
    pub virtual_memory: u64,
    /// `disabled`, `strict` or `filter`; `?` where the kernel does not tell.
    pub seccomp: &'static str,
    /// The name of its program, or what it has given itself.
    pub name: String,
    /// `R`, `S`, `D`, `T`, `Z`, as ps(1) has it.
    pub state: char,
    /// Bytes of memory that are its own or shared with others.
    pub memory: u64,
    /// Time on processors.
    pub cpu: Duration,
    /// Its arguments, as it wants them to be seen; its name in brackets when there are none.
    pub command: String,
}

/// Users and groups of a process, on this machine and (`inner`) as its user namespace has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub struct Ids {
    pub real_uid: u32,
    pub gid: u32,
    pub real_gid: u32,
    pub inner_uid: u32,
    pub inner_real_uid: u32,
    pub inner_gid: u32,
    pub inner_real_gid: u32,
}

/// `/proc/PID` of a process that was in the cgroup.
#[derive(Debug)]
pub(super) struct ProcDir {
    dir: Dir,
    pid: i32,
}

impl Cgroup {
    /// What runs in it, by number. One that ends meanwhile is left out.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let pids = self.pids().into_iter().take(MAX_PROCESSES);
        let uptime = uptime();
        pids.filter_map(|pid| self.open_process(pid.as_raw())?.read(uptime)).collect()
    }

    /// Opens a process by its number, if it is in this cgroup.
    pub(super) fn open_process(&self, pid: i32) -> Option<ProcDir> {
        let dir = Dir::open(Path::new(&format!("/proc/{pid}"))).ok()?;
        let process = ProcDir { dir, pid };
        let cgroups = process.text("cgroup")?;
        self.has(Pid::from_raw(pid), &cgroups).then_some(process)
    }
}

impl ProcDir {
    fn bytes(&self, name: &str, max_bytes: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.dir.open_file(OsStr::new(name)).ok()??;
        file.take(max_bytes).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A file, in which the name of a process may be anything.
    fn text(&self, name: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(name, MAX_BYTES)?).into_owned())
    }

    fn read(&self, uptime: Duration) -> Option<Process> {
        let stat = Stat::parse(&self.text("stat")?)?;
        let status = self.text("status")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let numbers = |name: &str| field(name).map(str::split_whitespace);
        let memory: u64 = numbers("VmRSS").and_then(|mut words| words.next()?.parse().ok()).unwrap_or(0);
        let words = self.bytes("cmdline", MAX_COMMAND_BYTES).unwrap_or_default();
        let (uid, ids) = self.ids(|name| numbers(name)?.take(2).map(|word| word.parse().ok()).collect())?;
        Some(Process {
            pid: self.pid,
            ids,
            group: stat.group,
            terminal: terminal(stat.terminal),
            nice: stat.nice,
            threads: stat.threads,
            age: uptime.saturating_sub(stat.started),
            virtual_memory: stat.virtual_memory,
            seccomp: match field("Seccomp").map(str::trim) {
                Some("0") => "disabled",
                Some("1") => "strict",
                Some("2") => "filter",
                _ => "?",
            },
            name: stat.name.clone(),
            container_pid: numbers("NSpid")?.next_back()?.parse().ok()?,
            parent: stat.parent,
            uid,
            state: stat.state,
            memory: memory.saturating_mul(1024),
            cpu: stat.cpu,
            command: command(&words, &stat.name),
        })
    }

    /// The effective user, and the rest; `numbers` gives the real and the effective one of a line of `status`.
    fn ids(&self, numbers: impl Fn(&str) -> Option<Vec<u32>>) -> Option<(u32, Ids)> {
        let both = |line: &str| match numbers(line)?.as_slice() {
            &[real, effective] => Some((real, effective)),
            _ => None,
        };
        let map = |name: &str| self.text(name).unwrap_or_default();
        let ((real_user, user), (real_group, group)) = (both("Uid")?, both("Gid")?);
        let (users, groups) = (map("uid_map"), map("gid_map"));
        let ids = Ids {
            real_uid: real_user,
            gid: group,
            real_gid: real_group,
            inner_uid: inner_id(&users, user),
            inner_real_uid: inner_id(&users, real_user),
            inner_gid: inner_id(&groups, group),
            inner_real_gid: inner_id(&groups, real_group),
        };
        Some((user, ids))
    }

    /// Bytes received and sent by all devices but the loopback, if the process has a network of its own.
    pub(super) fn network(&self) -> Option<(u64, u64)> {
        let namespace = |path: &Path| std::fs::read_link(path).ok();
        let own = rustix::fs::readlinkat(&self.dir, "ns/net", Vec::new()).ok()?;
        let ours = namespace(Path::new("/proc/self/ns/net"))?;
        if ours.as_os_str().as_encoded_bytes() == own.as_bytes() {
            return None;
        }
        let net = self.dir.open_dir(OsStr::new("net")).ok()?;
        let mut text = String::new();
        net.open_file(OsStr::new("dev")).ok()??.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        Some(sum_of_devices(&text))
    }

    /// Bytes used in its `/dev/shm`, and its size.
    pub(super) fn shm(&self) -> io::Result<(u64, u64)> {
        // Anything else there may be as large as the disk, or never answer.
        let is_tmpfs = self.text("mountinfo").is_some_and(|mounts| has_tmpfs(&mounts, "/dev/shm"));
        if !is_tmpfs {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&self.dir, "root", path, Mode::empty())?;
        let shm = beneath(&root, "dev/shm", path)?;
        let found = rustix::fs::fstatvfs(&shm)?;
        Ok(((found.f_blocks.saturating_sub(found.f_bfree)) * found.f_frsize, found.f_blocks * found.f_frsize))
    }
}

/// Whether the last mount at `place` is a tmpfs (`proc_pid_mountinfo(5)`).
fn has_tmpfs(mountinfo: &str, place: &str) -> bool {
    let at_place = |line: &&str| line.split(' ').nth(4) == Some(place);
    let kind = |line: &str| Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned());
    mountinfo.lines().rfind(at_place).and_then(kind).as_deref() == Some("tmpfs")
}

/// Opens something below a root that the container may have filled with links: none is followed.
fn beneath(root: impl AsFd, path: &str, flags: OFlags) -> io::Result<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened: OwnedFd = openat2(root, path, flags, Mode::empty(), resolve)?;
    Ok(opened.into())
}

/// What is of use in `/proc/PID/stat` (`proc_pid_stat(5)`).
struct Stat {
    name: String,
    state: char,
    parent: i32,
    group: i32,
    terminal: u32,
    cpu: Duration,
    nice: i64,
    threads: u64,
    /// After the boot.
    started: Duration,
    virtual_memory: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name stands in brackets and may have some itself.
        let (left, right) = text.rsplit_once(')')?;
        let name = left.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = right.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<i64>().ok();
        let count = |place| u64::try_from(number(place)?).ok();
        let ticks = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / TICKS_PER_SECOND);
        Some(Self {
            name,
            state: fields.first()?.chars().next()?,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            terminal: u32::try_from(number(4)?).ok()?,
            cpu: ticks(count(11)?.saturating_add(count(12)?)),
            nice: number(16)?,
            threads: count(17)?,
            started: ticks(count(19)?),
            virtual_memory: count(20)?,
        })
    }
}

/// Time since the boot, asleep or not, as processes' starts are counted; the first number of `/proc/uptime`.
fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

/// The name of a terminal by its number (kernel documentation, admin-guide/devices.rst).
fn terminal(number: u32) -> Option<String> {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    match (major, minor) {
        (136..=143, minor) => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        (4, minor @ 64..) => Some(format!("ttyS{}", minor - 64)),
        (4, minor) => Some(format!("tty{minor}")),
        _ => None,
    }
}

/// What the namespace calls a number of the machine, from lines of `inside outside count`; one that it has not is nobody's.
fn inner_id(map: &str, outer: u32) -> u32 {
    const NOBODY: u32 = 65_534;
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let mut inner = ranges.filter_map(|(inside, outside, count)| {
        outer.checked_sub(outside).filter(|place| *place < count).and_then(|place| inside.checked_add(place))
    });
    inner.next().unwrap_or(NOBODY)
}

fn command(words: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(words).trim_end_matches('\0').replace('\0', " ");
    if text.is_empty() { format!("[{name}]") } else { text }
}

/// The sums of the columns of `/proc/PID/net/dev` (`proc_pid_net(5)`).
fn sum_of_devices(text: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in text.lines().skip(2) {
        let Some((device, numbers)) = line.split_once(':') else { continue };
        if device.trim() == "lo" {
            continue;
        }
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().unwrap_or(0));
        sum.0 = sum.0.saturating_add(numbers.next().unwrap_or(0));
        sum.1 = sum.1.saturating_add(numbers.nth(7).unwrap_or(0));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_be_hostile() {
        let text = "42 (a) R 1 (x)) S 7 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 99 1000 10\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) R 1 (x)", 'S', 7));
        assert_eq!((stat.cpu, stat.started), (Duration::from_secs(2), Duration::from_millis(990)));
        assert_eq!((stat.group, stat.terminal, stat.nice, stat.threads, stat.virtual_memory), (42, 0, 0, 1, 1000));
        for bad in ["", "1", "1 (x", "1 (x)", "1 (x) S", "1 (x) S 1 1 1"] {
            assert!(Stat::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(command(b"sh\0-c\0a b\0\0", "sh"), "sh -c a b");
        assert_eq!(command(b"", "kthread"), "[kthread]");
    }

    #[test]
    fn numbers_become_names_and_others() {
        let named = [0, 136 << 8 | 7, 137 << 8 | 1, 4 << 8 | 1, 0x441].map(terminal);
        let named = named.each_ref().map(|name| name.as_deref().unwrap_or("?"));
        assert_eq!(named, ["?", "pts/7", "pts/257", "tty1", "ttyS1"]);
        let map = "0 1000 1\n1 100000 65536\nx\n";
        assert_eq!([1000, 100_000, 165_536].map(|outer| inner_id(map, outer)), [0, 1, 65_534]);
        assert_eq!(inner_id("         0          0 4294967295\n", 5), 5);
    }

    #[test]
    fn what_is_mounted_last_counts() {
        let shm = "40 30 0:50 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k\n";
        let other = "41 40 0:51 / /dev/shm rw - fuse.sshfs x rw\n";
        assert!(has_tmpfs(shm, "/dev/shm") && !has_tmpfs(&format!("{shm}{other}"), "/dev/shm"));
        assert!(!has_tmpfs("40 30 0:50 / /dev/shm2 rw - tmpfs shm rw\nx\n", "/dev/shm"));
    }

    #[test]
    fn the_loopback_does_not_count() {
        let text = "Inter-|   Receive                    |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n\
                    lo: 900 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n eth1:5 0 0 0 0 0 0 0 7 0 0 0 0 0 0 0\n";
        assert_eq!(sum_of_devices(text), (105, 27));
        assert_eq!(sum_of_devices("garbage\n\nx: y\n"), (0, 0));
    }
}
