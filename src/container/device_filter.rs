//! The device rules of a container. On cgroup v1 there are files to write them to; on v2 a small bpf program is asked by the
//! kernel on each open(2) and mknod(2).
//!
//! The program gets a `struct bpf_cgroup_dev_ctx` (linux/bpf.h): the kind of access in the upper and the kind of device in the
//! lower half of the first word, then major and minor. It returns 1 when a rule allows all of the access, else 0.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

use super::cgroup::Cgroup;
use crate::sys;

const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// Why the rules of a container cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum DeviceFilterError {
    /// A rule that the default denial makes no sense of.
    #[error("device rule `{0}` is not supported, expected one that denies all, then such that allow")]
    Rule(String),
    /// A number that no device has.
    #[error("device number {0} is out of range")]
    Number(i64),
    /// The kernel does not take a rule.
    #[error("cannot write device rule `{rule}` to `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        rule: String,
        /// Why it was refused.
        #[source]
        source: io::Error,
    },
    /// The kernel does not take the program.
    #[error(
        "cannot restrict the devices of cgroup `{path}`\nhint: the kernel needs CONFIG_CGROUP_BPF, and the caller CAP_SYS_ADMIN"
    )]
    Attach {
        /// The cgroup.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Enforces the rules of a specification on the processes of a run's cgroup; where it has none its root file system has no
/// devices.
pub fn restrict_devices(cgroup: &Cgroup, spec: &Spec) -> Result<(), DeviceFilterError> {
    match (cgroup.v1_dir("devices"), cgroup.unified_dir()) {
        (Some(dir), _) => write_rules(&dir, rules(spec)),
        (None, Some(dir)) => attach_rules(&dir, spec),
        (None, None) => Ok(()),
    }
}

/// The same on a cgroup of version 2, of whatever kind it is.
pub fn attach_rules(cgroup: &Path, spec: &Spec) -> Result<(), DeviceFilterError> {
    let rules = rules(spec);
    let program = program(rules)?;
    // What would follow such a rule is never reached, and the kernel takes no program with such a part.
    if rules.is_empty() || rules.iter().any(allows_all) {
        return Ok(());
    }
    let attach = |source| DeviceFilterError::Attach { path: cgroup.to_owned(), source };
    let directory = File::open(cgroup).map_err(attach)?;
    sys::attach_device_filter(directory.as_fd(), &program).map_err(attach)
}

fn rules(spec: &Spec) -> &[LinuxDeviceCgroup] {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default()
}

/// Version 1 has files for them (cgroup-v1/devices.rst), whose lines are just as a rule is shown.
fn write_rules(dir: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), DeviceFilterError> {
    // A new cgroup has all that the one above it has.
    for rule in rules.iter().filter(|rule| !allows_all(rule)) {
        let path = dir.join(if rule.allow() { "devices.allow" } else { "devices.deny" });
        let line = rule.to_string();
        fs::write(&path, &line).map_err(|source| DeviceFilterError::Write { path, rule: line, source })?;
    }
    Ok(())
}

/// Registers of the program.
mod register {
    pub(super) const RESULT: u8 = 0;
    pub(super) const CONTEXT: u8 = 1;
    pub(super) const KIND: u8 = 2;
    pub(super) const ACCESS: u8 = 3;
    pub(super) const MAJOR: u8 = 4;
    pub(super) const MINOR: u8 = 5;
    pub(super) const SCRATCH: u8 = 6;
}

/// Operation codes (Documentation/bpf/standardization/instruction-set.rst).
mod code {
    /// Load a word of memory.
    pub(super) const LOAD: u8 = 0x61;
    /// 32-bit copy of a register.
    pub(super) const COPY: u8 = 0xbc;
    /// 32-bit shift to the right.
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    /// 32-bit conjunction with a number.
    pub(super) const AND: u8 = 0x54;
    /// Jump when a register is not a number.
    pub(super) const JUMP_UNLESS: u8 = 0x55;
    /// Put a number into a register.
    pub(super) const SET: u8 = 0xb7;
    /// Return.
    pub(super) const EXIT: u8 = 0x95;
}

/// One instruction as the kernel of a little-endian machine reads it; both that we build for are.
fn instruction(code: u8, target: u8, source: u8, offset: i16, number: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [n0, n1, n2, n3] = number.to_le_bytes();
    u64::from_le_bytes([code, (source << 4) | target, low, high, n0, n1, n2, n3])
}

fn program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<u64>, DeviceFilterError> {
    use register::{ACCESS, CONTEXT, KIND, MAJOR, MINOR, RESULT};
    let mut program = vec![
        instruction(code::LOAD, KIND, CONTEXT, 0, 0),
        instruction(code::COPY, ACCESS, KIND, 0, 0),
        instruction(code::SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(code::AND, KIND, 0, 0, 0xffff),
        instruction(code::LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(code::LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().skip_while(|rule| is_denial_of_all(rule)) {
        if !rule.allow() {
            return Err(DeviceFilterError::Rule(rule.to_string()));
        }
        program.extend(allow(rule)?);
    }
    program.extend([instruction(code::SET, RESULT, 0, 0, 0), instruction(code::EXIT, 0, 0, 0, 0)]);
    Ok(program)
}

fn is_denial_of_all(rule: &LinuxDeviceCgroup) -> bool {
    !rule.allow() && rule.major().is_none() && rule.minor().is_none() && kind(rule).is_none()
}

/// A privileged container's.
fn allows_all(rule: &LinuxDeviceCgroup) -> bool {
    let has_all = rule.access().as_deref().is_none_or(|access| ['r', 'w', 'm'].iter().all(|&way| access.contains(way)));
    rule.allow() && has_all && rule.major().is_none() && rule.minor().is_none() && kind(rule).is_none()
}

/// Which kind of device a rule is for; nothing when for both.
fn kind(rule: &LinuxDeviceCgroup) -> Option<i32> {
    match rule.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
        _ => None,
    }
}

/// Returns 1 when the rule fits, else goes on behind it.
fn allow(rule: &LinuxDeviceCgroup) -> Result<Vec<u64>, DeviceFilterError> {
    use register::{ACCESS, KIND, MAJOR, MINOR, RESULT, SCRATCH};
    let mut tests: Vec<(Vec<u64>, u8, i32)> = Vec::new();
    if let Some(kind) = kind(rule) {
        tests.push((Vec::new(), KIND, kind));
    }
    let bits = |text: &str| {
        [('m', MKNOD), ('r', READ), ('w', WRITE)].iter().filter(|(c, _)| text.contains(*c)).map(|(_, bit)| bit).sum()
    };
    let granted: i32 = rule.access().as_deref().map_or(ALL, bits);
    if granted != ALL {
        // What is wanted beyond what is granted must be nothing.
        let beyond =
            vec![instruction(code::COPY, SCRATCH, ACCESS, 0, 0), instruction(code::AND, SCRATCH, 0, 0, ALL & !granted)];
        tests.push((beyond, SCRATCH, 0));
    }
    for (register, wanted) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        // -1 is how the runtime specification's examples write "any".
        if let Some(wanted) = wanted.filter(|wanted| *wanted != -1) {
            let number = i32::try_from(wanted).ok().filter(|number| *number >= 0);
            tests.push((Vec::new(), register, number.ok_or(DeviceFilterError::Number(wanted))?));
        }
    }
    let end = [instruction(code::SET, RESULT, 0, 0, 1), instruction(code::EXIT, 0, 0, 0, 0)];
    let mut behind = end.len();
    let mut reversed: Vec<u64> = end.iter().rev().copied().collect();
    for (before, register, wanted) in tests.iter().rev() {
        let distance = i16::try_from(behind).unwrap_or(i16::MAX);
        reversed.push(instruction(code::JUMP_UNLESS, *register, 0, distance, *wanted));
        reversed.extend(before.iter().rev());
        behind += 1 + before.len();
    }
    reversed.reverse();
    Ok(reversed)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBuilder, LinuxDeviceCgroupBuilder, LinuxResourcesBuilder, SpecBuilder};

    use super::*;

    /// What the program answers; the few instructions that it is made of.
    fn answer(program: &[u64], kind: u32, access: i32, major: u32, minor: u32) -> u64 {
        let context = [(u32::try_from(access).unwrap() << 16) | kind, major, minor];
        let (mut registers, mut at) = ([0_u64; 11], 0);
        loop {
            let bytes = program[at].to_le_bytes();
            let (target, source) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = i16::from_le_bytes([bytes[2], bytes[3]]);
            let number = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let unsigned = u64::from(number.cast_unsigned());
            at += 1;
            match bytes[0] {
                code::LOAD => registers[target] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                code::COPY => registers[target] = registers[source] & 0xffff_ffff,
                code::SHIFT_RIGHT => registers[target] >>= unsigned,
                code::AND => registers[target] &= unsigned,
                code::SET => registers[target] = unsigned,
                code::JUMP_UNLESS if registers[target] != unsigned => at += usize::try_from(offset).unwrap(),
                code::JUMP_UNLESS => {}
                code::EXIT => return registers[0],
                other => panic!("{other:x}"),
            }
        }
    }

    fn rule(
        allow: bool,
        typ: Option<LinuxDeviceType>,
        numbers: (Option<i64>, Option<i64>),
        access: &str,
    ) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).access(access).build().unwrap();
        rule.set_typ(typ).set_major(numbers.0).set_minor(numbers.1);
        rule
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let c = Some(LinuxDeviceType::C);
        let program = program(&[
            rule(false, None, (None, None), "rwm"),
            rule(true, c, (None, None), "m"),
            rule(true, Some(LinuxDeviceType::B), (None, None), "m"),
            rule(true, c, (Some(1), Some(3)), "rwm"),
            rule(true, c, (Some(136), None), "rwm"),
            rule(true, c, (Some(195), Some(0)), "rw"),
            rule(true, Some(LinuxDeviceType::B), (Some(8), Some(-1)), "r"),
        ])
        .unwrap();
        let (block, char) = (1, 2);
        for (kind, access, major, minor, expected) in [
            (char, READ | WRITE, 1, 3, 1),
            (char, ALL, 1, 3, 1),
            (char, READ, 1, 4, 0),
            (block, READ, 1, 3, 0),
            (char, MKNOD, 195, 7, 1),
            (block, MKNOD, 8, 0, 1),
            (char, READ | WRITE, 195, 0, 1),
            (char, READ | MKNOD, 195, 0, 0),
            (char, READ, 195, 1, 0),
            (char, WRITE, 136, 77, 1),
            (block, READ, 8, 5, 1),
            (block, WRITE, 8, 5, 0),
            (block, READ | WRITE, 8, 5, 0),
            (char, READ, 8, 5, 0),
            (char, READ, 10, 229, 0),
        ] {
            let found = answer(&program, kind, access, major, minor);
            assert_eq!(found, expected, "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn only_a_rule_without_conditions_allows_all() {
        assert!(allows_all(&rule(true, None, (None, None), "rwm")));
        assert!(!allows_all(&rule(false, None, (None, None), "rwm")));
        assert!(!allows_all(&rule(true, None, (None, None), "rw")));
        assert!(!allows_all(&rule(true, Some(LinuxDeviceType::C), (None, None), "rwm")));
        assert!(!allows_all(&rule(true, None, (Some(1), None), "rwm")));
        // Nothing to attach to is needed.
        let devices = vec![rule(true, None, (None, None), "rwm")];
        let resources = LinuxResourcesBuilder::default().devices(devices).build().unwrap();
        let spec = SpecBuilder::default().linux(LinuxBuilder::default().resources(resources).build().unwrap());
        attach_rules(Path::new("/nowhere"), &spec.build().unwrap()).unwrap();
    }

    #[test]
    fn rules_that_cannot_be_told_are_refused() {
        let late = [rule(true, None, (None, None), "rwm"), rule(false, None, (Some(1), None), "w")];
        assert!(matches!(program(&late), Err(DeviceFilterError::Rule(_))));
        let far = [rule(true, None, (Some(1 << 40), None), "rwm")];
        assert!(matches!(program(&far), Err(DeviceFilterError::Number(_))));
        assert_eq!(answer(&program(&[]).unwrap(), 2, READ, 1, 3), 0);
    }
}
