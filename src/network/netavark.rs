//! Running netavark: what it is told, how long it may take, what it says.
//!
//! Facts of version 1.4, as its help and its documents have them: `netavark --config DIR --file JSON setup|teardown NAMESPACE`; it
//! prints one JSON document, `{"error": …}` when it fails; it makes and removes the bridge, starts aardvark-dns when there are names to
//! serve, and needs the namespace for a teardown too.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lease::{Plan, write_file};
use super::loopback::guard;
use super::{NetworkError, Places};
use crate::sys::{die_with_parent, read_bounded};
use crate::words::printable;

/// Where distributions put what only container engines run.
pub const TOOL_DIRS: [&str; 4] =
    ["/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman"];

/// Where it finds iptables or nft; nothing of the caller's environment reaches it.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// It takes a tenth of a second, and longer where somebody else has the lock of iptables.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);
/// What is read of its answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// What is shown of an answer that is no JSON.
const MAX_SHOWN_CHARACTERS: usize = 400;
/// The container's interface.
pub(super) const INTERFACE: &str = "eth0";

/// The programs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// Does the work.
    pub netavark: PathBuf,
    /// Serves names; without it containers do not know each other's.
    pub aardvark: Option<PathBuf>,
}

impl Tools {
    /// Looks for them in fixed places.
    pub fn find(places: &Places) -> Result<Self, NetworkError> {
        let find = |name: &str| places.tools.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        let netavark = find("netavark").ok_or_else(|| NetworkError::NoNetavark { looked_in: places.tools.clone() })?;
        Ok(Self { netavark, aardvark: find("aardvark-dns") })
    }
}

/// Gives the network namespace its network. The caller is in the machine's own mount and network namespaces, in which aardvark-dns stays.
pub fn set_up(plan: &Plan, namespace: &File) -> Result<(), NetworkError> {
    let _lock = plan.lock()?;
    if !plan.ports.is_empty() {
        guard(&plan.dir, &plan.subnet.bridge())?;
    }
    run(plan, "setup", namespace)
}

/// Gives the network of a namespace whose container is gone to another one.
pub fn move_over(plan: &Plan, from: &File, to: &File) -> Result<(), NetworkError> {
    let _lock = plan.lock()?;
    plan.take_down(from)?;
    run(plan, "setup", to)
}

/// The caller holds the lock.
pub(super) fn run(plan: &Plan, action: &'static str, namespace: &File) -> Result<(), NetworkError> {
    let netavark = &plan.tools.netavark;
    let failed = |source| NetworkError::Run { path: netavark.clone(), source };
    let (input, answer) = (plan.dir.join("input"), plan.dir.join("answer"));
    write_file(&input, &told(plan).to_string())?;
    // A file and no pipe: whom it starts may live on and hold a pipe open.
    write_file(&answer, "")?;
    let output = || File::options().append(true).open(&answer).map(Stdio::from);
    #[expect(
        clippy::disallowed_methods,
        reason = "the distribution's own program, with nothing of anybody's environment"
    )]
    let mut command = Command::new(netavark);
    command.arg("--config").arg(plan.dir.join("netavark")).arg("--file").arg(&input);
    if let Some(aardvark) = &plan.tools.aardvark {
        command.arg("--aardvark-binary").arg(aardvark);
    }
    // Its standard input is the namespace: so it need not have the right to look at another process.
    command.args([action, "/proc/self/fd/0"]).env_clear().env("PATH", PATH).current_dir("/");
    command.stdin(namespace.try_clone().map_err(failed)?);
    command.stdout(output().map_err(failed)?).stderr(output().map_err(failed)?);
    die_with_parent(&mut command);
    let status = bounded(&mut command).map_err(failed)?;
    let said = read_bounded(&answer, MAX_ANSWER_BYTES).unwrap_or_default();
    drop(fs::remove_file(&answer));
    drop(fs::remove_file(&input));
    match status {
        None => Err(NetworkError::Hangs { path: netavark.clone(), action, seconds: PATIENCE.as_secs() }),
        Some(true) => Ok(()),
        Some(false) => Err(NetworkError::Failed { path: netavark.clone(), action, said: error_in(&said) }),
    }
}

/// Whether it ended well; `None` when it did not end.
pub(super) fn bounded(command: &mut Command) -> io::Result<Option<bool>> {
    let mut child = command.spawn()?;
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// What it says went wrong, from the last line that is a document of its form; else all it said.
fn error_in(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let mut documents = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let error = documents.find_map(|document| Some(document.get("error")?.as_str()?.to_owned()));
    let text = error.unwrap_or_else(|| said.trim().chars().take(MAX_SHOWN_CHARACTERS).collect());
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The document that netavark reads.
fn told(plan: &Plan) -> Value {
    // Each network has rules under its name, so the name is the bridge's: two directories of leases do not meet.
    let network = plan.subnet.bridge();
    let ports: Vec<Value> = plan
        .ports
        .iter()
        .map(|port| {
            let address = if port.address.is_unspecified() { String::new() } else { port.address.to_string() };
            json!({
                "host_ip": address, "host_port": port.host, "container_port": port.container,
                "protocol": port.protocol, "range": 1,
            })
        })
        .collect();
    let names: Vec<String> =
        std::iter::once(plan.name.clone()).chain(plan.aliases.iter().map(ToString::to_string)).collect();
    let mut own = json!({ "static_ips": [plan.address], "interface_name": INTERFACE, "aliases": names });
    if let Some(mac) = plan.mac {
        own["static_mac"] = json!(mac.to_string());
    }
    let mut document = json!({
        "container_id": plan.id,
        "container_name": plan.name,
        "port_mappings": ports,
        "networks": { &network: own },
        "network_info": { &network: {
            "name": network,
            "id": network,
            "driver": "bridge",
            "network_interface": network,
            "subnets": [{ "subnet": plan.subnet.to_string(), "gateway": plan.subnet.gateway() }],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": plan.tools.aardvark.is_some(),
            "ipam_options": { "driver": "host-local" },
        } },
    });
    if !plan.dns_servers.is_empty() {
        document["dns_servers"] = json!(plan.dns_servers);
    }
    document
}

/// Whether a bridge is there.
pub(super) fn is_interface(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_error_is_found() {
        let said =
            b"failed to connect to syslog: x\n{\"error\":\"netavark encountered multiple errors:\\n\\t- one\"}\n";
        assert_eq!(error_in(said), "netavark encountered multiple errors: - one");
        assert_eq!(error_in(b" thread panicked \x1b[31m \n"), printable("thread panicked \x1b[31m"));
        assert_eq!(error_in(b""), "");
    }
}
