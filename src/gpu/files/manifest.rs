//! The list of its files that the driver itself ships since version 570: `sandboxutils-filelist.json`.
//!
//! An array of objects with `name` (a bare file name, or with a directory before it such as `firmware/gsp_ga10x.bin`), `type`
//! (`LIB`, `BINARY`, `JSON`, `FIRMWARE`, `SYMLINK`, `MODPROBE`, …), `category` (strings of the driver's own making, finer than
//! capabilities: `nvml`, `cuda`, `vulkan`, …) and sometimes `optional`. A file may be listed more than once. The manifest says which
//! files there are, not which driver runs: with two installations it may be the other one's.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::gpu::Capability;

/// Where it is, in the driver's root.
pub(super) const PATHS: &[&str] = &[
    "/usr/share/nvidia/files.d/sandboxutils-filelist.json",
    "/usr/share/nvidia/sandboxutils-filelist.json",
    "/run/opengl-driver/share/nvidia/files.d/sandboxutils-filelist.json",
];
/// That of driver 580 has about 110 entries in 15 kB.
pub(super) const MAX_BYTES: u64 = 1 << 20;
const MAX_ENTRIES: usize = 4096;

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Library,
    Program,
    Configuration,
    /// Firmware, links and the helper that loads modules: found otherwise, made by us, or not for containers.
    Other,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without directory.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) wanted_by: BTreeSet<Capability>,
    pub(super) optional: bool,
}

#[derive(Deserialize)]
struct Raw {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    category: Vec<String>,
    #[serde(default)]
    optional: bool,
}

/// Reads a manifest; entries for the same file become one. The error is in words.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Entry>, String> {
    let raw: Vec<Raw> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if raw.len() > MAX_ENTRIES {
        return Err(format!("{} entries, expected at most {MAX_ENTRIES}", raw.len()));
    }
    let mut entries: Vec<Entry> = Vec::new();
    for raw in raw {
        let name = raw.name.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || name == "." || name == ".." || name.chars().any(char::is_control) {
            return Err(format!("the name `{}` is none of a file", raw.name.escape_debug()));
        }
        let wanted_by: BTreeSet<Capability> = raw.category.iter().filter_map(|category| capability(category)).collect();
        match entries.iter_mut().find(|entry| entry.name == name) {
            Some(entry) => {
                entry.wanted_by.extend(wanted_by);
                entry.optional &= raw.optional;
            }
            None => {
                entries.push(Entry { name: name.to_owned(), kind: kind(&raw.kind), wanted_by, optional: raw.optional });
            }
        }
    }
    Ok(entries)
}

fn kind(text: &str) -> Kind {
    match text {
        "LIB" => Kind::Library,
        "BINARY" => Kind::Program,
        "JSON" | "ICD" => Kind::Configuration,
        _ => Kind::Other,
    }
}

/// The capability that covers one of the driver's categories; `None` for those that are not for containers, and for new
/// ones, whose libraries the rule for `*.so.<version>` still finds.
fn capability(category: &str) -> Option<Capability> {
    Some(match category {
        "cuda" | "opencl" => Capability::Compute,
        "nvml" | "utils" => Capability::Utility,
        "video" => Capability::Video,
        "ngx" => Capability::Ngx,
        "xdriver" => Capability::Display,
        "optix" | "vulkan" | "vulkansc" | "egl" | "egl_headless" | "egl_wayland" | "egl_gbm" | "egl_x11" | "glx"
        | "gbm" => Capability::Graphics,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_file_are_joined() {
        let text = br#"[
            {"name": "firmware/gsp_ga10x.bin", "type": "FIRMWARE", "category": ["firmware"]},
            {"name": "libcuda.so.570.86.10", "type": "LIB", "category": ["cuda"], "optional": true},
            {"name": "libcuda.so.570.86.10", "type": "LIB", "category": ["vulkan", "of tomorrow"], "new": 1},
            {"name": "nvidia-smi", "type": "BINARY", "category": ["nvml"], "optional": true}
        ]"#;
        let entries = parse(text).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!((entries[0].name.as_str(), entries[0].kind), ("gsp_ga10x.bin", Kind::Other));
        let both: BTreeSet<Capability> = [Capability::Compute, Capability::Graphics].into();
        assert_eq!((entries[1].kind, &entries[1].wanted_by, entries[1].optional), (Kind::Library, &both, false));
        assert!(entries[2].optional);
    }

    #[test]
    fn damaged_manifests_are_told() {
        for bad in ["", "{}", "[1]", r#"[{"type": "LIB"}]"#, r#"[{"name": ".."}]"#, r#"[{"name": "a/"}]"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = format!("[{}]", vec![r#"{"name":"a"}"#; MAX_ENTRIES + 1].join(","));
        assert!(parse(many.as_bytes()).unwrap_err().starts_with("4097 entries"));
    }
}
