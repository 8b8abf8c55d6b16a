//! `run`: a network of its own, and `port`.

use clap::Args;

/// What a network of its own is like; names and meanings are docker's.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct NetworkArgs {
    /// Publish a port of a private network; without HOST on a free one, and ranges are written `8000-8010:80-90`.
    #[arg(short, long, value_name = "[IP:][HOST:]CONTAINER[/tcp|/udp]")]
    pub(in crate::cli) publish: Vec<String>,
    /// Publish all ports that the image or `--expose` names, each on a free one.
    #[arg(short = 'P', long)]
    pub(in crate::cli) publish_all: bool,
    /// One more port for `--publish-all`.
    #[arg(long, value_name = "PORT[/tcp|/udp]")]
    pub(in crate::cli) expose: Vec<String>,
    /// One more name by which other containers of private networks find this one.
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(in crate::cli) network_alias: Vec<String>,
    /// Take this address.
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) ip: Option<String>,
    /// Take this hardware address.
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) mac_address: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PortArgs {
    /// Which run.
    pub(in crate::cli) run: String,
    /// Only where this port of the container is reached.
    #[arg(value_name = "PORT[/tcp|/udp]")]
    pub(in crate::cli) port: Option<String>,
}
