//! `--add-host`, `--dns`, `--dns-search`, `--dns-option`: how a container looks names up.

use crate::base::app;

#[test]
fn names_are_added_and_servers_replaced() {
    let Some(env) = app() else { return };
    let flags = [
        "--add-host",
        "db:10.0.0.5",
        "--add-host",
        "six=[2001:db8::1]",
        "--add-host",
        "me:host-gateway",
        "--dns",
        "10.0.0.2",
        "--dns",
        "10.0.0.3",
        "--dns-search",
        "a.org",
        "--dns-search",
        "b.org",
        "--dns-option",
        "ndots:3",
        "--dns-opt",
        "rotate",
    ];
    let script =
        "tail -n 3 /etc/hosts; grep -v '^#' /etc/resolv.conf; grep -c localhost /etc/hosts >/dev/null && echo more";
    assert_eq!(
        env.script(&flags, script).text(),
        "10.0.0.5\tdb\n2001:db8::1\tsix\n127.0.0.1\tme\n\
         search a.org b.org\nnameserver 10.0.0.2\nnameserver 10.0.0.3\noptions ndots:3 rotate\nmore"
    );
    // The programs of the container believe it.
    let output = env.script(&["--network", "none", "--add-host", "there:127.0.0.1"], "ping -c 1 -w 2 there");
    assert!(output.stdout.contains("PING there (127.0.0.1)"), "{output:?}");
    let search = env.script(&["--dns-search", "."], "grep -c '^search' /etc/resolv.conf; true").text();
    assert_eq!(search, "0");
}

#[test]
fn bad_values_are_refused_before_anything_is_made() {
    let Some(env) = app() else { return };
    for (flag, value, words) in [
        ("--add-host", "db", "`NAME:ADDRESS`"),
        ("--add-host", "db:1.2.3", "an IP address or `host-gateway`"),
        ("--add-host", "d b:1.2.3.4", "a host name"),
        ("--dns", "dns.org", "an IP address"),
        ("--dns-search", "a..org", "a domain"),
        ("--dns-option", "a b", "one option"),
        ("--domainname", "a_b", "malformed"),
        ("--hostname", "-a", "malformed"),
    ] {
        env.container(&[&format!("{flag}={value}"), "app"]).refused(125, &[words]);
    }
    let flags = ["--network", "none", "--add-host", "me:host-gateway", "app"];
    env.container(&flags).refused(125, &["no way leads to this machine"]);
    env.assert_clean();
}
