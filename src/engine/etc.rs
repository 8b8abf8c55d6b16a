//! The files that are bound over those of the image: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::EngineError;
use super::network;
use super::share::etc_of;
use crate::network::Plan;
use crate::spec::{Network, Options};
use crate::store::RunDir;

/// Writes them to the new directory `etc`. A run that shares another one's network, `network_of`, has what that one has.
pub(super) fn write(
    etc: &Path,
    hostname: &str,
    options: &Options,
    network_of: Option<&RunDir>,
    plan: Option<&Plan>,
) -> Result<(), EngineError> {
    let write = |path: &Path, source| EngineError::Write { path: path.to_owned(), source };
    fs::DirBuilder::new().mode(0o755).create(etc).map_err(|source| write(etc, source))?;
    let (hosts, resolv_conf) = match network_of {
        Some(run) => (etc_of(run, "hosts")?, etc_of(run, "resolv.conf")?),
        None => own_files(hostname, options, plan),
    };
    for (name, text) in [("resolv.conf", resolv_conf), ("hosts", hosts), ("hostname", format!("{hostname}\n"))] {
        let path = etc.join(name);
        // Readable for the container's user whatever our umask is.
        let mode = fs::Permissions::from_mode(0o644);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, mode))
            .map_err(|source| write(&path, source))?;
    }
    Ok(())
}

/// The hosts file, and the resolver's.
fn own_files(hostname: &str, options: &Options, plan: Option<&Plan>) -> (String, String) {
    let base = match (&options.network, plan) {
        (_, Some(plan)) => network::hosts(plan, hostname),
        (Network::Host | Network::Run(_), None) => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        (Network::None | Network::Private, None) => {
            let full = options.domainname.as_ref().map(|domain| format!("{hostname}.{domain} ")).unwrap_or_default();
            format!("127.0.0.1\tlocalhost {full}{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        }
    };
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let asked = options.lookup.resolv_conf(&machine);
    // The servers that were asked for are asked by aardvark-dns, which knows the other containers too.
    let resolv_conf = plan.map_or_else(|| asked.clone(), |plan| network::resolv_conf(plan, &asked));
    let gateway = plan.map(|plan| plan.subnet.gateway());
    (options.lookup.hosts_file(&base, &options.network, gateway), resolv_conf)
}
