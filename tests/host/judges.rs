//! Other people's programs as judges: the registry of Debian, images made by skopeo, umoci, buildah and debootstrap, our
//! store read by skopeo, our bundles run by runc.

use std::fs;

use crate::base::{app, base_image, debian_image, empty};
use crate::registry_service::RegistryService;
use crate::support::env::{TestEnv, finish, have, program, skip, tool};
use crate::support::image::ImageBuilder;
use crate::support::registry::base64;

/// The layout of an image that was made by code.
fn layout(env: &TestEnv, image: ImageBuilder) -> std::path::PathBuf {
    let dir = env.dir().join("layout");
    image.build().write_layout(&dir, "tag");
    dir
}

#[test]
fn an_image_from_a_real_registry_runs() {
    let Some(env) = empty() else { return };
    let Some(registry) = RegistryService::start() else { return };
    let reference = registry.push(&layout(&env, base_image().file("hello", "hello")), "tag", "team/app:1.0");
    assert_eq!(env.container(&["-q", &reference, "cat", "/hello"]).text(), "hello");
    assert_eq!(env.run(["images", "--format", "json"]).json()[0]["name"], reference);
    let missing = format!("{}/team/app:2.0", registry.host());
    env.container(&[&missing, "true"]).refused(125, &["/team/app` has no tag `2.0`", "hint: there are `1.0`"]);
    let missing = format!("{}/nobody/nothing:1", registry.host());
    env.container(&[&missing, "true"]).refused(125, &["nobody/nothing", "hint: "]);
    env.assert_clean();
    assert!(registry.dir().join("data").is_dir());
}

#[test]
fn a_registry_that_wants_a_password_gets_it() {
    let Some(env) = empty() else { return };
    let Some(registry) = RegistryService::start_guarded("ada", "correct horse") else { return };
    let reference = registry.push(&layout(&env, base_image().file("hello", "hello")), "tag", "app:1");
    let auth = |password: &str| {
        let entry = base64(format!("ada:{password}").as_bytes());
        serde_json::json!({ "auths": { registry.host(): { "auth": entry } } }).to_string()
    };
    let refusal = env.container(&[&reference, "true"]).refused(125, &["refuses access", "asked ", "hint: "]);
    assert!(refusal.stderr.contains("anonymous") || refusal.stderr.contains("without"), "{}", refusal.stderr);
    let docker = env.home().join(".docker/config.json");
    fs::create_dir(docker.parent().unwrap()).unwrap();
    fs::write(&docker, auth("wrong")).unwrap();
    let refusal = env.container(&[&reference, "true"]).refused(125, &["`ada`", docker.to_str().unwrap(), "hint: "]);
    assert!(!refusal.stderr.contains("wrong\""), "{}", refusal.stderr);
    env.assert_nothing_stored();
    fs::write(&docker, auth("correct horse")).unwrap();
    assert_eq!(env.container(&["-q", &reference, "cat", "/hello"]).text(), "hello");
    env.assert_clean();
}

#[test]
fn an_image_made_by_umoci_runs() {
    let Some(env) = empty() else { return };
    if !have(&["umoci", "skopeo"]) {
        return;
    }
    let Some(registry) = RegistryService::start() else { return };
    let root = env.work().join("root");
    fs::create_dir_all(root.join("data/empty")).unwrap();
    env.write("root/data/file", "by umoci");
    let base = layout(&env, base_image());
    let image = format!("{}:tag", base.display());
    tool("umoci", ["insert", "--image", &image, root.join("data").to_str().unwrap(), "/data"]);
    tool("umoci", ["insert", "--image", &image, "--whiteout", "/bin/vi"]);
    tool(
        "umoci",
        ["config", "--image", &image, "--config.cmd", "cat", "--config.cmd", "/data/file", "--config.user", "app"],
    );
    let reference = registry.push(&base, "tag", "umoci:1");
    assert_eq!(env.container(&["-q", &reference]).text(), "by umoci");
    assert_eq!(
        env.container(&[&reference, "sh", "-c", "id -u; ls -d /data/empty /bin/vi 2>/dev/null"]).stdout,
        "1000\n/data/empty\n"
    );
    env.assert_clean();
}

#[test]
fn an_image_made_by_buildah_runs() {
    let Some(env) = empty() else { return };
    if !have(&["buildah", "skopeo"]) {
        return;
    }
    let Some(registry) = RegistryService::start() else { return };
    let storage = env.dir().join("buildah");
    // Its own storage, without overlay, so that it works inside containers too.
    let buildah = |words: &[&str]| {
        let mut command = program("buildah", ["--storage-driver", "vfs"]);
        command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run")).args(words);
        finish(command.env("HOME", env.home()))
    };
    let made = buildah(&["from", "scratch"]);
    if made.code != 0 {
        skip(&format!("buildah does not work here: {}", made.stderr));
        return;
    }
    let container = made.text();
    buildah(&["copy", "--chmod", "0755", &container, "/bin/busybox", "/bin/busybox"]).code(0);
    let file = env.write("hello", "by buildah\n");
    buildah(&["copy", "--chown", "7:8", &container, &file, "/data/hello"]).code(0);
    buildah(&[
        "config",
        "--entrypoint",
        r#"["/bin/busybox"]"#,
        "--cmd",
        "cat /data/hello",
        "--workingdir",
        "/data",
        &container,
    ])
    .code(0);
    for (format, name) in [("oci", "buildah:oci"), ("docker", "buildah:docker")] {
        let reference = format!("{}/{name}", registry.host());
        buildah(&["commit", "--quiet", "--format", format, &container, &format!("localhost/{name}")]).code(0);
        buildah(&[
            "push",
            "--quiet",
            "--tls-verify=false",
            &format!("localhost/{name}"),
            &format!("docker://{reference}"),
        ])
        .code(0);
        assert_eq!(env.container(&["-q", &reference]).text(), "by buildah");
        assert_eq!(env.container(&[&reference, "stat", "-c", "%u:%g", "hello"]).text(), "7:8");
    }
    buildah(&["rm", "--all"]).code(0);
    env.assert_clean();
}

#[test]
fn a_real_debian_runs_under_limits() {
    let Some(env) = empty() else { return };
    if !have(&["debootstrap", "skopeo"]) {
        return;
    }
    let Some(registry) = RegistryService::start() else { return };
    let reference = registry.push(&layout(&env, debian_image()), "tag", "debian:12");
    let limits = ["--cpus", "0.5", "-m", "128m", "--shm-size", "256m"];
    let script = "cat /etc/os-release; df -h /dev/shm; nproc";
    let output = env.container(&[&limits[..], &[&reference, "sh", "-c", script]].concat()).code(0);
    assert!(output.stdout.contains("Debian GNU/Linux 12 (bookworm)"), "{}", output.stdout);
    assert!(output.stdout.contains("256M"), "{}", output.stdout);
    let processors = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!(output.stdout.lines().last(), Some(processors.as_str()));
    // What a real distribution has that busybox has not: dpkg's database, setuid programs, links of all kinds.
    let script = "dpkg --verify; stat -c '%a %U:%G' /usr/bin/passwd /var/mail /tmp; su nobody -s /bin/sh -c id; apt-get --version | head -c 3";
    let output = env.container(&["-q", &reference, "bash", "-c", script]).text();
    assert!(output.contains("4755 root:root\n2775 root:mail\n1777 root:root\nuid=65534(nobody)"), "{output}");
    assert!(output.ends_with("apt"), "{output}");
    env.assert_clean();
}

#[test]
fn skopeo_reads_our_store() {
    let Some(env) = empty() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let registry = crate::support::registry::TestRegistry::start();
    let image = base_image().label("who", "me").build();
    let reference = registry.push("team/app:1.0", &image).to_string();
    env.run(["pull", "-q", &reference]).code(0);
    let shown = tool("skopeo", ["inspect", &format!("oci:{}:{reference}", env.root().display())]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["Digest"], image.digest().to_string());
    assert_eq!(shown["Labels"]["who"], "me");
    assert_eq!(shown["Layers"].as_array().unwrap().len(), image.layers.len());
    // And copies it, which checks every blob.
    let copy = env.dir().join("copy");
    let from = format!("oci:{}:{reference}", env.root().display());
    tool("skopeo", ["copy", "--quiet", &from, &format!("oci:{}:tag", copy.display())]);
    assert!(copy.join("index.json").is_file());
}

/// The other way round: what skopeo put into our store is run, under the short name it was given.
#[test]
fn an_image_that_skopeo_put_into_our_store_runs() {
    let Some(env) = app() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let other = layout(&env, base_image().file("hello", "by skopeo"));
    let to = format!("oci:{}:mine", env.root().display());
    tool("skopeo", ["copy", "--quiet", &format!("oci:{}:tag", other.display()), &to]);
    assert_eq!(env.container(&["--pull", "never", "mine", "cat", "/hello"]).text(), "by skopeo");
    env.container(&["--pull", "never", "app", "true"]).code(0);
}

#[test]
fn runc_runs_our_bundle() {
    let Some(env) = app() else { return };
    if !have(&["runc"]) {
        return;
    }
    let script = "cat /etc/passwd | head -n 1; echo $A; pwd; id -u; grep Seccomp: /proc/self/status; unshare -U true; echo refused $?";
    let flags = ["-e", "A=of the flags", "-w", "/tmp/made", "-m", "64m", "-u", "app"];
    let bundle = env.work().join("bundle");
    env.run(["bundle"].iter().chain(&flags).copied().chain(["app", bundle.to_str().unwrap(), "sh", "-c", script]))
        .code(0);
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert!(!spec["process"]["terminal"].as_bool().unwrap_or(false));
    let mut command = program("runc", ["--root"]);
    command.arg(env.dir().join("runc")).args(["run", "--bundle"]).arg(&bundle).arg(env.name());
    let output = finish(&mut command).code(0);
    assert_eq!(output.stdout, "root:x:0:0:root:/root:/bin/sh\nof the flags\n/tmp/made\n1000\nSeccomp:\t2\nrefused 1\n");
    assert!(output.stderr.contains("Operation not permitted"), "{}", output.stderr);
    // A directory that is there is not written over.
    env.run(["bundle", "app", bundle.to_str().unwrap()]).refused(125, &[bundle.to_str().unwrap()]);
    fs::remove_dir_all(env.dir().join("runc")).unwrap();
    env.assert_clean();
}
