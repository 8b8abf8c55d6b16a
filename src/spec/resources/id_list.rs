//! Lists of processors and memory nodes as the kernel writes them: `0-3,5` (cpuset(7), "List format").

use std::collections::BTreeSet;

use super::super::error::SpecError;
use super::super::flag_error::FlagProblem;

/// More than any kernel is built for.
const MAX_ID: u32 = 65_535;

/// Numbers of processors or of memory nodes; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdList {
    text: String,
    ids: BTreeSet<u32>,
}

impl IdList {
    /// Reads the value of a flag.
    pub fn parse(flag: &'static str, text: &str) -> Result<Self, SpecError> {
        let shape = FlagProblem::Shape("numbers and ranges, e.g. `0-3,5`");
        Self::read(text).ok_or_else(|| SpecError::flag(flag, text, shape))
    }

    fn read(text: &str) -> Option<Self> {
        let mut ids = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (id(first)?, id(last)?);
            if first > last {
                return None;
            }
            ids.extend(first..=last);
        }
        Some(Self { text: text.to_owned(), ids })
    }

    /// Whether a machine that has `available` has all of it. A list that cannot be read refuses nothing: the kernel will.
    pub(super) fn check(&self, flag: &'static str, available: &str) -> Result<(), SpecError> {
        match Self::read(available) {
            Some(there) if !self.ids.is_subset(&there.ids) => {
                let problem = FlagProblem::NotAvailable { available: available.to_owned() };
                Err(SpecError::flag(flag, &self.text, problem))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_kernels() {
        for (text, ids) in [("0", vec![0]), ("0-2", vec![0, 1, 2]), ("3,1-1,1", vec![1, 3])] {
            assert_eq!(IdList::parse("--cpuset-cpus", text).unwrap().ids.into_iter().collect::<Vec<_>>(), ids);
        }
        for bad in ["", ",", "0,", "-", "1-", "-1", "2-1", "a", "0 1", "0-65536", "+1", "0--1"] {
            let message = IdList::parse("--cpuset-cpus", bad).unwrap_err().to_string();
            assert!(message.contains("expected numbers and ranges"), "{message}");
        }
    }

    #[test]
    fn the_machines_range_is_told() {
        let list = IdList::parse("--cpuset-cpus", "0,7").unwrap();
        list.check("--cpuset-cpus", "0-7").unwrap();
        list.check("--cpuset-cpus", "").unwrap();
        let message = list.check("--cpuset-cpus", "0-3,8").unwrap_err().to_string();
        assert_eq!(message, "`--cpuset-cpus 0,7`: not available, this machine has `0-3,8`");
    }
}
