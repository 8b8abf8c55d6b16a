//! Signals by name and number, as an image's `StopSignal` gives them.
//!
//! Numbers are those of Linux on x86, arm64, riscv64, ppc64le and s390x (signal(7)). Realtime signals count from 34, as
//! glibc and musl keep the first ones for themselves.

use std::fmt;
use std::str::FromStr;

use super::error::SpecError;

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const REALTIME_FIRST: i32 = 34;
const REALTIME_LAST: i32 = 64;

/// The signal that asks a workload to stop; a number from 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(i32);

impl StopSignal {
    /// What stops a workload whose image says nothing.
    pub const TERM: Self = Self(15);

    /// The number that `kill` takes.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::TERM
    }
}

impl FromStr for StopSignal {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        number(&upper)
            .or_else(|| NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number))
            .or_else(|| realtime(name))
            .filter(|number| (1..=REALTIME_LAST).contains(number))
            .map(Self)
            .ok_or_else(|| SpecError::Signal(text.to_owned()))
    }
}

fn number(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`, within the realtime signals.
fn realtime(name: &str) -> Option<i32> {
    let signal = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => REALTIME_FIRST,
        (_, Some("")) => REALTIME_LAST,
        (Some(rest), _) => REALTIME_FIRST.checked_add(number(rest.strip_prefix('+')?)?)?,
        (_, Some(rest)) => REALTIME_LAST.checked_sub(number(rest.strip_prefix('-')?)?)?,
        _ => return None,
    };
    (REALTIME_FIRST..=REALTIME_LAST).contains(&signal).then_some(signal)
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == REALTIME_FIRST => f.write_str("SIGRTMIN"),
            None if self.0 > REALTIME_FIRST => write!(f, "SIGRTMIN+{}", self.0 - REALTIME_FIRST),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number, name) in [
            ("SIGTERM", 15, "SIGTERM"),
            ("term", 15, "SIGTERM"),
            ("15", 15, "SIGTERM"),
            ("SIGQUIT", 3, "SIGQUIT"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("rtmin", 34, "SIGRTMIN"),
            ("RTMAX-1", 63, "SIGRTMIN+29"),
            ("SIGRTMAX", 64, "SIGRTMIN+30"),
            ("SIGIOT", 6, "SIGABRT"),
            ("33", 33, "33"),
        ] {
            let signal: StopSignal = text.parse().unwrap();
            assert_eq!((signal.number(), signal.to_string().as_str()), (number, name), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "SIGSIGTERM",
            "SIGRTMIN+31",
            "SIGRTMIN-1",
            "RTMAX-31",
            "RTMIN+",
            "99999999999",
            "SIG15",
        ] {
            assert!(bad.parse::<StopSignal>().is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn every_signal_prints_as_it_parses() {
        for number in 1..=64 {
            let signal = StopSignal(number);
            assert_eq!(signal.to_string().parse::<StopSignal>().unwrap(), signal);
        }
    }
}
