//! Images of every shape that builders make, at the edges of what can be: each pulled or unpacked, and run.

use std::fs;

use crate::base::{app_with, base_image, empty};
use crate::faults::SmallDisk;
use crate::registry_service::RegistryService;
use crate::support::env::{Output, TestEnv, entries, find_program, finish, program, tool};
use crate::support::image::{Entry, ImageBuilder, Packing, descriptor, pack};
use crate::support::registry::base64;

/// The program with a bound on its open files.
fn with_files(env: &TestEnv, limit: &str, arguments: &[&str]) -> Output {
    let command = env.command(arguments);
    let mut limited = program("prlimit", [format!("--nofile={limit}")]);
    limited.arg(command.get_program()).args(command.get_args()).env_clear().current_dir(env.work());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    finish(&mut limited)
}

fn stack(layers: u32) -> ImageBuilder {
    // Whiteouts, implicit parents and hard links into the layer below, so that each layer is mended too.
    (0..layers).fold(base_image().dir("many").packing(Packing::Plain), |image, number| {
        let image =
            image.layer().file(&format!("many/{number}"), format!("{number}")).file("many/last", number.to_string());
        match number % 50 {
            49 => image.whiteout(&format!("many/{}", number - 1)),
            48 => image.hardlink(&format!("many/link{number}"), &format!("many/{}", number - 1)),
            _ => image,
        }
    })
}

#[test]
fn an_image_of_127_layers_runs_with_few_open_files() {
    let Some(env) = empty() else { return };
    env.store_image("app", &stack(125).build());
    let output = with_files(
        &env,
        "256:512",
        &["run", "--rm", "--name", &env.name(), "app", "sh", "-c", "ls /many | wc -l; cat /many/last"],
    );
    assert_eq!(output.text(), "126\n124");
    env.assert_clean();
}

#[test]
fn an_image_of_300_layers_runs() {
    let Some(env) = empty() else { return };
    env.store_image("app", &stack(298).build());
    // Of 298 files six are hidden, and six have a second name; one more tells who was last.
    let script = "cd /many; ls | wc -l; cat last link248 247; ls 248";
    for how in ["overlay", "copy"] {
        let words = ["run", "--rm", "--rootfs", how, "--name", &env.name(), "app", "sh", "-c", script];
        let output = with_files(&env, "256:1024", &words);
        assert_eq!(output.code, 1, "{how}: {} {}", output.stdout, output.stderr);
        assert_eq!(output.stdout, "299\n297247247", "{how}");
    }
    env.assert_clean();
}

/// An image without any layer: what runs in it is mounted.
#[test]
fn an_image_of_no_layers_and_one_of_nothing_run() {
    let Some(env) = empty() else { return };
    let busybox = find_program("busybox").expect("busybox-static is installed").display().to_string();
    let mut none = ImageBuilder::new().build();
    none.layers.clear();
    let config = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    none.config = config.as_bytes().to_vec();
    let config = descriptor("application/vnd.oci.image.config.v1+json", &none.config);
    let none = none.with_manifest(|manifest| {
        manifest["layers"] = serde_json::json!([]);
        manifest["config"] = config;
    });
    env.store_image("none", &none);
    env.store_image(
        "empty",
        &ImageBuilder::new().raw_layer("", "").raw_layer(vec![0; 10_240], vec![0; 10_240]).build(),
    );
    for image in ["none", "empty"] {
        for how in ["overlay", "copy"] {
            let mount = format!("{busybox}:/busybox:ro");
            let words = [
                "--rootfs",
                how,
                "-v",
                &mount,
                image,
                "/busybox",
                "sh",
                "-c",
                "echo fine; /busybox stat -c '%a %u:%g' /",
            ];
            assert_eq!(env.container(&words).text(), "fine\n755 0:0", "{image} as {how}");
        }
        env.container(&[image, "true"]).code(127);
    }
    env.assert_clean();
}

#[test]
fn a_path_of_four_thousand_bytes_is_reached() {
    let deep = "p".repeat(199);
    let deep = vec![deep; 19].join("/");
    let file = format!("{deep}/{}", "f".repeat(190));
    let Some(env) = app_with(|image| image.dir(&deep).file(&file, "reached").hardlink("short", &file)) else { return };
    for how in ["overlay", "copy"] {
        let script =
            "cd /; for i in $(seq 19); do cd p*; done; cat f*; stat -c ' %h' f*; find / -xdev -name 'fff*' | wc -c";
        assert_eq!(env.script(&["--rootfs", how], script).text(), "reached 2\n3992", "{how}");
    }
    env.assert_clean();
}

#[test]
fn a_file_of_eight_gigabytes_of_holes_takes_no_space() {
    let size = 8_u64 << 30;
    let holes = Entry::file("GNUSparseFile.0/big", "beginend")
        .pax("GNU.sparse.name", "big")
        .pax("GNU.sparse.size", size.to_string())
        .pax("GNU.sparse.map", format!("0,5,{},3", size - 3));
    let Some(env) = app_with(|image| image.entry(holes)) else { return };
    for how in ["overlay", "copy"] {
        let script = "stat -c %s /big; head -c 5 /big; tail -c 3 /big; du -k /big | cut -f 1";
        let output = env.script(&["--rootfs", how], script).text();
        let kilobytes = output.strip_prefix(&format!("{size}\nbeginend")).unwrap_or_else(|| panic!("{how}: {output}"));
        assert!(kilobytes.parse::<u64>().unwrap() <= 64, "{how}: {kilobytes} KiB");
    }
    env.assert_clean();
}

/// In memory: what is to be shown is not how long a busy disk takes to write as many inodes.
#[test]
fn a_layer_of_150_000_files_runs() {
    let Some(env) = empty() else { return };
    let _disk = SmallDisk::on(env.root(), "size=2g,nr_inodes=400000");
    let image = (0..150).fold(base_image().packing(Packing::Zstd), |image, dir| {
        let image = image.dir(&format!("many/{dir}"));
        (0..1000).fold(image, |image, file| image.file(&format!("many/{dir}/{file}"), ""))
    });
    env.store_image("app", &image.build());
    assert_eq!(env.script(&["-q"], "find /many -type f | wc -l; ls /many/149 | tail -n 1").text(), "150000\n999");
    env.run(["rmi", "app"]).code(0);
    assert!(env.stored().is_empty(), "{:?}", env.stored());
}

/// A full disk is told with what was to be written and what helps, and nothing of the layer stays.
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let Some(env) = empty() else { return };
    let image = base_image().layer().file("zeros", vec![0; 60 << 20]).build();
    let files = (0..3000).fold(base_image().layer(), |image, number| image.file(&format!("many/{number}"), "")).build();
    for (image, small, large) in [(image, "size=40m", "size=300m"), (files, "nr_inodes=2000", "nr_inodes=9000")] {
        let disk = SmallDisk::on(env.root(), small);
        env.store_image("app", &image);
        let blobs = env.stored();
        // Both layers are unpacked at once: either may meet the end of the disk, or see it coming.
        env.container(&["app", "true"]).refused(125, &["space", "`dockless rmi` removes images"]);
        let left: Vec<_> = env.stored().into_iter().filter(|path| !blobs.contains(path)).collect();
        // What was complete may stay; the layer that did not fit has left nothing.
        assert!(left.len() < image.layers.len(), "{left:?}");
        assert_eq!(entries(&env.root().join("tmp")), Vec::<std::path::PathBuf>::new());
        disk.grow(large);
        env.container(&["app", "true"]).code(0);
        assert_eq!(entries(&env.root().join("tmp")), Vec::<std::path::PathBuf>::new());
    }
}

/// `chown` with `cap_chown+ep`, and the same without it.
#[test]
fn capabilities_of_files_work_for_other_users() {
    let program = find_program("busybox").map(|path| fs::read(path).unwrap()).unwrap_or_default();
    // VFS_CAP_REVISION_2 with the effective bit; CAP_CHOWN is bit 0 of what is permitted.
    let mut capability = [0; 20];
    (capability[0], capability[3], capability[4]) = (1, 2, 1);
    let image = |image: ImageBuilder| {
        image
            .entry(Entry::file("cap/chown", &program).mode(0o755).owner(7, 8).xattr("security.capability", capability))
            .entry(Entry::file("plain/chown", &program).mode(0o755))
            .entry(Entry::file("mine", "").owner(1000, 1001))
            // The same file under another name, in a layer above and copied up there.
            .layer()
            .hardlink("cap/linked/chown", "cap/chown")
    };
    let Some(env) = app_with(image) else { return };
    for how in ["overlay", "copy"] {
        let script = "/plain/chown 12:34 /mine 2>/dev/null || echo refused; /cap/chown 12:34 /mine; stat -c %u:%g /mine; \
                      /cap/linked/chown 5:6 /mine; stat -c %u:%g /mine";
        assert_eq!(env.script(&["-u", "app", "--rootfs", how], script).text(), "refused\n12:34\n5:6", "{how}");
    }
    env.assert_clean();
}

#[test]
fn access_control_lists_work() {
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    // user::rw- user:1000:r-- group::--- mask::r-- other::---, as the kernel stores it.
    let none = u32::MAX;
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 4, 1000),
        entry(4, 0, none),
        entry(16, 4, none),
        entry(32, 0, none),
    ];
    let acl = acl.concat();
    let image = |image: ImageBuilder| {
        image
            .entry(Entry::file("schily", "one").mode(0o640).xattr("system.posix_acl_access", &acl))
            .entry(
                Entry::file("libarchive", "two")
                    .mode(0o640)
                    .pax("LIBARCHIVE.xattr.system.posix_acl_access", base64(&acl)),
            )
            .entry(Entry::file("none", "three").mode(0o640))
            .entry(Entry::dir("inherits").mode(0o777).xattr("system.posix_acl_default", &acl))
            .file("inherits/not", "four")
    };
    let Some(env) = app_with(image) else { return };
    for how in ["overlay", "copy"] {
        let script = "cd /; cat schily libarchive none inherits/not 2>&1; stat -c '%a' schily inherits/not";
        let shown = env.script(&["-u", "app", "--rootfs", how], script).text();
        assert_eq!(shown, "onetwocat: can't open 'none': Permission denied\nfour640\n644", "{how}");
        let script = "touch /inherits/new; stat -c %a /inherits/new";
        assert_eq!(env.script(&["--rootfs", how], script).text(), "640", "{how}: what is new inherits");
    }
    env.assert_clean();
}

/// What a layer is packed with is told by its first bytes, whatever its media type says.
#[test]
fn layers_of_many_members_and_frames_run() {
    let layer = |name: &str| {
        let tar = ImageBuilder::new().packing(Packing::Plain).file(name, format!("{name} ").repeat(30_000)).build();
        tar.layers.into_iter().next().unwrap().bytes
    };
    let parts =
        |bytes: &[u8], packing| -> Vec<u8> { bytes.chunks(50_000).flat_map(|part| pack(part, packing)).collect() };
    let skippable =
        |length: u8| [&[0x5a, 0x2a, 0x4d, 0x18, length, 0, 0, 0], vec![b'x'; length.into()].as_slice()].concat();
    // A header with all optional fields (RFC 1952, 2.3): extra, name, comment.
    let fields = |tar: &[u8]| {
        let builder =
            flate2::GzBuilder::new().extra(vec![b'A', b'p', 2, 0, 1, 2]).filename("layer.tar").comment("a comment");
        let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, tar).unwrap();
        encoder.finish().unwrap()
    };
    let tars = ["a", "b", "c", "d", "e"].map(layer);
    let image = |image: ImageBuilder| {
        image
            .raw_layer([parts(&tars[0], Packing::Gzip), vec![0; 700]].concat(), tars[0].as_slice())
            .raw_layer(fields(&tars[1]), tars[1].as_slice())
            .raw_layer([skippable(40), parts(&tars[2], Packing::Zstd), skippable(0)].concat(), tars[2].as_slice())
            // Plain, under gzip's media type.
            .raw_layer(tars[3].as_slice(), tars[3].as_slice())
            // Gzip under none.
            .packing(Packing::Plain)
            .raw_layer(pack(&tars[4], Packing::Gzip), tars[4].as_slice())
    };
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "cd /; stat -c %s a b c d e | uniq -c | tr -s ' '; tail -c 2 e").text(), "5 60000\ne");
    env.assert_clean();
}

/// Zstd in chunks has a table of contents behind it, in frames to be skipped.
#[test]
fn a_chunked_zstd_image_from_a_real_registry_runs() {
    let Some(env) = empty() else { return };
    let Some(registry) = RegistryService::start() else { return };
    let layout = env.dir().join("layout");
    base_image().file("hello", "chunked").dir("d").symlink("d/l", "../hello").build().write_layout(&layout, "tag");
    let reference = format!("{}/chunked:1", registry.host());
    let from = format!("oci:{}:tag", layout.display());
    let to = format!("docker://{reference}");
    let flags = ["--dest-compress-format", "zstd:chunked", "--dest-force-compress-format", "--dest-tls-verify=false"];
    // Older ones compress what is not yet compressed only.
    let newer = finish(&mut program("skopeo", ["copy", "--quiet"].iter().chain(&flags).chain(&[from.as_str(), &to])));
    if newer.code != 0 {
        let plain = env.dir().join("plain");
        tool("skopeo", ["copy", "--quiet", "--dest-decompress", &from, &format!("dir:{}", plain.display())]);
        let from = format!("dir:{}", plain.display());
        tool("skopeo", ["copy", "--quiet", flags[0], flags[1], flags[3], &from, &to]);
    }
    let manifest = tool("skopeo", ["inspect", "--raw", "--tls-verify=false", &to]);
    assert!(manifest.contains("zstd"), "skopeo did not compress: {manifest}");
    assert!(manifest.contains("chunked"), "no table of contents is named: {manifest}");
    assert_eq!(env.container(&["-q", &reference, "cat", "/d/l"]).text(), "chunked");
    env.assert_clean();
}
