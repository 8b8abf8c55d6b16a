//! A network of a run's own: what is asked for, its lease, and the files in the container that tell of it.

use std::net::{IpAddr, Ipv4Addr};

use super::ports::{PortError, holder_of};
use super::{EngineError, RunRequest, Settings};
use crate::network::{
    Alias, ContainerPort, Lease, Mac, NetworkError, Plan, Protocol, Publish, Published, Tools, Wanted, exposed, publish,
};
use crate::spec::Network;
use crate::store::RunNetwork;

/// What a run wants of a network of its own.
#[derive(Debug, Clone, Default)]
pub struct NetworkWishes {
    /// Ports of this machine that lead to it.
    pub publish: Vec<Publish>,
    /// All ports that it exposes are published, on any that are free.
    pub publish_all: bool,
    /// Ports that it exposes beside those that its image names.
    pub expose: Vec<ContainerPort>,
    /// Names beside its own.
    pub aliases: Vec<Alias>,
    /// A certain address.
    pub ip: Option<Ipv4Addr>,
    /// A certain hardware address.
    pub mac: Option<Mac>,
}

/// What can be told before anything is fetched: whether the programs are here, and the ports free.
pub(super) fn check(request: &RunRequest, settings: &Settings) -> Result<(), EngineError> {
    if request.options.network != Network::Private {
        return Ok(());
    }
    Tools::find(&settings.network)?;
    publish(&request.network.publish, &request.network.expose_all(&[])).map_err(named)?;
    Ok(())
}

/// Takes an address for the run, and finds ports; `None` for one that has no network of its own.
pub(super) fn lease(
    request: &RunRequest,
    settings: &Settings,
    id: &str,
    image_exposes: &[String],
) -> Result<Option<Lease>, EngineError> {
    if request.options.network != Network::Private {
        return Ok(None);
    }
    let wishes = &request.network;
    let ports = publish(&wishes.publish, &wishes.expose_all(image_exposes)).map_err(named)?;
    let wanted = Wanted {
        id,
        name: request.reservation.name().as_str(),
        aliases: &wishes.aliases,
        address: wishes.ip,
        mac: wishes.mac,
        ports,
        dns_servers: request.options.lookup.servers().to_vec(),
    };
    Ok(Some(Lease::take(&settings.network, wanted)?))
}

impl NetworkWishes {
    /// What is published without being named.
    fn expose_all(&self, image_exposes: &[String]) -> Vec<ContainerPort> {
        if !self.publish_all {
            return Vec::new();
        }
        let mut ports = [exposed(image_exposes), self.expose.clone()].concat();
        ports.sort();
        ports.dedup();
        ports
    }
}

/// Who has the port is looked for where it can be known.
fn named(error: NetworkError) -> EngineError {
    match error {
        NetworkError::Taken { port, protocol: Protocol::Tcp, .. } => {
            PortError::InUse { port, holder: holder_of(port) }.into()
        }
        error => error.into(),
    }
}

/// What the record says of it.
pub(super) fn recorded(plan: &Plan) -> RunNetwork {
    RunNetwork {
        bridge: plan.subnet.bridge(),
        address: plan.address,
        gateway: plan.subnet.gateway(),
        aliases: plan.aliases.iter().map(ToString::to_string).collect(),
    }
}

/// Where it is reached, for people; `None` without ports.
pub(super) fn published(plan: &Plan) -> Option<String> {
    let ports: Vec<String> = plan.ports.iter().map(Published::to_string).collect();
    (!ports.is_empty()).then(|| format!("published ports: {}", ports.join(", ")))
}

/// What is less than usual.
pub(super) fn warnings(plan: &Plan) -> Vec<String> {
    let word = "`aardvark-dns` is not here: containers do not know each other's names\nhint: apt install aardvark-dns";
    plan.tools.aardvark.is_none().then(|| word.to_owned()).into_iter().collect()
}

/// The container's /etc/hosts (hosts(5)).
pub(super) fn hosts(plan: &Plan, hostname: &str) -> String {
    let name = if plan.name == hostname { String::new() } else { format!(" {}", plan.name) };
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{hostname}{name}\n", plan.address)
}

/// The container's /etc/resolv.conf (resolv.conf(5)), from the machine's: aardvark-dns is asked, and it asks the machine's servers.
/// Without it they are asked by the container itself, but for those on the machine's own loopback, which it cannot reach.
pub(super) fn resolv_conf(plan: &Plan, machine: &str) -> String {
    let is_server = |line: &&str| line.trim_start().starts_with("nameserver");
    let rest = machine.lines().filter(|line| !is_server(line) && !line.trim_start().starts_with(['#', ';']));
    let reachable = |line: &&str| {
        let address = line.split_whitespace().nth(1).and_then(|address| address.parse::<IpAddr>().ok());
        address.is_some_and(|address| !address.is_loopback())
    };
    let servers: Vec<String> = match &plan.tools.aardvark {
        Some(_) => vec![format!("nameserver {}", plan.subnet.gateway())],
        None => machine.lines().filter(is_server).filter(reachable).map(str::to_owned).collect(),
    };
    let lines: Vec<String> = servers.into_iter().chain(rest.map(str::to_owned)).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(aardvark: bool) -> Plan {
        let tools = serde_json::json!({ "netavark": "/n", "aardvark": aardvark.then_some("/a") });
        serde_json::from_value(serde_json::json!({
            "dir": "/d", "id": "run-1", "name": "run", "aliases": [], "subnet": 0, "address": "10.188.0.2", "mac": null,
            "ports": [], "dns_servers": [], "tools": tools,
        }))
        .unwrap()
    }

    #[test]
    fn the_name_servers_of_a_container() {
        let machine = "# made by x\nnameserver 127.0.0.53\nsearch a.b\nnameserver 192.0.2.1\noptions ndots:2\n";
        assert_eq!(resolv_conf(&plan(true), machine), "nameserver 10.188.0.1\nsearch a.b\noptions ndots:2\n");
        assert_eq!(resolv_conf(&plan(false), machine), "nameserver 192.0.2.1\nsearch a.b\noptions ndots:2\n");
        assert_eq!(resolv_conf(&plan(true), ""), "nameserver 10.188.0.1\n");
    }

    #[test]
    fn a_container_knows_itself() {
        assert!(hosts(&plan(true), "run").ends_with("\n10.188.0.2\trun\n"));
        assert!(hosts(&plan(true), "box").ends_with("\n10.188.0.2\tbox run\n"));
    }
}
