//! What runs use, and the processes they consist of.

use serde_json::Value;

use crate::base::app;
use crate::control::start;
use crate::support::env::{Output, Running, TestEnv, program, tool, wait_until};

#[track_caller]
fn lines(output: Output) -> Vec<Value> {
    output.code(0).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn end(env: &TestEnv, name: &str) {
    env.run(["kill", name]).code(0);
}

/// The keys are those of the table below a heading of `docs/json.md`.
#[track_caller]
fn assert_documented(value: &Value, heading: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split_once(&format!("{heading}\n")).unwrap().1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let documented: Vec<&str> = rows.skip(2).map(|row| row.split('`').nth(1).unwrap()).collect();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, documented, "{heading}");
}

#[test]
fn stats_tell_what_a_run_uses() {
    let Some(env) = app() else { return };
    let [busy, idle] = [env.name(), env.name()];
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; echo ready; while :; do :; done";
    let spinner = env.spawn(["run", "-m", "100m", "--network", "none", "--name", &busy, "app", "sh", "-c", script]);
    spinner.wait_for("ready");
    let other = start(&env, &[], &idle);
    let both = lines(env.run(["stats", "--no-stream", "--format", "json"]));
    assert_eq!(both.len(), 2, "{both:?}");
    let one = lines(env.run(["stats", "--no-stream", "--format", "json", &busy])).remove(0);
    assert_eq!(one["run"].as_str(), Some(&*busy));
    let number = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("{key} in {one}"));
    assert!(number("cpu_percent") > 10.0 && number("cpu_percent") < 400.0, "{one}");
    assert_eq!(one["memory_limit"].as_u64(), Some(100 << 20));
    assert!(number("memory") >= f64::from(20 << 20) && number("memory_percent") > 19.0, "{one}");
    assert_eq!((one["shm"].as_u64(), one["shm_size"].as_u64()), (Some(20 << 20), Some(64 << 20)));
    // Its own network has sent nothing; the machine's is not the other's.
    assert_eq!((one["network_received"].as_u64(), one["network_sent"].as_u64()), (Some(0), Some(0)));
    let of_idle = both.iter().find(|stats| stats["run"] == *idle).unwrap();
    assert!(of_idle.get("network_received").is_none() && of_idle["pids"].as_u64() >= Some(1), "{of_idle}");

    assert_documented(&one, "## A line of `stats`");

    let table = env.run(["stats", "--no-stream"]).text();
    let header = table.lines().next().unwrap();
    assert!(header.starts_with("RUN ") && header.contains("MEM USAGE / LIMIT") && !table.contains('\u{1b}'), "{table}");
    assert!(table.lines().any(|line| line.starts_with(&*busy) && line.contains("20 MiB / 64 MiB")), "{table}");
    // With a name it ends with the run.
    let stream = env.spawn(["stats", "--format", "json", &busy]);
    stream.wait_for("cpu_percent");
    end(&env, &busy);
    stream.finish().code(0);
    spinner.finish().code(137);
    env.run(["stats", "--no-stream", &busy]).refused(125, &[&format!("run `{busy}` is not running")]);
    // Without, it goes on, and the ended one is gone.
    let left = lines(env.run(["stats", "--no-stream", "--format", "json"]));
    assert_eq!(left.iter().map(|stats| stats["run"].as_str().unwrap()).collect::<Vec<_>>(), [&*idle]);
    end(&env, &idle);
    other.finish().code(137);
    env.assert_clean();
}

/// Each table takes the place of the one before, and nothing is cleared that is not written again at once.
#[test]
fn a_terminal_is_drawn_over() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &[], &name);
    let stats = env.command(["stats", &name]);
    let words: Vec<&str> =
        [stats.get_program()].into_iter().chain(stats.get_args()).map(|w| w.to_str().unwrap()).collect();
    let shown = Running::start(&mut program("script", ["-qec", &words.join(" "), "/dev/null"]));
    shown.wait_for("\u{1b}[1A\rRUN");
    shown.wait_for("\u{1b}[2A\rRUN");
    end(&env, &name);
    let screen = shown.finish().code(0).stdout;
    assert!(!screen.contains("\u{1b}[2J") && screen.contains(&*name), "{screen:?}");
    run.finish().code(137);
    env.assert_clean();
}

#[test]
fn top_lists_processes_under_both_their_numbers() {
    let Some(env) = app() else { return };
    let name = env.name();
    // An argument that would paint the terminal red, if it could.
    let script = "echo 'echo ready; while :; do usleep 20000; done' > /tmp/x; sh /tmp/x \"$(printf '\\033[31mred')\"";
    let run = env.spawn(["run", "--user", "1000", "--name", &name, "app", "sh", "-c", &format!("{script} & wait")]);
    run.wait_for("ready");
    let processes = || env.run(["top", "--format", "json", &name]).json().as_array().unwrap().clone();
    let init = env.record(&name)["pid"].as_i64().unwrap();
    assert!(wait_until(|| processes().len() >= 2));
    let all = processes();
    let first = all.iter().find(|process| process["container_pid"] == 1).unwrap();
    assert_eq!((first["pid"].as_i64(), first["uid"].as_i64()), (Some(init), Some(1000)));
    let second = all.iter().find(|process| process["command"].as_str().unwrap().starts_with("sh /tmp/x")).unwrap();
    assert!(second["command"].as_str().unwrap().ends_with("\u{1b}[31mred"), "{second}");
    assert!(second["parent"].as_i64() >= Some(init), "{second}");
    assert_documented(second, "## A process of `top`");
    let table = env.run(["top", &name]).text();
    assert!(!table.contains('\u{1b}') && table.contains("\\u{1b}[31mred"), "{table}");
    assert!(table.starts_with("PID "), "{table}");
    // With options of ps numbers and users are the machine's, with podman's names the container's.
    let cells = |words: &[&str]| {
        let text = env.run([&["top", &name], words].concat()).text();
        let mut lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        (lines.next().unwrap(), lines.find(|line| line.concat().contains("sh") && !line.concat().contains("/tmp/x")))
    };
    let host = ["ps", "-o", "ppid=,pgid=,nice=,vsz=,nlwp=", "-p", &init.to_string()].map(str::to_owned);
    let told = tool("ps", &host[1..]);
    let told: Vec<&str> = told.split_whitespace().collect();
    let (header, line) = cells(&["-o", "ppid,pgid,ni,vsz,nlwp,comm=NAME,pid"]);
    assert_eq!(header, ["PPID", "PGID", "NI", "VSZ", "NLWP", "NAME", "PID"]);
    assert_eq!(line.unwrap(), [&told[..], &["sh", &init.to_string()]].concat());
    let (header, line) = cells(&["pid", "hpid", "ppid", "user", "seccomp", "tty", "comm"]);
    assert_eq!(header, ["PID", "HPID", "PPID", "USER", "SECCOMP", "TTY", "COMMAND"]);
    assert_eq!(line.unwrap(), ["1", &init.to_string(), "0", "app", "filter", "?", "sh"]);
    for preset in ["aux", "-ef"] {
        let text = env.run(["top", &name, preset]).text();
        assert!(text.contains(&init.to_string()) && text.contains("sh /tmp/x"), "{text}");
    }
    env.run(["top", &name, "pid", "colour"]).refused(125, &["`colour` is unknown to `top`, expected one of", "hint: "]);
    env.run(["top", &name, "--format", "json", "-o", "pid"]).refused(125, &["no columns"]);
    end(&env, &name);
    run.finish().code(137);
    env.run(["top", &name]).refused(125, &["is not running"]);
    env.assert_clean();
}
