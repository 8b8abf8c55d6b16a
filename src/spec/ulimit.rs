//! `--ulimit`: limits of each process, by docker's names.

use oci_spec::OciSpecError;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::HostFacts;
use super::error::SpecError;
use super::flag_error::FlagProblem;

/// How many limits there are (`RLIM_NLIMITS`); their numbers in the kernel are the indices of [`HostFacts::hard_limits`].
pub const LIMIT_COUNT: usize = 16;
/// No limit (`RLIM_INFINITY`).
const UNLIMITED: u64 = u64::MAX;
/// Docker's names, with the kernel's numbers (asm-generic/resource.h).
const KINDS: [(&str, PosixRlimitType, usize); 15] = [
    ("core", PosixRlimitType::RlimitCore, 4),
    ("cpu", PosixRlimitType::RlimitCpu, 0),
    ("data", PosixRlimitType::RlimitData, 2),
    ("fsize", PosixRlimitType::RlimitFsize, 1),
    ("locks", PosixRlimitType::RlimitLocks, 10),
    ("memlock", PosixRlimitType::RlimitMemlock, 8),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue, 12),
    ("nice", PosixRlimitType::RlimitNice, 13),
    (OPEN_FILES, PosixRlimitType::RlimitNofile, 7),
    ("nproc", PosixRlimitType::RlimitNproc, 6),
    ("rss", PosixRlimitType::RlimitRss, 5),
    ("rtprio", PosixRlimitType::RlimitRtprio, 14),
    ("rttime", PosixRlimitType::RlimitRttime, 15),
    ("sigpending", PosixRlimitType::RlimitSigpending, 11),
    ("stack", PosixRlimitType::RlimitStack, 3),
];
const OPEN_FILES: &str = "nofile";
const FLAG: &str = "--ulimit";

/// One limit, with units as in setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// Index into [`KINDS`].
    kind: usize,
    soft: u64,
    hard: u64,
}

impl Ulimit {
    /// Reads `TYPE=SOFT[:HARD]`; -1 is unlimited.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let wrong = |problem| SpecError::flag(FLAG, text, problem);
        let shape =
            || wrong(FlagProblem::Shape("`TYPE=SOFT[:HARD]`, numbers, -1 for unlimited, e.g. `nofile=1024:4096`"));
        let (name, values) = text.split_once('=').ok_or_else(shape)?;
        let Some(kind) = KINDS.iter().position(|(known, ..)| *known == name) else {
            let expected = KINDS.map(|(known, ..)| known).join(", ");
            return Err(wrong(FlagProblem::Unknown { name: name.to_owned(), expected }));
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft).ok_or_else(shape)?, number(hard).ok_or_else(shape)?);
        if soft > hard {
            return Err(wrong(FlagProblem::SoftAboveHard));
        }
        Ok(Self { kind, soft, hard })
    }

    const fn name(self) -> &'static str {
        KINDS[self.kind].0
    }

    /// As much of it as the caller may give.
    fn clamped(self, host: &HostFacts) -> Self {
        let ceiling = if host.can_raise_limits { UNLIMITED } else { host.hard_limits[KINDS[self.kind].2] };
        // Above `fs.nr_open` even root may not go.
        let ceiling = if self.name() == OPEN_FILES { ceiling.min(host.nr_open) } else { ceiling };
        Self { soft: self.soft.min(ceiling), hard: self.hard.min(ceiling), ..self }
    }
}

fn number(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(UNLIMITED);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn in_words(value: u64) -> String {
    if value == UNLIMITED { "unlimited".to_owned() } else { value.to_string() }
}

/// The last one of each kind, as far as the machine permits.
fn effective(ulimits: &[Ulimit]) -> impl Iterator<Item = &Ulimit> {
    let is_last = |index: usize, kind: usize| !ulimits[index + 1..].iter().any(|later| later.kind == kind);
    ulimits.iter().enumerate().filter(move |(index, limit)| is_last(*index, limit.kind)).map(|(_, limit)| limit)
}

pub(super) fn names_open_files(ulimits: &[Ulimit]) -> bool {
    ulimits.iter().any(|limit| limit.name() == OPEN_FILES)
}

pub(super) fn rlimits(ulimits: &[Ulimit], host: &HostFacts) -> Result<Vec<PosixRlimit>, OciSpecError> {
    let build = |limit: &Ulimit| {
        let limit = limit.clamped(host);
        PosixRlimitBuilder::default().typ(KINDS[limit.kind].1).soft(limit.soft).hard(limit.hard).build()
    };
    effective(ulimits).map(build).collect()
}

/// Says what [`rlimits`] had to lower.
pub(super) fn warnings(ulimits: &[Ulimit], host: &HostFacts) -> Vec<String> {
    let lowered = effective(ulimits).filter(|limit| limit.clamped(host) != **limit);
    let warning = |limit: &Ulimit| {
        let possible = limit.clamped(host);
        format!(
            "the limit `{}` is {}:{} instead of {}:{}: this machine permits no more",
            limit.name(),
            in_words(possible.soft),
            in_words(possible.hard),
            in_words(limit.soft),
            in_words(limit.hard)
        )
    };
    lowered.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn parse(text: &str) -> Ulimit {
        Ulimit::parse(text).unwrap()
    }

    #[test]
    fn values_are_dockers() {
        for (text, soft, hard) in [
            ("nofile=5", 5, 5),
            ("core=0", 0, 0),
            ("stack=1:2", 1, 2),
            ("memlock=-1", UNLIMITED, UNLIMITED),
            ("memlock=7:-1", 7, UNLIMITED),
        ] {
            let limit = parse(text);
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
        }
        for (text, expected) in [
            ("nofile", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=1:", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=1:2:3", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=-2", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=+2", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=1k", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=99999999999999999999", "expected `TYPE=SOFT[:HARD]`"),
            ("nofile=2:1", "the soft limit is above the hard one"),
            ("nofile=-1:1", "the soft limit is above the hard one"),
            ("as=1", "`as` is unknown, expected core, cpu, data,"),
            ("=1", "`` is unknown"),
        ] {
            let message = Ulimit::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`--ulimit {text}`: {expected}")), "{message}");
        }
    }

    #[test]
    fn the_machine_bounds_them_and_the_last_counts() {
        let mut hard_limits = [UNLIMITED; LIMIT_COUNT];
        (hard_limits[7], hard_limits[6]) = (4096, 100);
        let host = HostFacts { can_raise_limits: false, hard_limits, nr_open: 1 << 20, ..fixture::host() };
        let wanted = [parse("nofile=1:2"), parse("nofile=1000:-1"), parse("nproc=500"), parse("core=0")];
        let limits: Vec<(u64, u64)> =
            rlimits(&wanted, &host).unwrap().iter().map(|limit| (limit.soft(), limit.hard())).collect();
        assert_eq!(limits, [(1000, 4096), (100, 100), (0, 0)]);
        assert_eq!(
            warnings(&wanted, &host),
            [
                "the limit `nofile` is 1000:4096 instead of 1000:unlimited: this machine permits no more",
                "the limit `nproc` is 100:100 instead of 500:500: this machine permits no more",
            ]
        );
        let strong = HostFacts { can_raise_limits: true, ..host };
        assert_eq!(rlimits(&[parse("nofile=-1")], &strong).unwrap()[0].hard(), 1 << 20);
        assert!(warnings(&[parse("nproc=-1")], &strong).is_empty());
    }
}
