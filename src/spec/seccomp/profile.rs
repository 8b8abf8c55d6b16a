//! A filter of the user's own, in docker's form: the runtime specification's `seccomp` with conditions on architecture,
//! kernel and capabilities (`archMap`, `includes`, `excludes`).
//!
//! A key that has no meaning here is an error: what was misspelt would otherwise open or close something unnoticed.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::super::capabilities::named;
use super::super::error::SpecError;
use super::super::flag_error::FlagProblem;
use super::super::{Dialect, HostFacts};
use super::arch;
use super::names::is_known;

/// The most that is read of a profile; docker's own has 15 KiB.
pub const MAX_PROFILE_BYTES: u64 = 1 << 20;
/// More names than any kernel has system calls, for all architectures and rules.
const MAX_NAMES: usize = 20_000;
/// Arguments of a system call.
const MAX_ARGUMENTS: usize = 6;
/// The largest number that a system call can fail with (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// A profile whose form is right; what of it applies is known only with machine and capabilities.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// podman's name for the number above.
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// The old form of `names`.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    /// podman's name for the number above.
    errno: Option<String>,
    args: Option<Vec<Argument>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    /// In Go's spelling: `amd64`, `x32`, …
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads the text of `path`, which only names it in errors.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, SpecError> {
        let wrong = |reason: String| {
            SpecError::flag("--security-opt", &format!("seccomp={}", path.display()), FlagProblem::Profile(reason))
        };
        if text.len() as u64 > MAX_PROFILE_BYTES {
            return Err(wrong(format!("more than {MAX_PROFILE_BYTES} bytes, which no profile has")));
        }
        let profile: Self = serde_json::from_slice(text).map_err(|error| wrong(format!("not a profile: {error}")))?;
        profile.check().map_err(wrong)?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), String> {
        if self.architectures.is_some() && self.arch_map.is_some() {
            return Err("`architectures` and `archMap` exclude each other".to_owned());
        }
        if self.listener_path.is_some() || self.listener_metadata.is_some() {
            return Err("`listenerPath` is not supported: nobody would answer it".to_owned());
        }
        if self.flags.iter().flatten().any(|flag| *flag == LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv) {
            return Err(
                "the flag `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` goes with `SCMP_ACT_NOTIFY`, which is not supported"
                    .to_owned(),
            );
        }
        check_action("defaultAction", self.default_action)?;
        check_errno(self.default_errno_ret, self.default_errno.as_deref())?;
        let rules = self.syscalls.as_deref().unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            rule.check().map_err(|reason| format!("`syscalls`, entry {}: {reason}", index + 1))?;
        }
        let names: usize = rules.iter().map(|rule| rule.names().count()).sum();
        if names > MAX_NAMES {
            return Err(format!("{names} names of system calls, expected {MAX_NAMES} at most"));
        }
        Ok(())
    }

    /// The filter for a workload whose bounding set is `capabilities`.
    pub(in crate::spec) fn filter(
        &self,
        host: &HostFacts,
        capabilities: &HashSet<Capability>,
    ) -> Result<LinuxSeccomp, SpecError> {
        let rules = self.syscalls.iter().flatten().filter(|rule| rule.applies(host, capabilities));
        let rules = rules.map(|rule| rule.build(host.dialect)).collect::<Result<Vec<_>, _>>()?;
        let mut filter = LinuxSeccompBuilder::default().default_action(self.default_action).syscalls(rules).build()?;
        filter.set_default_errno_ret(self.default_errno_ret);
        filter.set_architectures(self.architectures(host));
        filter.set_flags(self.flags.clone());
        Ok(filter)
    }

    /// A word about names that no kernel known here has: the filter is made without them, as with docker.
    pub(in crate::spec) fn warning(&self) -> Option<String> {
        const SHOWN: usize = 5;
        let names = self.syscalls.iter().flatten().flat_map(Rule::names).filter(|name| !is_known(name));
        let unknown: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        let more = unknown.len().saturating_sub(SHOWN);
        let list = unknown.get(..unknown.len().min(SHOWN))?.join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!unknown.is_empty()).then(|| {
            format!(
                "the seccomp profile names system calls that are not known, rules for them have no effect: {list}{more}"
            )
        })
    }

    /// The given ones, or that of the machine with those that docker counts to it; always the machine's own.
    fn architectures(&self, host: &HostFacts) -> Option<Vec<Arch>> {
        let own = arch(&host.platform.architecture)?;
        if let Some(given) = &self.architectures {
            return Some(given.clone());
        }
        let found = self.arch_map.iter().flatten().find(|entry| entry.architecture == own)?;
        Some(std::iter::once(own).chain(found.sub_architectures.iter().flatten().copied()).collect())
    }
}

impl Rule {
    fn names(&self) -> impl Iterator<Item = &String> {
        self.name.iter().chain(self.names.iter().flatten())
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_some() && self.names.is_some() {
            return Err("`name` and `names` exclude each other".to_owned());
        }
        if self.names().next().is_none() {
            return Err("`names` is missing or empty".to_owned());
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if let Some(name) = self.names().find(|name| !is_name(name)) {
            return Err(format!("`{}` is no name of a system call", name.escape_debug()));
        }
        check_action("action", self.action)?;
        check_errno(self.errno_ret, self.errno.as_deref())?;
        let arguments = self.args.as_deref().unwrap_or_default();
        if let Some(argument) = arguments.iter().find(|argument| argument.index >= MAX_ARGUMENTS) {
            return Err(format!("`args` has the index {}, expected 0 to {}", argument.index, MAX_ARGUMENTS - 1));
        }
        if arguments.len() > MAX_ARGUMENTS {
            return Err(format!("`args` has {} conditions, expected {MAX_ARGUMENTS} at most", arguments.len()));
        }
        self.includes.iter().chain(&self.excludes).try_for_each(Condition::check)
    }

    /// An exclusion by one of its conditions is enough, an inclusion wants all of them.
    fn applies(&self, host: &HostFacts, capabilities: &HashSet<Capability>) -> bool {
        let own = &host.platform.architecture;
        let has = |name: &String| capability(name).is_some_and(|capability| capabilities.contains(&capability));
        if let Some(Condition { arches, caps, min_kernel }) = &self.excludes {
            let is_excluded = arches.iter().flatten().any(|arch| arch == own)
                || caps.iter().flatten().any(has)
                || min_kernel.as_deref().and_then(version).is_some_and(|least| host.kernel >= least);
            if is_excluded {
                return false;
            }
        }
        let Some(Condition { arches, caps, min_kernel }) = &self.includes else { return true };
        arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.contains(own))
            && caps.iter().flatten().all(has)
            && min_kernel.as_deref().and_then(version).is_none_or(|least| host.kernel >= least)
    }

    fn build(&self, dialect: Dialect) -> Result<LinuxSyscall, SpecError> {
        let names: Vec<String> = self.names().cloned().collect();
        let mut rule = LinuxSyscallBuilder::default().names(names).action(self.action).build()?;
        rule.set_errno_ret(self.errno_ret);
        let arguments = self.args.iter().flatten().map(|argument| argument.build(dialect));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        rule.set_args((!arguments.is_empty()).then_some(arguments));
        Ok(rule)
    }
}

impl Argument {
    /// libcontainer 0.7 reads mask and value of a masked comparison the other way round ([`Dialect`]).
    fn build(self, dialect: Dialect) -> Result<LinuxSeccompArg, SpecError> {
        let is_turned = dialect == Dialect::Libcontainer && self.op == LinuxSeccompOperator::ScmpCmpMaskedEq;
        let (value, value_two) = if is_turned { (self.value_two, self.value) } else { (self.value, self.value_two) };
        let builder = LinuxSeccompArgBuilder::default().index(self.index).op(self.op);
        Ok(builder.value(value).value_two(value_two).build()?)
    }
}

impl Condition {
    fn check(&self) -> Result<(), String> {
        if let Some(name) = self.caps.iter().flatten().find(|name| capability(name).is_none()) {
            return Err(format!("`{}` is no capability", name.escape_debug()));
        }
        match self.min_kernel.as_deref().map(|text| (text, version(text))) {
            Some((text, None)) => Err(format!("`minKernel` is `{}`, expected e.g. `4.8`", text.escape_debug())),
            _ => Ok(()),
        }
    }
}

fn capability(name: &str) -> Option<Capability> {
    named(name.strip_prefix("CAP_")?)
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn check_action(key: &str, action: LinuxSeccompAction) -> Result<(), String> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(format!("`{key}` is `SCMP_ACT_NOTIFY`, which is not supported: nobody would answer it"));
    }
    Ok(())
}

fn check_errno(number: Option<u32>, name: Option<&str>) -> Result<(), String> {
    match (number, name) {
        (Some(number), _) if number > MAX_ERRNO => Err(format!("error number {number}, expected {MAX_ERRNO} at most")),
        // podman writes both; a name alone would have to be looked up.
        (None, Some(name)) => Err(format!("`{}` is given as a name alone, expected `errnoRet`", name.escape_debug())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;
    use crate::image::Platform;

    fn parse(text: &str) -> Result<Profile, SpecError> {
        Profile::parse(Path::new("p.json"), text.as_bytes())
    }

    fn names(filter: &LinuxSeccomp) -> Vec<String> {
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn a_misspelt_name_is_told() {
        let profile = |names: &str| {
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": {names}, "action": "SCMP_ACT_ERRNO"}}]}}"#
            );
            parse(&text).unwrap().warning()
        };
        assert_eq!(profile(r#"["mkdir", "chown32", "clone3"]"#), None);
        assert!(profile(r#"["mkdir", "mkdri"]"#).unwrap().ends_with("have no effect: `mkdri`"));
        assert!(profile(r#"["a", "b", "c", "d", "e", "f", "g"]"#).unwrap().ends_with("`e` and 2 more"));
    }

    const CONDITIONS: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            {"names": ["always"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"name": "old_form", "action": "SCMP_ACT_ALLOW"},
            {"names": ["on_arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["on_x86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["not_on_x86"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
            {"names": ["with_admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["without_admin"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["old"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.2"}}]}"#;

    #[test]
    fn conditions_are_dockers() {
        let profile = parse(CONDITIONS).unwrap();
        let old = HostFacts { kernel: (6, 1), ..fixture::host() };
        let filter = profile.filter(&old, &HashSet::new()).unwrap();
        assert_eq!(names(&filter), ["always", "old_form", "on_x86", "without_admin", "old"]);
        assert_eq!(filter.default_errno_ret(), Some(38));
        let x86 = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(filter.architectures().as_deref(), Some(x86.as_slice()));
        let new = HostFacts { kernel: (6, 10), platform: Platform::new("linux", "arm64", None), ..fixture::host() };
        let filter = profile.filter(&new, &HashSet::from([Capability::SysAdmin, Capability::Chown])).unwrap();
        assert_eq!(names(&filter), ["always", "old_form", "on_arm", "not_on_x86", "with_admin", "both", "new"]);
    }

    #[test]
    fn masked_comparisons_are_written_for_their_reader() {
        let profile = parse(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        for (dialect, expected) in [(Dialect::Standard, (7, Some(3))), (Dialect::Libcontainer, (3, Some(7)))] {
            let filter = profile.filter(&HostFacts { dialect, ..fixture::host() }, &HashSet::new()).unwrap();
            let arguments = filter.syscalls().as_ref().unwrap()[0].args().clone().unwrap();
            assert_eq!((arguments[0].value(), arguments[0].value_two()), expected);
            assert_eq!((arguments[1].value(), arguments[1].value_two()), (7, Some(0)));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
        let errno = |keys: &str| rule(&format!(r#"{{"names": ["a"], "action": "SCMP_ACT_ERRNO", {keys}}}"#));
        for (text, expected) in [
            (String::new(), "not a profile: EOF"),
            ("{}".to_owned(), "missing field `defaultAction`"),
            (r#"{"defaultAction": "ALLOW"}"#.to_owned(), "unknown variant `ALLOW`"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "`defaultAction` is `SCMP_ACT_NOTIFY`"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#.to_owned(), "unknown field `sycalls`"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "archMap": []}"#.to_owned(),
                "`architectures` and `archMap` exclude each other",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#.to_owned(),
                "`listenerPath` is not supported",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#
                    .to_owned(),
                "goes with `SCMP_ACT_NOTIFY`",
            ),
            (rule(r#"{"action": "SCMP_ACT_ALLOW"}"#), "entry 1: `names` is missing or empty"),
            (rule(r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#), "`names` is missing or empty"),
            (rule(r#"{"names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW"}"#), "exclude each other"),
            (rule(r#"{"names": ["a\u0000"], "action": "SCMP_ACT_ALLOW"}"#), "is no name of a system call"),
            (errno(r#""errnoRet": 4096"#), "error number 4096, expected 4095 at most"),
            (errno(r#""errno": "EPERM""#), "`EPERM` is given as a name alone"),
            (errno(r#""args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#), "index 6, expected 0 to 5"),
            (errno(r#""args": [{"index": -1, "value": 0, "op": "SCMP_CMP_EQ"}]"#), "invalid value"),
            (errno(r#""includes": {"caps": ["SYS_ADMIN"]}"#), "`SYS_ADMIN` is no capability"),
            (errno(r#""includes": {"minKernel": "new"}"#), "`minKernel` is `new`, expected"),
            (errno(r#""includes": {"arch": []}"#), "unknown field `arch`"),
            ("[".repeat(100_000), "not a profile"),
            (" ".repeat(2 << 20), "more than 1048576 bytes"),
        ] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.starts_with("`--security-opt seccomp=p.json`: "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        let many = vec![r#""a""#; MAX_NAMES + 1].join(",");
        let message = parse(&rule(&format!(r#"{{"names": [{many}], "action": "SCMP_ACT_LOG"}}"#))).unwrap_err();
        assert!(message.to_string().contains("20001 names"), "{message}");
    }
}
