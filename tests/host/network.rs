//! Private networks: addresses, names, ports, the way out, and that nothing of them stays.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::base::{app, app_with};
use crate::support::env::{Running, TestEnv, entries, finish, have, program, skip, tool, wait_until};

/// A directory of leases looks for a subnet without a route; two that look at once would find the same.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) fn private(env: Option<TestEnv>) -> Option<(TestEnv, MutexGuard<'static, ()>)> {
    let env = env?;
    let has_netavark =
        ["/usr/lib/podman", "/usr/libexec/podman"].iter().any(|dir| Path::new(dir).join("netavark").exists());
    let can_run =
        have(&["iptables", "ip"]) && (has_netavark || skip("netavark is not installed; scripts/setup does that"));
    can_run.then(|| (env, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Starts a script in a detached run of a private network; returns its name.
#[track_caller]
fn start(env: &TestEnv, flags: &[&str], script: &str) -> String {
    let name = env.name();
    let head = ["run", "-d", "--network", "private", "--name", &name];
    env.run([&head, flags, &["app", "sh", "-c", script]].concat()).code(0);
    name
}

fn address(env: &TestEnv, run: &str) -> String {
    env.record(run)["network"]["address"].as_str().unwrap().to_owned()
}

/// Fails unless bridge, leases, names and rules of this test's network are gone.
#[track_caller]
fn assert_no_network(env: &TestEnv, bridge: &str, address: &str) {
    assert!(!Path::new("/sys/class/net").join(bridge).exists(), "the bridge {bridge} is there");
    assert_eq!(entries(&env.network().join("leases")), Vec::<std::path::PathBuf>::new());
    assert_eq!(entries(&env.network().join("netavark/aardvark-dns")), Vec::<std::path::PathBuf>::new());
    let rules = tool("iptables-save", [""; 0]);
    assert!(!rules.contains(address), "rules for {address}:\n{rules}");
    assert!(!rules.contains(&format!("-i {bridge} -j DROP")), "the guard of {bridge} stays:\n{rules}");
    env.assert_clean();
}

/// The first line that a port of this machine says.
fn said_on(address: &str, port: &str) -> String {
    let mut said = String::new();
    wait_until(|| {
        let output = finish(&mut program("timeout", ["2", "busybox", "nc", "-w", "1", address, port]));
        output.stdout.trim().clone_into(&mut said);
        !said.is_empty()
    });
    said
}

#[test]
fn runs_talk_by_name_and_leave_nothing() {
    let Some((env, _guard)) = private(app()) else { return };
    let server = start(&env, &["--network-alias", "db"], "nc -ll -p 80 -e echo hello");
    let record = env.record(&server);
    let (bridge, there) = (record["network"]["bridge"].as_str().unwrap().to_owned(), address(&env, &server));
    let script = format!(
        "sed -n 's/^nameserver //p' /etc/resolv.conf; tail -n 1 /etc/hosts; ip route | head -n 1; ip -o addr show lo | wc -l; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; for name in {server} db {there}; do until timeout 2 nc -w 2 $name 80 </dev/null; do usleep 50000; done; done"
    );
    let flags = ["--network", "bridge", "--hostname", "box", "--mac-address", "02:42:0a:00:00:09"];
    let output = env.script(&flags, &format!("{script}; cat /sys/class/net/eth0/address"));
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    let gateway = record["network"]["gateway"].as_str().unwrap();
    assert_eq!(lines[0], gateway);
    assert!(lines[1].contains("\tbox "), "{text}");
    assert!(lines[2].starts_with(&format!("default via {gateway} dev eth0")), "{text}");
    assert_ne!(lines[3], "0");
    assert_eq!(lines[4..], ["0", "hello", "hello", "hello", "02:42:0a:00:00:09"]);
    env.run(["stop", "-g", "0s", &server]).code(0);
    assert_no_network(&env, &bridge, &there);
}

#[test]
fn published_ports_are_reached_and_taken() {
    let Some((env, _guard)) = private(app_with(|image| image)) else { return };
    let script = "nc -ll -p 80 -e echo web";
    let flags = ["-p", "80", "-p", "127.0.0.1::53/udp", "--expose", "81", "-P"];
    let run = start(&env, &flags, script);
    let (there, ports) = (address(&env, &run), env.record(&run)["ports"].clone());
    let of = |port: &str| {
        let place = env.run(["port", &run, port]).text();
        place.rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap()
    };
    let (web, dns) = (of("80"), of("53/udp"));
    assert_eq!(ports[0], format!("0.0.0.0:{web}->80/tcp"));
    assert!(env.run(["port", &run]).text().contains(&format!("53/udp -> 127.0.0.1:{dns}")));
    of("81/tcp");
    assert_eq!(said_on("127.0.0.1", &web), "web");
    let machine = tool("hostname", ["-I"]);
    let machine =
        machine.split_whitespace().find(|word| word.parse::<Ipv4Addr>().is_ok() && !word.starts_with("10.188."));
    if let Some(machine) = machine {
        assert_eq!(said_on(machine, &web), "web");
    }
    // Nobody listens in the container, and its kernel says so; the machine's own socket of that port would be silent.
    let asks = UdpSocket::bind("127.0.0.1:0").unwrap();
    asks.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    asks.connect(format!("127.0.0.1:{dns}")).unwrap();
    asks.send(b"x").unwrap();
    assert_eq!(asks.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let taken = env.container(&["--network", "private", "-p", &format!("{web}:80"), "app", "true"]).code(125);
    assert!(taken.stderr.contains(&format!("port {web} is in use")), "{}", taken.stderr);
    env.run(["stop", "-g", "0s", &run]).code(0);
    // Nobody listens any more.
    drop(TcpListener::bind(("0.0.0.0", web.parse().unwrap())).unwrap());
    assert!(!tool("iptables-save", [""; 0]).contains(&there));
    env.assert_clean();
}

/// Its namespace is another one, its address and its published port are the same.
#[test]
fn a_run_that_is_started_once_more_keeps_its_address() {
    let Some((env, _guard)) = private(app()) else { return };
    let script = "ip -o -4 addr show eth0 | awk '{ print $4 }'; echo x >>/n; [ $(wc -l </n) = 1 ] && exit 1; \
                  nc -ll -p 80 -e echo web";
    let run = start(&env, &["-p", "80", "--restart", "on-failure"], script);
    let record = env.record(&run);
    let (bridge, there) = (record["network"]["bridge"].as_str().unwrap().to_owned(), address(&env, &run));
    let port = env.run(["port", &run, "80"]).text().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(said_on("127.0.0.1", &port), "web");
    let shown = env.run(["logs", &run]).code(0).stdout;
    let addresses: Vec<&str> = shown.lines().map(|line| line.split('/').next().unwrap()).collect();
    assert_eq!(addresses, [&there, &there]);
    assert_eq!(address(&env, &run), there);
    assert_eq!(
        env.script(
            &["--network", "private"],
            &format!("until timeout 2 nc -w 2 {run} 80 </dev/null; do usleep 50000; done")
        )
        .text(),
        "web"
    );
    env.run(["stop", "-g", "0s", &run]).code(0);
    assert_no_network(&env, &bridge, &there);

    // Stopped while it waits, and killed then.
    for kills in [false, true] {
        let name = env.name();
        let arguments =
            ["run", "--network", "private", "-p", "80", "--name", &name, "--restart", "on-failure", "app", "false"];
        let running = Running::start(&mut env.command(arguments));
        let supervisor = running.supervisor();
        assert!(wait_until(|| env.record(&name)["restarts"] == 2));
        let there = address(&env, &name);
        if kills {
            kill(supervisor, Signal::SIGKILL).unwrap();
        } else {
            running.signal(Signal::SIGINT);
        }
        drop(running.finish());
        env.run(["ps"]).code(0);
        assert_no_network(&env, &bridge, &there);
    }
}

#[test]
fn what_a_killed_supervisor_leaves_the_next_command_takes_down() {
    let Some((env, _guard)) = private(app()) else { return };
    let name = env.name();
    let arguments =
        ["run", "--network", "private", "-p", "80", "--name", &name, "app", "sh", "-c", "echo up; sleep 1000"];
    let running = Running::start(&mut env.command(arguments));
    wait_until(|| env.run(["logs", &name]).stdout.contains("up"));
    let listed = env.run(["ps"]).text();
    assert!(listed.contains("   PORTS") && listed.contains("->80/tcp"), "{listed}");
    let record = env.record(&name);
    let (bridge, there) = (record["network"]["bridge"].as_str().unwrap().to_owned(), address(&env, &name));
    assert!(tool("iptables-save", [""; 0]).contains(&there));
    kill(nix::unistd::Pid::from_raw(running.pid()), Signal::SIGSTOP).unwrap();
    kill(running.supervisor(), Signal::SIGKILL).unwrap();
    wait_until(|| !record["pid"].as_i64().is_some_and(|pid| Path::new(&format!("/proc/{pid}/root/bin")).exists()));
    env.run(["ps"]).code(0);
    assert_eq!(env.record(&name)["exit"]["reason"], "supervisor_lost");
    assert!(!Path::new("/sys/class/net").join(&bridge).exists(), "the bridge {bridge} is there");
    assert!(!tool("iptables-save", [""; 0]).contains(&there));
    kill(nix::unistd::Pid::from_raw(running.pid()), Signal::SIGCONT).unwrap();
    running.finish();
    assert_no_network(&env, &bridge, &there);
}

#[test]
fn runs_at_once_have_different_addresses() {
    let Some((env, _guard)) = private(app()) else { return };
    let names: Vec<String> = (0..5).map(|_| env.name()).collect();
    let arguments = |name| ["run", "--network", "private", "--name", name, "app", "sleep", "0.5"];
    let running: Vec<Running> = names.iter().map(|name| env.spawn(arguments(name.as_str()))).collect();
    for running in running {
        running.finish().code(0);
    }
    let mut addresses: Vec<String> = names.iter().map(|name| address(&env, name)).collect();
    let (bridge, one) = (env.record(&names[0])["network"]["bridge"].as_str().unwrap().to_owned(), addresses[0].clone());
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), names.len());
    // A certain one may be had again.
    let flags = ["--network", "private", "--ip", &one, "app", "hostname", "-i"];
    assert_eq!(env.container(&flags).text(), one);
    assert_no_network(&env, &bridge, &one);
}

#[test]
fn what_a_private_network_needs_is_told() {
    let Some(env) = app() else { return };
    let mut command = env.command(["run", "--rm", "--network", "private", "app", "true"]);
    let output = finish(command.env("DOCKLESS_NETWORK_TOOLS", "/nowhere")).code(125);
    assert!(
        output.stderr.contains("needs `netavark`, which is in none of `/nowhere`\nhint: apt install"),
        "{}",
        output.stderr
    );
    for (flags, word) in [
        (&["-p", "80"][..], "`--publish` needs a private network, and the network is `host`"),
        (&["--network", "none", "-P"], "`--publish-all` needs a private network, and the network is `none`"),
        (&["--network", "private", "-p", "80:"], "`80:` is malformed"),
        (&["--network", "private", "--ip", "x"], "`x` is not an address"),
        (&["--network", "private", "--mac-address", "01:00:00:00:00:00"], "`01:00:00:00:00:00` is not"),
    ] {
        let output = env.container(&[flags, &["app", "true"]].concat()).code(125);
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
}
