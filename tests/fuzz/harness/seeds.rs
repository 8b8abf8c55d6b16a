//! What the targets start from, made by code, with a name for each.

use std::io::Write;

use super::Target;
use super::documents::CONFIG;
use super::inflate::{gzip, skippable, window, zstd_frame};
use crate::image::{Digest, MediaType};
use crate::rootfs::testing::{Item, device, dir, entry, file, hardlink, header, symlink, tar, whiteout};

/// The inputs that a target starts from.
#[must_use]
pub fn seeds(target: Target) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        Target::Tar => archives(),
        Target::Stack => stacks(),
        Target::Inflate => streams(),
        Target::Documents => documents(),
    }
}

/// An input whose first byte chooses.
fn chosen(choice: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[choice], rest.as_ref()].concat()
}

fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let long = "l".repeat(150);
    let kinds = [
        dir("./").mode(0o711),
        dir("d").mode(0o1777).owner(1, 2).at(-1, 5),
        file("d/f", "content").owner(4_294_967_294, 3).xattr("user.a", "1").xattr("security.capability", [1, 0, 0, 2]),
        symlink("d/s", "../../x"),
        hardlink("h", "d/f"),
        device("null", b'3', 1, 3),
        device("disk", b'4', 8, 1),
        Item::new("pipe", b'6'),
        file(&long, ""),
        symlink(format!("{long}2"), &long),
    ];
    let ways_out = [
        symlink("l", "/victim"),
        file("l/file", "evil"),
        symlink("m", "../../../../../../victim"),
        hardlink("h", "m/file"),
        file("h", "evil"),
        file("../../../../file", "evil"),
        dir("l/sub").mode(0o777),
        symlink("p", "/proc/self/cwd"),
        file("p/file", "evil"),
        whiteout("l/.wh.file"),
    ];
    let hiding =
        [dir("d"), file("d/a", ""), whiteout("d/.wh.a"), whiteout(".wh.d"), whiteout("e/.wh..wh..opq"), dir("e")];
    let parents = [file("a/b/c/d", "x"), file("a/b", "in the way"), dir("a"), symlink("a/x", "."), file("a/x/x/y", "")];
    let sparse = file("GNUSparseFile.0/s", "ab")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.size", "5000000")
        .pax("GNU.sparse.map", "0,1,4000000,1");
    let map_inside = file("GNUSparseFile.1/s", [b"2\n0\n1\n9\n1\n".as_slice(), &[0; 501], b"ab"].concat())
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "inside")
        .pax("GNU.sparse.realsize", "10");
    let mut named = entry(&Item { content: b"name\0".to_vec(), ..Item::new("././@LongLink", b'L') });
    named.extend(tar(&[file("short", "x")]));
    let mut global = entry(&file("g", b"19 uid=4294967294\n"));
    global[156] = b'g';
    global.extend(tar(&[file("short", "x")]));
    let mut old_sparse = header(&Item::new("old", b'S'), 1).to_vec();
    old_sparse[257..265].copy_from_slice(b"ustar  \0");
    old_sparse[386..410].copy_from_slice(b"00000000010\x0000000000001\0");
    old_sparse[483..495].copy_from_slice(b"00000000011\0");
    old_sparse.extend([b'x'; 512]);
    old_sparse.extend([0; 1024]);
    vec![
        ("kinds", chosen(1, tar(&kinds))),
        ("kinds-in-two", chosen(3, tar(&kinds))),
        ("ways-out", chosen(1, tar(&ways_out))),
        ("ways-out-in-two", chosen(3, tar(&ways_out))),
        ("hiding", chosen(3, tar(&hiding))),
        ("parents", chosen(1, tar(&parents))),
        ("sparse", chosen(1, tar(&[sparse, map_inside]))),
        ("sparse-old", chosen(1, old_sparse)),
        ("gnu-name", chosen(1, named)),
        ("pax-global", chosen(1, global)),
        ("unsealed", chosen(0, tar(&[file("f", "x")]))),
        ("empty", chosen(0, [0; 1024])),
        ("nothing", chosen(0, "")),
    ]
}

/// Any bytes are layers; these are some.
fn stacks() -> Vec<(&'static str, Vec<u8>)> {
    let mixed = |seed: u8, length: u16| -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(next).collect()
    };
    vec![
        ("one", mixed(1, 40)),
        ("two", mixed(2, 80)),
        ("three", mixed(3, 160)),
        ("many", mixed(4, 300)),
        ("more", mixed(5, 300)),
        ("most", mixed(6, 300)),
        ("nothing", Vec::new()),
    ]
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let text = b"some text, some text again, and more of some text".repeat(20);
    // A block of 128 KiB that is one byte, again and again.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    (0..100).for_each(|_| bomb.extend([0x02, 0x00, 0x10, b'x']));
    bomb.extend([1, 0, 0]);
    let mut best = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    best.write_all(&vec![0; 1 << 20]).unwrap();
    let named = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3], b"name\0".as_slice(), &gzip(&text)[10..]].concat();
    vec![
        ("plain", chosen(0, &text)),
        ("gzip", chosen(0, gzip(&text))),
        ("gzip-bomb", chosen(0, best.finish().unwrap())),
        ("gzip-named", chosen(0, named)),
        ("gzip-members", chosen(0, [gzip(&text), gzip(b""), gzip(b"x"), vec![0; 30]].concat())),
        ("gzip-head", chosen(1, &gzip(&text)[3..])),
        ("zstd", chosen(0, zstd_frame(&text))),
        ("zstd-bomb", chosen(0, bomb)),
        ("zstd-frames", chosen(0, [skippable(9), zstd_frame(&text), skippable(0), zstd_frame(b"x")].concat())),
        ("zstd-window-31", chosen(0, window(31))),
        ("zstd-window-27", chosen(0, window(27))),
        ("zstd-head", chosen(2, &zstd_frame(&text)[4..])),
        ("xz", chosen(0, b"\xfd7zXZ\0")),
        ("members", chosen(3, [0, 3, 9, 0, 2, 0, 9, 7, 7, 9, 99, 3, 2, 1])),
        ("frames", chosen(3, [1, 0, 9, 0, 3, 0, 5, 0, 9, 7, 7, 0, 9, 99, 3, 2, 1, 0, 1, 50, 9, 9])),
        ("cut", chosen(3, [1, 1, 30, 0, 2, 1, 200, 0, 9, 7, 1, 200, 0, 3, 3])),
    ]
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let digest = Digest::sha256(b"x");
    let described =
        |kind: &str| format!(r#"{{"mediaType":"{kind}","size":1,"digest":"{digest}","urls":["http://a"]}}"#);
    let layer = described("application/vnd.oci.image.layer.v1.tar+gzip");
    let config = described("application/vnd.oci.image.config.v1+json");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layer}]}}"#,
        MediaType::OCI_MANIFEST
    );
    let listed = format!(
        r#"{{"mediaType":"{}","size":{},"digest":"{}","platform":{{"os":"linux","architecture":"amd64","variant":"v2"}},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}"#,
        MediaType::OCI_MANIFEST,
        manifest.len(),
        Digest::sha256(manifest.as_bytes())
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{listed}]}}"#);
    let rich = CONFIG.replace(
        r#""config":{}"#,
        r#""created":"2026-01-01T00:00:00Z","config":{"User":"a","Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/d":{}},"Labels":{"a":"b"},"StopSignal":"INT"}"#,
    );
    let info = format!(
        r#"{{"schema":1,"diff_id":"{digest}","size_bytes":1,"entries":1,"mended":false,"has_root":true,"is_opaque":false}}"#
    );
    let listing = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#;
    let docker = tar(&[file("manifest.json", listing), file("c.json", CONFIG), file("l.tar", [0; 1024])]);
    let empty = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
    let named = format!("blobs/sha256/{}", Digest::sha256(empty.as_bytes()).hex());
    let layout = tar(&[
        file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        file("index.json", &index),
        file(named, &empty),
        symlink("x", "index.json"),
    ]);
    vec![
        ("reference", chosen(0, format!("localhost:5000/a/b_c:1.0@{digest}"))),
        ("short", chosen(0, "ubuntu:22.04")),
        ("address", chosen(0, "[::1]:5000/a")),
        ("hub", chosen(0, "docker://index.docker.io/library/a")),
        ("host-in-hub", chosen(0, "library/a.io/library/a")),
        ("source", chosen(0, "oci-archive:/a/b.tar:docker.io/library/a:1")),
        ("place", chosen(0, "docker-archive:a.tar:@1")),
        ("platform", chosen(0, "linux/arm/v7")),
        ("manifest", chosen(1, &manifest)),
        ("index", chosen(1, &index)),
        ("config", chosen(3, rich)),
        ("layer-info", chosen(4, info)),
        ("docker", chosen(5, listing)),
        ("layout", chosen(6, &index)),
        ("layout-number", chosen(6, "5")),
        ("docker-archive", chosen(7, &docker)),
        ("docker-archive-gzip", chosen(7, gzip(&docker))),
        ("layout-archive", chosen(7, layout)),
    ]
}
