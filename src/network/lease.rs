//! Whose an address is. The module's own documentation lists the files.
//!
//! A lease is a file that is locked from the moment it is seen, first by the command line, then by the supervisor, which binds it to
//! its own life. The supervisor must not open that file once more.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::loopback::remove_guard;
use super::netavark::{INTERFACE, is_interface, run};
use super::{Alias, Mac, NetworkError, Places, Published, Subnet, Tools, subnet};
use crate::sys::{Lock, LockMode, pidfd, read_bounded, remove_bridge, stand_in_network};

/// It leaves within milliseconds.
const NAME_SERVER_LEAVES_MS: u16 = 2000;
const ROUTES: &str = "/proc/net/route";
/// What is read of a file of ours, and of the routes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a run wants.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Name of its container, which no other run ever has.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Further names.
    pub aliases: &'a [Alias],
    /// A certain address.
    pub address: Option<Ipv4Addr>,
    /// A certain hardware address.
    pub mac: Option<Mac>,
    /// What is published.
    pub ports: Vec<Published>,
    /// Whom aardvark-dns asks; empty for those of the machine.
    pub dns_servers: Vec<IpAddr>,
}

/// All that is needed to set up a network and to take it down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The directory of the leases.
    pub dir: PathBuf,
    /// Name of the container.
    pub id: String,
    /// Name of the run.
    pub name: String,
    /// Its further names.
    pub aliases: Vec<Alias>,
    /// The subnet.
    pub subnet: Subnet,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its hardware address, when it is to have a certain one.
    pub mac: Option<Mac>,
    /// What is published.
    pub ports: Vec<Published>,
    /// Whom aardvark-dns asks; empty for those of the machine.
    pub dns_servers: Vec<IpAddr>,
    /// The programs.
    pub tools: Tools,
}

/// What `subnet` holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InUse {
    subnet: Subnet,
    last: Ipv4Addr,
}

/// An address, for a run that has not started yet.
#[derive(Debug)]
pub struct Lease {
    plan: Plan,
    lock: Option<Lock>,
}

impl Lease {
    /// Takes an address. What killed processes have left is to be cleaned up before ([`forget_dead`]).
    pub fn take(places: &Places, wanted: Wanted<'_>) -> Result<Self, NetworkError> {
        let tools = Tools::find(places)?;
        let dir = places.dir.clone();
        for dir in [&dir, &dir.join("leases"), &dir.join("netavark")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|source| file("make", dir, source))?;
        }
        let _lock = lock(&dir)?;
        let leases = leases(&dir)?;
        let (subnet, last) = subnet_of(&dir, !leases.is_empty())?;
        let is_taken = |address: &Ipv4Addr| leases.iter().any(|lease| lease.address == *address);
        let address = match wanted.address {
            Some(address) => checked(&dir, subnet, address, is_taken(&address))?,
            None => subnet.addresses(last).find(|address| !is_taken(address)).ok_or(NetworkError::Full(subnet))?,
        };
        let Wanted { id, name, aliases, mac, ports, dns_servers, .. } = wanted;
        let (id, name, aliases) = (id.to_owned(), name.to_owned(), aliases.to_vec());
        let plan = Plan { dir: dir.clone(), id, name, aliases, subnet, address, mac, ports, dns_servers, tools };
        let text = serde_json::to_vec(&plan).unwrap_or_default();
        let path = plan.path();
        let lock =
            Lock::publish(&path, &dir.join("lease.new"), &text).map_err(|source| file("write", &path, source))?;
        let lease = Self { plan, lock: Some(lock) };
        let in_use = serde_json::to_string(&InUse { subnet, last: address }).unwrap_or_default();
        write_file(&dir.join("subnet"), &in_use)?;
        Ok(lease)
    }

    /// What is to be set up.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The open file, for the process that holds the lease further.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(|lock| lock.file().as_fd())
    }

    /// Another process has it.
    pub fn hand_over(mut self) {
        self.lock = None;
    }
}

impl Drop for Lease {
    /// Nothing has been set up yet.
    fn drop(&mut self) {
        if self.lock.is_some() {
            drop(fs::remove_file(self.plan.path()));
        }
    }
}

impl Plan {
    /// Where its lease is.
    fn path(&self) -> PathBuf {
        self.dir.join("leases").join(self.address.to_string())
    }

    pub(super) fn lock(&self) -> Result<Lock, NetworkError> {
        lock(&self.dir)
    }

    /// The end of a run, by its own supervisor: takes the network down and gives the address back. `namespace` is the container's;
    /// without one nothing was set up.
    ///
    /// # Errors
    /// Where something may be left the lease stays: when the supervisor has ended, the next command sees to it.
    pub fn end(&self, namespace: Option<&File>) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        let names = NameServer::find(&self.dir);
        if let Some(namespace) = namespace {
            run(self, "teardown", namespace)?;
        }
        self.give_back(names)
    }

    /// Takes the network down whose container is gone; the address stays taken for the next one. The caller holds the lock.
    pub(super) fn take_down(&self, namespace: &File) -> Result<(), NetworkError> {
        let names = NameServer::find(&self.dir);
        run(self, "teardown", namespace)?;
        // Where nobody else has names it ends, and must not meet the one that comes next.
        if leases(&self.dir)?.len() <= 1
            && let Some(names) = names
        {
            names.wait();
        }
        Ok(())
    }

    /// The caller holds the lock.
    fn give_back(&self, names: Option<NameServer>) -> Result<(), NetworkError> {
        let path = self.path();
        fs::remove_file(&path).map_err(|source| file("remove", &path, source))?;
        let bridge = self.subnet.bridge();
        if !leases(&self.dir)?.is_empty() {
            return Ok(());
        }
        if let Some(names) = names {
            names.wait();
        }
        // netavark does this itself, unless it was killed meanwhile.
        if is_interface(&bridge) {
            remove_bridge(&bridge)
                .map_err(|source| NetworkError::Kernel { what: "remove the bridge of containers", source })?;
        }
        remove_guard(&self.dir);
        Ok(())
    }
}

/// A lease whose holder was killed.
#[derive(Debug)]
pub struct Dead {
    /// Name of the container: what is left in its cgroup still has the network.
    pub id: String,
    /// What could not be done, in words.
    pub problem: Option<NetworkError>,
}

/// Whether there may be something for [`forget_dead`]. Takes no lock.
#[must_use]
pub fn is_there_dead(dir: &Path) -> bool {
    entries(dir).is_ok_and(|paths| paths.iter().any(|path| is_dead(path)))
}

/// Takes down the networks of processes that were killed. `end` ends what is left of a container.
pub fn forget_dead(dir: &Path, end: &dyn Fn(&str)) -> Result<Vec<Dead>, NetworkError> {
    let _lock = lock(dir)?;
    let mut found = Vec::new();
    for path in entries(dir)?.into_iter().filter(|path| is_dead(path)) {
        let Ok(plan) = read(&path) else {
            // It was written whole, so somebody else has written there.
            fs::remove_file(&path).map_err(|source| file("remove", &path, source))?;
            continue;
        };
        end(&plan.id);
        let problem = plan.bury().err();
        found.push(Dead { id: plan.id, problem });
    }
    Ok(found)
}

impl Plan {
    /// The caller holds the lock.
    fn bury(&self) -> Result<(), NetworkError> {
        let stand_in = stand_in_network(INTERFACE)
            .map_err(|source| NetworkError::Kernel { what: "make a network namespace", source })?;
        let names = NameServer::find(&self.dir);
        match run(self, "teardown", &stand_in) {
            // It fails where nothing was set up, or only a part; it goes on past what it does not find.
            Ok(()) | Err(NetworkError::Failed { .. }) => self.give_back(names),
            Err(error) => Err(error),
        }
    }
}

/// The aardvark-dns of a directory of leases. It ends by itself, a moment after it was told that no name is left; who starts the next
/// one within that moment would talk to one that is leaving, or find its port taken.
struct NameServer(OwnedFd);

impl NameServer {
    fn find(dir: &Path) -> Option<Self> {
        let dir = dir.join("netavark/aardvark-dns");
        let text = String::from_utf8(read_bounded(&dir.join("aardvark.pid"), MAX_FILE_BYTES).ok()?).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let process = pidfd(Pid::from_raw(pid)).ok()?;
        // The number may be somebody else's by now.
        let words = read_bounded(Path::new(&format!("/proc/{pid}/cmdline")), MAX_FILE_BYTES).ok()?;
        words.split(|byte| *byte == 0).any(|word| word == dir.as_os_str().as_bytes()).then_some(Self(process))
    }

    fn wait(self) {
        let mut ended = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ended, NAME_SERVER_LEAVES_MS);
    }
}

fn is_dead(path: &Path) -> bool {
    matches!(Lock::holder(path), Ok(None)) && path.exists()
}

fn subnet_of(dir: &Path, is_in_use: bool) -> Result<(Subnet, Option<Ipv4Addr>), NetworkError> {
    let noted = read_bounded(&dir.join("subnet"), MAX_FILE_BYTES).ok();
    let noted: Option<InUse> = noted.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match noted {
        Some(noted) if is_in_use => Ok((noted.subnet, Some(noted.last))),
        noted => {
            let path = Path::new(ROUTES);
            let routes = fs::read_to_string(path).map_err(|source| file("read", path, source))?;
            let own = noted.map(|noted| noted.subnet.bridge());
            let subnet = subnet::choose(&routes, own.as_deref()).ok_or(NetworkError::NoSubnet)?;
            Ok((subnet, noted.filter(|noted| noted.subnet == subnet).map(|noted| noted.last)))
        }
    }
}

fn checked(dir: &Path, subnet: Subnet, address: Ipv4Addr, is_taken: bool) -> Result<Ipv4Addr, NetworkError> {
    let (first, last) = subnet.bounds();
    if !(first..=last).contains(&address) {
        return Err(NetworkError::NotInSubnet { address, subnet, first, last });
    }
    if is_taken {
        let holder = read(&dir.join("leases").join(address.to_string())).map(|plan| plan.name).unwrap_or_default();
        return Err(NetworkError::AddressTaken { address, holder });
    }
    Ok(address)
}

/// A lease as far as its name tells.
struct Named {
    address: Ipv4Addr,
}

fn leases(dir: &Path) -> Result<Vec<Named>, NetworkError> {
    let name = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
    Ok(entries(dir)?.iter().filter_map(|path| Some(Named { address: name(path)? })).collect())
}

/// None without the directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, NetworkError> {
    let leases = dir.join("leases");
    match fs::read_dir(&leases) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(file("read", &leases, source)),
    }
}

fn read(path: &Path) -> Result<Plan, NetworkError> {
    let bytes = read_bounded(path, MAX_FILE_BYTES).map_err(|source| file("read", path, source))?;
    serde_json::from_slice(&bytes).map_err(|error| file("read", path, error.into()))
}

fn lock(dir: &Path) -> Result<Lock, NetworkError> {
    let path = dir.join("lock");
    Lock::acquire(&path, LockMode::Exclusive, |_| ()).map_err(|source| file("lock", &path, source))
}

/// Writes a file of ours anew, for nobody else to read.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), NetworkError> {
    drop(fs::remove_file(path));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut open| open.write_all(text.as_bytes()));
    written.map_err(|source| file("write", path, source))
}

fn file(what: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        fs::write(dir.join("netavark"), "").unwrap();
        Places { dir: dir.join("network"), tools: vec![dir.to_owned()] }
    }

    fn wanted(name: &str, address: Option<Ipv4Addr>) -> Wanted<'_> {
        Wanted { id: name, name, aliases: &[], address, mac: None, ports: Vec::new(), dns_servers: Vec::new() }
    }

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let take = |name| Lease::take(&places, wanted(name, None)).unwrap();
        let (first, second) = (take("one"), take("two"));
        let (one, two) = (first.plan().address, second.plan().address);
        assert_eq!(u32::from(two), u32::from(one) + 1);
        let error = Lease::take(&places, wanted("x", Some(one))).unwrap_err().to_string();
        assert!(error.contains("taken by run `one`"), "{error}");
        let outside = Lease::take(&places, wanted("x", Some(Ipv4Addr::LOCALHOST))).unwrap_err().to_string();
        assert!(outside.contains("10.188."), "{outside}");
        drop(first);
        // Not the one that has just been given back.
        assert_eq!(u32::from(take("three").plan().address), u32::from(two) + 1);
        let third = Lease::take(&places, wanted("four", Some(one))).unwrap();
        assert_eq!(third.plan().address, one);
        assert!(!is_there_dead(&places.dir));
    }

    #[test]
    fn a_lease_without_a_holder_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        assert!(!is_there_dead(&places.dir));
        Lease::take(&places, wanted("one", None)).unwrap().hand_over();
        assert!(is_there_dead(&places.dir));
        let held = Lease::take(&places, wanted("two", None)).unwrap();
        // The program is an empty file: what cannot be run takes nothing down, and the lease stays.
        let dead = forget_dead(&places.dir, &|id| assert_eq!(id, "one"));
        if nix::unistd::geteuid().is_root() {
            let dead = dead.unwrap();
            assert_eq!((dead.len(), dead[0].id.as_str()), (1, "one"));
            assert!(matches!(dead[0].problem, Some(NetworkError::Run { .. })), "{:?}", dead[0].problem);
        }
        assert!(is_there_dead(&places.dir) && held.plan().path().exists());
    }

    #[test]
    fn without_netavark_there_is_a_clear_word() {
        let places = Places { dir: "/nowhere".into(), tools: vec!["/a".into(), "/b".into()] };
        let error = Lease::take(&places, wanted("one", None)).unwrap_err().to_string();
        let expected = "a network of its own needs `netavark`, which is in none of `/a`, `/b`\n\
                        hint: apt install netavark aardvark-dns iptables";
        assert_eq!(error, expected);
    }
}
