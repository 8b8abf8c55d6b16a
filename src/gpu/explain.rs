//! What a container is given and why, for people who have never seen the tool; and the same as data.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Serialize, Serializer};
use unicode_width::UnicodeWidthStr;

use super::{Capabilities, Capability, Version};
use crate::words::printable;

const GAP: &str = "  ";

/// What a line is about; in the order in which the parts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Chosen GPUs.
    Gpus,
    /// Device nodes.
    Devices,
    /// Libraries.
    Libraries,
    /// Programs.
    Programs,
    /// Firmware.
    Firmware,
    /// Files of configuration and data.
    Configuration,
    /// Sockets of services.
    Sockets,
    /// Variables.
    Environment,
    /// `/proc/driver/nvidia`.
    ProcView,
    /// What is not on this machine.
    Missing,
    /// What is on this machine and not given.
    Withheld,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainLine {
    /// What kind of thing.
    pub section: Section,
    /// What the container has: a path, a variable; the name of what is missing.
    #[serde(rename = "in_container")]
    pub container: String,
    /// Where this machine has it.
    #[serde(rename = "on_this_machine", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How it was found; of what is missing whether it is needed.
    pub found: String,
    /// Why it is given, what it is for; what does not work without it; why it is not given.
    pub why: String,
}

impl Section {
    const ALL: [Self; 11] = [
        Self::Gpus,
        Self::Devices,
        Self::Libraries,
        Self::Programs,
        Self::Firmware,
        Self::Configuration,
        Self::Sockets,
        Self::Environment,
        Self::ProcView,
        Self::Missing,
        Self::Withheld,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Gpus => "GPUs",
            Self::Devices => "Devices",
            Self::Libraries => "Libraries",
            Self::Programs => "Programs",
            Self::Firmware => "Firmware",
            Self::Configuration => "Configuration files",
            Self::Sockets => "Sockets",
            Self::Environment => "Environment",
            Self::ProcView => "What the container sees in /proc/driver/nvidia",
            Self::Missing => "Missing",
            Self::Withheld => "Not given on purpose",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Gpus => "What programs in the container can use.",
            Self::Devices => "The container may open these device files, and no others of the machine's GPUs.",
            Self::Libraries => "Programs find them although the image does not have them. They can only be read.",
            Self::Programs => "They can be started by name in the container. They can only be read.",
            Self::Firmware => "What the driver loads into the GPU. It can only be read.",
            Self::Configuration => "They tell graphics and OpenCL which library is the driver's.",
            Self::Sockets => "Services of this machine that programs in the container can talk to.",
            Self::Environment => "Variables that are set in the container, over those of the image.",
            Self::ProcView => "Copies of what the driver says; other GPUs of the machine are left out.",
            Self::Missing => {
                "The capabilities want these, but the machine does not have them. A run fails over what is needed; the \
                 rest only matters to programs that use it."
            }
            Self::Withheld => "The machine has these, and no container gets them.",
        }
    }

    const fn columns(self) -> [&'static str; 4] {
        match self {
            Self::Gpus => ["GPU", "ON THIS MACHINE", "KNOWN FROM", "WHY"],
            Self::Missing => ["NAME", "", "", "WITHOUT IT"],
            Self::Withheld => ["NAME", "ON THIS MACHINE", "", "WHY NOT"],
            Self::Environment => ["VARIABLE", "", "", "WHY"],
            Self::ProcView => ["IN THE CONTAINER", "", "", "WHY"],
            Self::Devices => ["IN THE CONTAINER", "ON THIS MACHINE", "NUMBER", "WHAT FOR"],
            _ => ["IN THE CONTAINER", "ON THIS MACHINE", "FOUND BY", "WHAT FOR"],
        }
    }
}

/// What a capability lets programs do, in words.
#[must_use]
pub const fn meaning(capability: Capability) -> &'static str {
    match capability {
        Capability::Compute => "CUDA and OpenCL",
        Capability::Utility => "nvidia-smi and asking about GPUs",
        Capability::Video => "encoding and decoding video",
        Capability::Graphics => "OpenGL and Vulkan",
        Capability::Display => "driving screens (X11)",
        Capability::Ngx => "DLSS",
        Capability::Compat32 => "programs of 32 bits",
    }
}

/// The whole report: as text with [`Report::text`], as data when serialized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the driver that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Version>,
    /// What the run may do.
    #[serde(serialize_with = "names")]
    pub capabilities: Capabilities,
    /// What it is given, what it is not, and why.
    pub entries: Vec<ExplainLine>,
    /// What else was noticed, in words.
    pub notes: Vec<String>,
}

fn names<S: Serializer>(capabilities: &Capabilities, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(capabilities.iter().map(Capability::name))
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from("What a container is given for these GPUs, and why\n\n");
        let driver = self.driver.as_ref().map_or_else(|| "none runs".to_owned(), |driver| printable(driver.as_str()));
        let _ = writeln!(text, "Driver: {driver}");
        let said = self.capabilities.iter().map(|capability| format!("{capability} ({})", meaning(capability)));
        let _ = writeln!(text, "Capabilities: {}\n", said.collect::<Vec<_>>().join(", "));
        for section in Section::ALL {
            let rows: Vec<&ExplainLine> = self.entries.iter().filter(|line| line.section == section).collect();
            if !rows.is_empty() {
                part(&mut text, section, &rows);
            }
        }
        if !self.notes.is_empty() {
            text.push_str("Notes\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "{GAP}{}", printable(note));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

/// One part: its title, what it is about, and a table. A column that says the same in every row is said once.
fn part(text: &mut String, section: Section, rows: &[&ExplainLine]) {
    let _ = writeln!(text, "{} ({})\n{GAP}{}", section.title(), rows.len(), section.about());
    let cells: Vec<[String; 4]> = rows.iter().map(|line| cells(section, line)).collect();
    let header = section.columns().map(str::to_owned);
    let mut widths = [0; 4];
    for row in std::iter::once(&header).chain(&cells) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    for column in 0..widths.len() {
        if cells.iter().all(|row| row[column].is_empty()) {
            widths[column] = 0;
        }
    }
    for row in std::iter::once(&header).chain(&cells) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths).filter(|(_, width)| *width > 0) {
            line.push_str(GAP);
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}

fn cells(section: Section, line: &ExplainLine) -> [String; 4] {
    let host = line.host.as_deref().unwrap_or_default();
    let found = match section {
        Section::Missing if line.found == "needed" => return missing(line, "NEEDED: "),
        Section::Missing => return missing(line, ""),
        Section::Environment | Section::ProcView | Section::Withheld => "",
        _ => &line.found,
    };
    [&line.container, shortened(host, &line.container), found, &line.why].map(printable)
}

fn missing(line: &ExplainLine, prefix: &str) -> [String; 4] {
    [printable(&line.container), String::new(), String::new(), format!("{prefix}{}", printable(&line.why))]
}

/// The directory alone when the file has the same name in both places.
fn shortened<'a>(host: &'a str, container: &str) -> &'a str {
    let same = Path::new(host).file_name() == Path::new(container).file_name();
    match host.rfind('/') {
        Some(slash) if same && host != container => &host[..=slash],
        _ if same && host == container && !host.is_empty() => "the same",
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(section: Section, container: &str, host: &str, found: &str, why: &str) -> ExplainLine {
        let host = Some(host.to_owned()).filter(|host| !host.is_empty());
        ExplainLine { section, container: container.to_owned(), host, found: found.to_owned(), why: why.to_owned() }
    }

    #[test]
    fn parts_are_aligned_and_in_order() {
        let lines = [
            line(Section::Missing, "libcuda.so.1", "", "needed", "no CUDA program can use a GPU"),
            line(Section::Missing, "nvidia-smi", "", "optional", "the command nvidia-smi is not there"),
            line(Section::Devices, "/dev/nvidia0", "/dev/nvidia0", "device 195:0", "the GPU"),
            line(Section::Libraries, "/usr/local/nvidia/lib64/a.so.1", "/usr/lib/a.so.1", "a known name", "compute"),
            line(Section::Libraries, "/usr/local/nvidia/lib64/bb.so.1", "/opt/b\u{1b}.so.1", "a known name", "compute"),
        ];
        let report = Report {
            driver: Some(Version::new("570.86.10")),
            capabilities: Capabilities::of(&[Capability::Compute]),
            entries: lines.into(),
            notes: vec!["a note".to_owned()],
        };
        insta::assert_snapshot!(report.text(), @r"
        What a container is given for these GPUs, and why

        Driver: 570.86.10
        Capabilities: compute (CUDA and OpenCL)

        Devices (1)
          The container may open these device files, and no others of the machine's GPUs.
          IN THE CONTAINER  ON THIS MACHINE  NUMBER        WHAT FOR
          /dev/nvidia0      the same         device 195:0  the GPU

        Libraries (2)
          Programs find them although the image does not have them. They can only be read.
          IN THE CONTAINER                 ON THIS MACHINE    FOUND BY      WHAT FOR
          /usr/local/nvidia/lib64/a.so.1   /usr/lib/          a known name  compute
          /usr/local/nvidia/lib64/bb.so.1  /opt/b\u{1b}.so.1  a known name  compute

        Missing (2)
          The capabilities want these, but the machine does not have them. A run fails over what is needed; the rest only matters to programs that use it.
          NAME          WITHOUT IT
          libcuda.so.1  NEEDED: no CUDA program can use a GPU
          nvidia-smi    the command nvidia-smi is not there

        Notes
          a note
        ");
    }

    #[test]
    fn data_has_plain_names() {
        let line = line(Section::ProcView, "/proc/driver/nvidia/params", "", "copied for this run", "why");
        let report =
            Report { driver: None, capabilities: Capabilities::default(), entries: vec![line], notes: Vec::new() };
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "capabilities": ["compute", "utility"],
                "entries": [{
                    "section": "proc-view",
                    "in_container": "/proc/driver/nvidia/params",
                    "found": "copied for this run",
                    "why": "why",
                }],
                "notes": [],
            })
        );
    }
}
