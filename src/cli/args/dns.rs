//! How a container looks names up. Names and meanings are docker's.

use clap::Args;

/// `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DnsArgs {
    /// Add a line to /etc/hosts; `host-gateway` stands for this machine.
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(in crate::cli) add_host: Vec<String>,
    /// Ask these name servers instead of the machine's.
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) dns: Vec<String>,
    /// Look short names up in these domains instead of the machine's; `.` for none.
    #[arg(long, value_name = "DOMAIN")]
    pub(in crate::cli) dns_search: Vec<String>,
    /// Options of resolv.conf(5) instead of the machine's, e.g. `ndots:2`.
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub(in crate::cli) dns_option: Vec<String>,
    /// Domain name in the container.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) domainname: Option<String>,
}
