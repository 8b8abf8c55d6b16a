//! What a workflow needs of the machine: cores, memory, GPUs, ports; and of the registry: a credential of its own.

use std::net::TcpListener;

use crate::base::{app, base_image};
use crate::support::env::{Running, TestEnv, finish_with};
use crate::support::registry::TestRegistry;

/// One workflow, `w`, in the image `app`, with these further keys.
fn write(env: &TestEnv, keys: &str, command: &str) {
    env.write(
        ".dstack/workflows.yaml",
        format!("workflows:\n  - name: w\n    image: app\n    commands: ['{command}']\n    {keys}\n"),
    );
}

#[test]
fn what_the_machine_lacks_is_told_at_once_and_may_be_ignored() {
    let Some(env) = app() else { return };
    let resources = "resources: { cpu: 9999, memory: 900TB, shm_size: 900TB, gpu: { name: H200, count: 99 } }";
    write(&env, resources, "true");
    env.run(["workflow", "run", "w"]).refused(
        125,
        &[
            "\n  cpu: asked 9999, this machine has ",
            "\n  memory: asked 900 TB, this ",
            "\n  shm_size: asked 900 TB, this ",
            "\n  gpu: asked for 99 × H200",
            "--ignore-host-check",
        ],
    );
    assert!(crate::support::env::entries(&env.root().join("runs")).is_empty());
    env.assert_clean();
    write(&env, "resources: { cpu: 9999, memory: 900TB }", "echo ran");
    let output = env.run(["workflow", "run", "--ignore-host-check", "w"]).code(0);
    assert_eq!(output.stdout, "ran\n");
    assert!(output.stderr.contains("warning: going on although this machine cannot give"), "{}", output.stderr);
    assert!(output.stderr.contains("cpu: asked 9999"), "{}", output.stderr);
    env.assert_clean();
}

/// Starts `w` and waits until it says `ready`; it goes on until there is a file `stop`.
#[track_caller]
fn hold(env: &TestEnv, name: &str) -> Running {
    let running = env.spawn(["workflow", "run", "w", "--name", name]);
    running.wait_for("ready");
    running
}

#[test]
fn what_a_run_holds_another_cannot_have() {
    let Some(env) = app() else { return };
    let name = env.name();
    let cores = dockless::container::cpu_count();
    write(
        &env,
        &format!("resources: {{ cpu: {cores}, memory: 64MiB }}"),
        "echo ready; until test -e stop; do usleep 20000; done",
    );
    let running = hold(&env, &name);
    let second = env.run(["workflow", "run", "w"]);
    let cpu = format!("cpu: asked {cores}, this machine has {cores}, {cores} of it reserved by run `{name}`");
    let second = second.refused(125, &[&cpu]);
    assert!(!second.stderr.contains("memory:"), "of memory there is enough: {}", second.stderr);
    // As docker does, a run of an image takes its share with the others.
    assert_eq!(env.run(["run", "--rm", "--cpus", "1", "--name", &env.name(), "app", "echo", "hi"]).text(), "hi");
    env.write("stop", "");
    running.finish().code(0);
    env.run(["workflow", "run", "w"]).code(0);
    env.assert_clean();
}

#[test]
fn a_port_must_be_free() {
    let Some(env) = app() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    write(&env, &format!("ports: [{port}]"), "echo ran");
    let holder = format!("port {port} is in use: process {} (`", std::process::id());
    env.run(["workflow", "run", "w"]).refused(125, &[&holder, "hint: "]);
    env.assert_clean();
    drop(listener);
    let name = env.name();
    assert_eq!(env.run(["workflow", "run", "w", "--name", &name]).code(0).stdout, "ran\n");
    assert_eq!(env.record(&name)["ports"], serde_json::json!([port.to_string()]));
    write(&env, &format!("ports: ['{}:{port}']", if port == 9 { 10 } else { 9 }), "echo ran");
    let output = env.run(["workflow", "run", "w"]).code(0);
    assert!(output.stderr.contains(&format!("the workload is reached on {port}, not on ")), "{}", output.stderr);
    env.assert_clean();
}

#[test]
fn registry_auth_is_used_and_never_shown() {
    let Some(env) = app() else { return };
    let registry = TestRegistry::start();
    registry.push("private:1", &base_image().build());
    registry.require_basic("ann-of-secrets", "s3cret-pass");
    let add = |name: &str, value: &str| {
        finish_with(&mut env.command(["secrets", "add", "--force", name]), value.as_bytes()).code(0);
    };
    add("USER_NAME", "ann-of-secrets");
    add("PASSWORD", "s3cret-pass");
    env.write(
        ".dstack/workflows.yaml",
        format!(
            "workflows:\n  - name: w\n    image: {}/private:1\n    commands: [echo ran]\n    registry_auth:\n      \
             username: ${{{{ secrets.USER_NAME }}}}\n      password: ${{{{ secrets.PASSWORD }}}}\n",
            registry.host()
        ),
    );
    let name = env.name();
    let output = env.run(["-vv", "workflow", "run", "w", "--name", &name]).code(0);
    assert_eq!(output.stdout, "ran\n");
    let record = env.record(&name).to_string();
    for secret in ["ann-of-secrets", "s3cret-pass"] {
        assert!(!output.stderr.contains(secret) && !record.contains(secret), "{}\n{record}", output.stderr);
    }
    add("PASSWORD", "wr0ng-pass");
    let output = env.run(["-vv", "workflow", "run", "w", "--pull", "always"]);
    assert_eq!(output.code, 125, "{output:?}");
    assert!(output.stderr.contains("asked with the credential from `registry_auth`\nhint: "), "{}", output.stderr);
    assert!(!output.stderr.contains("wr0ng-pass") && !output.stderr.contains("ann-of-secrets"), "{}", output.stderr);
    env.assert_clean();
}
