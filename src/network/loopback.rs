//! Keeps containers away from what listens on 127.0.0.1 of the machine (CVE-2020-8558).
//!
//! A port that is published is reached from the machine itself by 127.0.0.1 as well. For that netavark sets `route_localnet` on the
//! bridge, and from then on the kernel takes packets for 127.0.0.0/8 that come over the bridge: any container may write one, and with
//! it speak to services that trust whoever comes to the loopback address. So a rule drops them, before addresses are translated:
//! answers to the machine's own connections are for the bridge's address at that moment, and pass. It is there before
//! the first port is published, and goes with the bridge. The file `guard` says that there may be one.

use std::fs;
use std::io::{self, PipeReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::NetworkError;
use super::lease::write_file;
use super::netavark::{PATH, bounded};
use crate::sys::die_with_parent;

/// Both come before addresses are translated; not every kernel of the older kind has the first.
const TABLES: [&str; 2] = ["raw", "mangle"];
/// Seconds to wait for somebody else's change of the rules.
const LOCK_SECONDS: &str = "20";
/// Rules of ours that are removed at most: there is one, and a killed process may have left another.
const MAX_RULES: usize = 8;

/// Sees that nothing for 127.0.0.0/8 comes in over the bridge, which need not be there yet. The caller holds the lock.
pub(super) fn guard(dir: &Path, bridge: &str) -> Result<(), NetworkError> {
    write_file(&dir.join("guard"), bridge)?;
    if TABLES.iter().any(|table| is_there(table, bridge)) {
        return Ok(());
    }
    let made = TABLES.iter().any(|table| succeeds(&rule(table, "-I", bridge)));
    if made || succeeds_with("nft", &["-f", "/dev/stdin"], &nft_table(bridge)) {
        return Ok(());
    }
    Err(NetworkError::NoGuard { bridge: bridge.to_owned() })
}

/// Takes the rule away, if there may be one. The caller holds the lock, and nobody uses the bridge.
pub(super) fn remove_guard(dir: &Path) {
    let path = dir.join("guard");
    let Ok(bridge) = fs::read_to_string(&path) else { return };
    for table in TABLES {
        let mut left = MAX_RULES;
        while left > 0 && is_there(table, &bridge) && succeeds(&rule(table, "-D", &bridge)) {
            left -= 1;
        }
    }
    let name = nft_name(&bridge);
    succeeds_with("nft", &["delete", "table", "ip", &name], "");
    drop(fs::remove_file(path));
}

fn is_there(table: &str, bridge: &str) -> bool {
    succeeds(&rule(table, "-C", bridge))
}

fn rule<'a>(table: &'a str, action: &'a str, bridge: &'a str) -> [&'a str; 12] {
    let to = ["-d", "127.0.0.0/8", "-j", "DROP"];
    ["-w", LOCK_SECONDS, "-t", table, action, "PREROUTING", "-i", bridge, to[0], to[1], to[2], to[3]]
}

fn succeeds(arguments: &[&str]) -> bool {
    succeeds_with("iptables", arguments, "")
}

fn nft_name(bridge: &str) -> String {
    format!("dockless_{}", bridge.replace('-', "_"))
}

/// The same where there is only nft. Declared twice, the table is there once; flushed, so is its rule.
fn nft_table(bridge: &str) -> String {
    let name = nft_name(bridge);
    format!(
        "table ip {name} {{}}\nflush table ip {name}\ntable ip {name} {{\n  chain guard {{\n    \
         type filter hook prerouting priority -300;\n    iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop\n  }}\n}}\n"
    )
}

/// Whether the program is there and ends well.
fn succeeds_with(program: &str, arguments: &[&str], input: &str) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "the distribution's own program, with nothing of anybody's environment"
    )]
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(input) = in_pipe(input) else { return false };
    command.stdin(input);
    die_with_parent(&mut command);
    matches!(bounded(&mut command), Ok(Some(true)))
}

/// Text that fits into a pipe.
fn in_pipe(text: &str) -> io::Result<PipeReader> {
    let (read, mut write) = io::pipe()?;
    write.write_all(text.as_bytes())?;
    Ok(read)
}
