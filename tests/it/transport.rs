//! Arguments of `pull`, `load`, `save` and `tag` that are refused before anything is looked at.

use crate::support::env::TestEnv;
use crate::support::image::ImageBuilder;

#[test]
fn sources_that_are_none_are_refused() {
    let env = TestEnv::new();
    for (source, words) in [
        ("oci:", "`oci:` has no path, expected `oci:DIR[:NAME]`"),
        ("oci-archive::x", "expected `oci-archive:FILE[:NAME]`"),
        ("docker-archive:x.tar:A B", "has a bad image name `A B`\nhint: a path must not hold a colon"),
        ("dir:/x", "has the transport `dir`, expected `oci`"),
        ("docker-daemon:a/b:1", "hint: `docker save -o FILE IMAGE`"),
        ("docker://", "image reference is empty"),
        ("oci-dir:x", "hint: `oci:DIR`"),
        ("./app.tar", "does not say what is there\nhint: `docker-archive:./app.tar`, "),
    ] {
        for command in ["pull", "spec"] {
            env.run([command, source]).refused(125, &[words]);
        }
    }
    assert!(!env.root().exists());
}

#[test]
fn save_and_tag_tell_what_is_wrong_and_write_nothing() {
    let env = TestEnv::new().image("app", ImageBuilder::new);
    for (words, told) in [
        (&["save", "app", "other"][..], "other"),
        (&["save", "app", "--format", "oci-dir"], "`--format oci-dir` makes a directory\nhint: "),
        (&["save", "app", "-o", "."], "cannot write `.`"),
        (&["save", "app", "--platform", "x"], "platform `x` is malformed"),
        (&["tag", "app", "B"], "hint: use lower case: `b`"),
        (&["tag", "other", "b"], "other"),
        (&["tag", "app", "oci:b:1"], "`oci:b:1` is a place, expected the name of an image"),
        (&["load", "-i", "oci:b:1"], "hint: `--input` takes a path alone; `dockless pull oci:b:1` takes one image"),
        (&["load", "-i", "app.tar"], "cannot open `app.tar`: No such file"),
        (&["load", "-i", "-"], "`standard input` holds no image: the file is empty"),
    ] {
        assert!(env.run(words).refused(125, &[told]).stdout.is_empty());
    }
    let digest = format!("b@sha256:{}", "0".repeat(64));
    env.run(["tag", "app", &digest]).refused(125, &["has a digest, which is no name to be given\nhint: "]);
    assert_eq!(std::fs::read_dir(env.work()).unwrap().count(), 0);
}
