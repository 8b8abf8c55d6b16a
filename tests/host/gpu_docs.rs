//! What `docs/gpu.md` shows of `gpu explain` and `gpu list` is what they print.

use std::path::Path;

use crate::support::driver::{DriverTree, TreeBuilder};
use crate::support::env::{TestEnv, have_root};

/// What a command prints of a tree, as if the tree were the machine's own root, with UUIDs that never change.
fn shown(tree: &DriverTree, words: &[&str]) -> String {
    let env = TestEnv::new();
    let mut text = env.run([words, &["--driver-root", tree.root()]].concat()).code(0).stdout;
    let root = tree.path().canonicalize().unwrap();
    text = text.replace(root.to_str().unwrap(), "");
    for (uuid, name) in tree
        .uuids()
        .iter()
        .zip(["GPU-8f2d0b6e-0d5c-4a0b-9f4e-1d2c3b4a5968", "GPU-30c1f4aa-96d2-4c11-8d2e-77b0c5e9a1f3"])
    {
        text = text.replace(uuid, name);
    }
    // The columns were as wide as the paths of the tree.
    let mut table: Vec<Vec<&str>> = Vec::new();
    let mut aligned = String::new();
    for line in text.lines().chain([""]) {
        let cells: Vec<&str> = line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        if cells.len() > 1 {
            table.push(cells);
            continue;
        }
        aligned += &columns(&std::mem::take(&mut table), if words.contains(&"list") { ("", 3) } else { ("  ", 2) });
        aligned += line.trim_end();
        aligned.push('\n');
    }
    aligned.trim_end().to_owned() + "\n"
}

fn columns(table: &[Vec<&str>], (indent, gap): (&str, usize)) -> String {
    let count = table.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| table.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let row = |row: &Vec<&str>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}{}", " ".repeat(gap)));
        format!("{indent}{}\n", cells.collect::<String>().trim_end())
    };
    table.iter().map(row).collect()
}

#[test]
fn gpu_the_documentation_shows_what_is_printed() {
    if !have_root() {
        return;
    }
    let documentation = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu.md")).unwrap();
    let full: TreeBuilder = DriverTree::debian().gpus(&["H200", "T4"]).nvml();
    let bare = DriverTree::local().version("470.256.02").gpus(&["K80"]).without("libnvidia-ml").without("cudadebugger");
    let mut missing = Vec::new();
    for (tree, words) in [
        (&full, &["gpu", "list"][..]),
        (&full, &["gpu", "explain", "--gpus", "name=H200"]),
        (&bare, &["gpu", "explain", "--gpus", "name=K80"]),
    ] {
        let block = format!("    $ dockless {}\n{}", words.join(" "), indented(&shown(&tree.build(), words)));
        if !documentation.contains(&block) {
            missing.push(block);
        }
    }
    assert!(missing.is_empty(), "docs/gpu.md lacks\n{}", missing.join("\n"));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }).collect()
}

#[test]
fn gpu_the_keys_of_a_gpu_are_documented() {
    if !have_root() {
        return;
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    let section = text.split_once("\n## A GPU\n").unwrap().1;
    let tree = DriverTree::debian().gpus(&["H100"]).mig(0, &["1g.10gb"]).nvml().build();
    let env = TestEnv::new();
    let list = env.run(["gpu", "list", "--format", "json", "--driver-root", tree.root()]).json();
    let explained = env.run(["gpu", "explain", "--format", "json", "--driver-root", tree.root()]).json();
    for object in [&list[0], &list[1], &explained, &explained["entries"][0]] {
        for key in object.as_object().unwrap().keys() {
            assert!(section.contains(&format!("`{key}`")), "{key}");
        }
    }
    assert_eq!(list.as_array().unwrap().len(), 2);
}
