//! One file of the interface as it stands: what it is made of, how it is read, which version may say what.
//!
//! Fields that the specification does not know make a file unreadable, as in the interface's own library: an edit that is
//! not understood must not be left out silently. What the edits say is looked at when a device is asked for (`edits`).

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize};

use super::error::DocumentProblem;
use super::name::Kind;
use crate::words::printable;

/// The most that is read of one file. A machine of eight partitioned GPUs needs 100 KiB.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Values of one YAML document with its aliases expanded.
const MAX_NODES: usize = 400_000;
/// Bytes of text in it, likewise.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Lists and mappings inside of each other; the specification needs seven.
const MAX_DEPTH: usize = 16;

/// All versions that were ever released, oldest first. 0.3.0 is the first that a file may be of.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `.json`.
    Json,
    /// `.yaml`.
    Yaml,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// Which version of the specification it follows, `0.6.0`.
    pub cdi_version: String,
    /// Which kind its devices are of, `vendor.com/class`.
    pub kind: String,
    /// For people.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// At least one.
    #[serde(default, deserialize_with = "nullable")]
    pub devices: Vec<DocumentDevice>,
    /// What is done if any of the devices is asked for.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "ContainerEdits::is_empty")]
    pub container_edits: ContainerEdits,
}

/// A device of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentDevice {
    /// Its name within the kind.
    pub name: String,
    /// For people.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What is done if it is asked for.
    #[serde(default, deserialize_with = "nullable")]
    pub container_edits: ContainerEdits,
}

/// What is done to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerEdits {
    /// `KEY=VALUE`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Nodes.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Network interfaces that move into the container; since 1.1.0.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    /// Programs that the runtime runs.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Files and directories.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Shares of cache and memory bandwidth; since 0.7.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// Groups of the process; since 0.7.0. The specification spells it both ways.
    #[serde(
        default,
        deserialize_with = "nullable",
        alias = "additionalGIDs",
        rename = "additionalGids",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On this machine, if it is another; since 0.5.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub node_type: Option<String>,
    /// What its numbers were when the file was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Permission bits, in decimal mostly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Some of `r`, `w` and `m`, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// On this machine.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// As for mount(8).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// File system; since 0.4.0.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub mount_type: Option<String>,
}

/// A program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When it runs.
    pub hook_name: String,
    /// Where it is.
    pub path: String,
    /// With its own name first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// Shares of cache and memory bandwidth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(default, rename = "closID", skip_serializing_if = "Option::is_none")]
    pub clos_id: Option<String>,
    /// Of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l3_cache_schema: Option<String>,
    /// Of memory bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_bw_schema: Option<String>,
    /// Of anything; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schemata: Option<Vec<String>>,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_monitoring: Option<bool>,
    /// Before 1.1.0.
    #[serde(default, rename = "enableCMT", skip_serializing_if = "Option::is_none")]
    pub enable_cmt: Option<bool>,
    /// Before 1.1.0.
    #[serde(default, rename = "enableMBM", skip_serializing_if = "Option::is_none")]
    pub enable_mbm: Option<bool>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    /// On this machine.
    pub host_interface_name: String,
    /// In the container.
    pub name: String,
}

/// Files are written by Go programs, where `null` is the empty list.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ContainerEdits {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Document {
    /// Reads the text of a file and checks all that does not depend on this machine, but for what the edits say.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Self, DocumentProblem> {
        let document: Self = match decode(text, syntax) {
            Ok(document) => document,
            Err(problem) => {
                // A file of tomorrow is better told by its version than by the first field that is new.
                let version: Result<OnlyVersion, _> = decode(text, syntax);
                version.ok().map_or(Ok(()), |only| version_rank(&only.cdi_version).map(drop))?;
                return Err(problem);
            }
        };
        let kind = document.kind()?;
        document.check_version(&kind)?;
        document.check_devices(&kind)?;
        Ok(document)
    }

    /// Of its devices.
    pub fn kind(&self) -> Result<Kind, DocumentProblem> {
        Ok(self.kind.parse()?)
    }

    fn check_devices(&self, kind: &Kind) -> Result<(), DocumentProblem> {
        if self.devices.is_empty() {
            return Err(DocumentProblem::NoDevices);
        }
        let mut seen = HashSet::new();
        for device in &self.devices {
            kind.device(&device.name)?;
            if !seen.insert(device.name.as_str()) {
                return Err(DocumentProblem::DuplicateDevice(device.name.clone()));
            }
            if device.container_edits.is_empty() {
                return Err(DocumentProblem::EmptyDevice(device.name.clone()));
            }
        }
        Ok(())
    }

    fn check_version(&self, kind: &Kind) -> Result<(), DocumentProblem> {
        let declared = version_rank(&self.cdi_version)?;
        let (required, feature) = self.required_version(kind);
        if version_rank(required)? > declared {
            return Err(DocumentProblem::NewerFeature { feature, required, declared: self.cdi_version.clone() });
        }
        Ok(())
    }

    /// The oldest version that knows all that the file uses, and what of it is the newest.
    fn required_version(&self, kind: &Kind) -> (&'static str, &'static str) {
        let edits = || self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]);
        let rdt = || edits().filter_map(|edits| edits.intel_rdt.as_ref());
        let annotated = !self.annotations.is_empty() || self.devices.iter().any(|it| !it.annotations.is_empty());
        let newest_first = [
            ("1.1.0", "`netDevices`", edits().any(|edits| !edits.net_devices.is_empty())),
            ("1.1.0", "`intelRdt.schemata`", rdt().any(|it| it.schemata.is_some())),
            ("1.1.0", "`intelRdt.enableMonitoring`", rdt().any(|it| it.enable_monitoring == Some(true))),
            ("0.7.0", "`intelRdt`", rdt().next().is_some()),
            ("0.7.0", "`additionalGids`", edits().any(|edits| !edits.additional_gids.is_empty())),
            ("0.6.0", "`annotations`", annotated),
            ("0.6.0", "a dot in the class", kind.class().contains('.')),
            (
                "0.5.0",
                "the name of a device that starts with a digit",
                self.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())),
            ),
            (
                "0.5.0",
                "`hostPath` of a device node",
                edits().flat_map(|edits| &edits.device_nodes).any(|node| is_given(node.host_path.as_deref())),
            ),
            (
                "0.4.0",
                "`type` of a mount",
                edits().flat_map(|edits| &edits.mounts).any(|mount| is_given(mount.mount_type.as_deref())),
            ),
        ];
        let found = newest_first.into_iter().find(|(_, _, used)| *used);
        found.map_or((VERSIONS[0], "anything"), |(version, feature, _)| (version, feature))
    }
}

/// The empty text is Go's way to say nothing.
fn is_given(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct OnlyVersion {
    #[serde(rename = "cdiVersion")]
    cdi_version: String,
}

fn version_rank(version: &str) -> Result<usize, DocumentProblem> {
    let bare = version.strip_prefix('v').unwrap_or(version);
    VERSIONS.iter().position(|known| *known == bare).ok_or_else(|| DocumentProblem::Version {
        version: version.to_owned(),
        first: VERSIONS[0],
        last: VERSIONS[7],
    })
}

fn decode<T: for<'de> Deserialize<'de>>(text: &str, syntax: Syntax) -> Result<T, DocumentProblem> {
    let malformed = |error: String| DocumentProblem::Malformed(printable(&error));
    match syntax {
        Syntax::Json => serde_json::from_str(text).map_err(|error| malformed(error.to_string())),
        Syntax::Yaml => {
            let options = serde_yaml::options! {
                with_snippet: false,
                emit_comments: false,
                // `fileMode: 0660` is octal for the Go programs that write these files.
                legacy_octal_numbers: true,
                budget: serde_yaml::budget! {
                    max_nodes: MAX_NODES,
                    max_events: MAX_NODES * 3,
                    max_total_scalar_bytes: MAX_TEXT_BYTES,
                    max_depth: MAX_DEPTH,
                    flow_nesting_limit: MAX_DEPTH,
                },
            };
            serde_yaml::from_str_with_options(text, options)
                .map_err(|error| malformed(error.without_snippet().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Result<Document, DocumentProblem> {
        Document::parse(text, Syntax::Yaml)
    }

    /// A file with one device that has the given edits.
    fn with(version: &str, edits: &str) -> String {
        format!(
            r#"{{"cdiVersion": "{version}", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
        )
    }

    #[test]
    fn every_field_is_read() {
        let text = r#"
cdiVersion: "1.1.0"
kind: vendor.com/net
annotations: {who: me}
devices:
- name: "0"
  annotations: {what: "it"}
  containerEdits:
    env: [A=1, "B=x y"]
    deviceNodes:
    - {path: /dev/a, hostPath: /dev/b, type: c, major: 195, minor: 255, fileMode: 0660, permissions: rw, uid: 1, gid: 2}
    mounts:
    - {hostPath: /h, containerPath: /c, type: none, options: [ro, bind]}
    hooks:
    - {hookName: createContainer, path: /x, args: [x, y], env: [A=1], timeout: 5}
    additionalGids: [44, 109]
    intelRdt: {closID: a, l3CacheSchema: b, memBwSchema: c, schemata: [d], enableMonitoring: true}
    netDevices: [{hostInterfaceName: eth1, name: net0}]
containerEdits: {additionalGIDs: [7], env: null}
"#;
        let document = yaml(text).unwrap();
        let edits = &document.devices[0].container_edits;
        assert_eq!(edits.device_nodes[0].file_mode, Some(0o660));
        assert_eq!(edits.device_nodes[0].major, Some(195));
        assert_eq!((&edits.mounts[0].mount_type, &edits.hooks[0].timeout), (&Some("none".to_owned()), &Some(5)));
        assert_eq!(edits.net_devices[0].host_interface_name, "eth1");
        assert_eq!(document.container_edits.additional_gids, [7]);
        // Both syntaxes and both directions agree.
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(Document::parse(&json, Syntax::Json).unwrap(), document);
        assert_eq!(yaml(&serde_yaml::to_string(&document).unwrap()).unwrap(), document);
    }

    #[test]
    fn what_is_used_must_be_of_the_version() {
        for (edits, required) in [
            (r#"{"env": ["A=1"]}"#, "0.3.0"),
            (r#"{"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "bind"}]}"#, "0.4.0"),
            (r#"{"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": ""}]}"#, "0.3.0"),
            (r#"{"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]}"#, "0.5.0"),
            (r#"{"additionalGids": [1]}"#, "0.7.0"),
            (r#"{"intelRdt": {"enableCMT": true}}"#, "0.7.0"),
            (r#"{"intelRdt": {"schemata": []}}"#, "1.1.0"),
            (r#"{"intelRdt": {"enableMonitoring": true}}"#, "1.1.0"),
            (r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}"#, "1.1.0"),
        ] {
            let rank = VERSIONS.iter().position(|version| *version == required).unwrap();
            for (index, version) in VERSIONS.iter().enumerate() {
                let result = Document::parse(&with(version, edits), Syntax::Json);
                assert_eq!(result.is_ok(), index >= rank, "{edits} in {version}: {result:?}");
            }
        }
        assert!(Document::parse(&with("v0.3.0", r#"{"env": ["A=1"]}"#), Syntax::Json).is_ok());
        let error = Document::parse(&with("0.6.0", r#"{"additionalGids": [1]}"#), Syntax::Json).unwrap_err();
        assert_eq!(error.to_string(), "`additionalGids` came with version 0.7.0, but `cdiVersion` is `0.6.0`");
        let digit = with("0.4.0", r#"{"env": ["A=1"]}"#).replace(r#""name": "d""#, r#""name": "0""#);
        assert!(Document::parse(&digit, Syntax::Json).unwrap_err().to_string().contains("starts with a digit"));
        let dot = with("0.5.0", r#"{"env": ["A=1"]}"#).replace("v.com/c", "v.com/c.d");
        assert!(Document::parse(&dot, Syntax::Json).unwrap_err().to_string().contains("a dot in the class"));
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        for (text, message) in [
            (String::new(), "malformed"),
            ("{".to_owned(), "malformed: "),
            ("[]".to_owned(), "malformed: "),
            (with("2.0.0", r#"{"env": ["A=1"]}"#), "version `2.0.0` is unknown, expected 0.3.0 to 1.1.0"),
            (with("2.0.0", r#"{"quantum": 1}"#), "version `2.0.0` is unknown"),
            (with("0.2.0", r#"{"env": ["A=1"]}"#), "version `0.2.0` is unknown"),
            (with("1.0.0", r#"{"quantum": 1}"#), "unknown field `quantum`"),
            (with("1.0.0", r#"{"env": 1}"#), "malformed: "),
            (with("1.0.0", r#"{"env": ["A=1"], "env": []}"#), "duplicate"),
            (with("1.0.0", "{}"), "device `d` has no edits"),
            (with("1.0.0", r#"{"additionalGids": [-1]}"#), "malformed: "),
            (with("1.0.0", r#"{"env": ["A=1"]}"#).replace("v.com/c", "v.com"), "`v.com` is not a kind"),
            (with("1.0.0", r#"{"env": ["A=1"]}"#).replace(r#""d""#, r#""d/e""#), "device name `d/e` is malformed"),
            (r#"{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": []}"#.to_owned(), "describes no device"),
            (r#"{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": null}"#.to_owned(), "describes no device"),
            (r#"{"kind": "v.com/c", "devices": []}"#.to_owned(), "cdiVersion"),
            (
                r#"{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{"name": "d", "containerEdits": {"env": ["A=1"]}}, {"name": "d", "containerEdits": {"env": ["A=1"]}}]}"#
                    .to_owned(),
                "describes the device `d` twice",
            ),
        ] {
            for syntax in [Syntax::Json, Syntax::Yaml] {
                let error = Document::parse(&text, syntax).unwrap_err().to_string();
                assert!(error.contains(message), "{syntax:?} {text}: {error}");
            }
        }
        let error = yaml("cdiVersion: 1.0.0\nkind: v.com/c\ndevices:\n\t- name: d\n").unwrap_err().to_string();
        assert!(error.contains("malformed: ") && error.contains("line 4"), "{error}");
        assert!(yaml("a: 1\n---\nb: 2\n").is_err());
    }

    #[test]
    fn hostile_yaml_is_refused_soon() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let items = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb.extend(["a", &level.to_string(), ": &a", &level.to_string(), " [", &items, "]\n"]);
        }
        let started = std::time::Instant::now();
        for text in [bomb, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(50_000)] {
            assert!(matches!(yaml(&text), Err(DocumentProblem::Malformed(_))));
        }
        assert!(Document::parse(&"[".repeat(100_000), Syntax::Json).is_err());
        assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
    }
}
