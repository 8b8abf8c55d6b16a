//! `port`, and the flags of `run` that are about a private network.

use std::net::Ipv4Addr;

use super::args::{NetworkArgs, PortArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::print_data;
use crate::engine::NetworkWishes;
use crate::network::{ContainerPort, Protocol, Publish, Published};
use crate::spec::Network;

/// Shows where the published ports of a run are reached, as docker does.
pub(super) fn port(context: &Context, args: &PortArgs) -> Result<u8, CliError> {
    let record = context.store()?.find_run(&args.run)?.record()?;
    let wanted: Option<ContainerPort> = args.port.as_deref().map(str::parse).transpose()?;
    let mut ports: Vec<Published> = record.ports.iter().filter_map(|text| read(text)).collect();
    ports.retain(|port| wanted.is_none_or(|wanted| wanted.to_string() == port.container_port()));
    if let (Some(wanted), true) = (wanted, ports.is_empty()) {
        return Err(CliError::Usage(format!("run `{}` does not publish port {wanted}", args.run)));
    }
    for port in ports {
        let place = format!("{}:{}", port.address, port.host);
        let line = if wanted.is_some() { place } else { format!("{} -> {place}", port.container_port()) };
        print_data(&(line + "\n"));
    }
    Ok(0)
}

/// A port of a record. With the machine's network the workload listens on the port of the machine.
fn read(text: &str) -> Option<Published> {
    text.parse().ok().or_else(|| {
        let port = text.parse::<crate::engine::ports::Port>().ok()?.container();
        Some(Published { address: Ipv4Addr::UNSPECIFIED, host: port, container: port, protocol: Protocol::Tcp })
    })
}

/// Reads the flags. With another network than a private one they would mean nothing.
pub(super) fn network_wishes(args: &NetworkArgs, network: &Network) -> Result<NetworkWishes, CliError> {
    let given = [
        ("--publish", !args.publish.is_empty()),
        ("--publish-all", args.publish_all),
        ("--network-alias", !args.network_alias.is_empty()),
        ("--ip", args.ip.is_some()),
        ("--mac-address", args.mac_address.is_some()),
    ];
    let wishes = wishes(args)?;
    if *network == Network::Private {
        return Ok(wishes);
    }
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(wishes),
        Some((flag, _)) => Err(CliError::Usage(format!(
            "`{flag}` needs a private network, and the network is `{network}`\nhint: {}",
            hint(flag, network)
        ))),
    }
}

fn hint(flag: &str, network: &Network) -> &'static str {
    if *network == Network::Host && flag.starts_with("--publish") {
        "`--network private`, or leave it out: the ports of the workload are those of this machine"
    } else {
        "`--network private`"
    }
}

fn wishes(args: &NetworkArgs) -> Result<NetworkWishes, CliError> {
    let publish = args.publish.iter().map(|text| Publish::parse_all(text)).collect::<Result<Vec<_>, _>>()?.concat();
    let expose = args.expose.iter().map(|text| ContainerPort::parse_all(text)).collect::<Result<Vec<_>, _>>()?.concat();
    let ip = args.ip.as_deref().map(|text| {
        let malformed =
            |_| CliError::Usage(format!("`--ip`: `{text}` is not an address of IPv4, expected e.g. `10.188.0.7`"));
        text.parse::<Ipv4Addr>().map_err(malformed)
    });
    Ok(NetworkWishes {
        publish,
        publish_all: args.publish_all,
        expose,
        aliases: args.network_alias.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        ip: ip.transpose()?,
        mac: args.mac_address.as_deref().map(str::parse).transpose()?,
    })
}
