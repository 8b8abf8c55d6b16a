//! Whether this machine can give a run what it asks for, beside what other runs hold. Pure; the caller looks and locks.
//!
//! Two runs that start at once must not both be given the last of something: whoever checks holds
//! [`crate::store::Store::lock_resources`] from before it looks at the other runs until its own record says what it holds.

use crate::container::HostResources;
use crate::image::ByteSize;
use crate::store::{Limits, RunName, RunRecord};

/// CPU numbers are sums of fractions; less than this is rounding.
const CPU_TOLERANCE: f64 = 1e-6;
/// So many runs are named; of the others only the number.
const MAX_NAMED_RUNS: usize = 5;

/// What a run asks for; `None` is no requirement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// Number of processors.
    pub cpus: Option<f64>,
    /// Memory limit.
    pub memory: Option<ByteSize>,
    /// Size of /dev/shm, which is memory.
    pub shm_size: Option<ByteSize>,
}

/// What another run holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The run.
    pub run: RunName,
    /// Number of processors.
    pub cpus: Option<f64>,
    /// Memory limit.
    pub memory: Option<ByteSize>,
}

/// What the machine cannot give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine cannot give what was asked for{}\nhint: ask for less, wait for other runs, or go on without this check: `--ignore-host-check`", indented(.lines))]
pub struct Unmet {
    lines: Vec<String>,
}

impl Unmet {
    /// The same for `--ignore-host-check`, which goes on.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("going on although this machine cannot give what was asked for{}", indented(&self.lines))
    }

    /// One line for each resource: what was asked, what there is, and who holds how much of it.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// What runs that have not ended hold ([`crate::store::Store::live_runs`]); one without limits holds nothing, nor does `except`, the
/// run that asks.
#[must_use]
pub fn held(records: &[RunRecord], except: &RunName) -> Vec<Held> {
    let of = |record: &RunRecord| {
        let Limits { cpus, memory, .. } = record.limits;
        (cpus.is_some() || memory.is_some()).then(|| Held { run: record.name.clone(), cpus, memory })
    };
    records.iter().filter(|record| record.name != *except && !record.state.is_final()).filter_map(of).collect()
}

fn indented(lines: &[String]) -> String {
    lines.iter().flat_map(|line| ["\n  ", line]).collect()
}

/// Compares what is asked for with what there is. With nothing in `held` it is the bare machine that counts. GPUs were looked
/// for before, by whoever leases them; `missing_gpus` says why they cannot be had.
///
/// # Errors
/// [`Unmet`] with a line for each resource that there is not enough of.
pub fn check(asked: &Asked, host: &HostResources, held: &[Held], missing_gpus: Option<String>) -> Result<(), Unmet> {
    let lines: Vec<String> = [
        asked.cpus.and_then(|cpus| cpu_line(cpus, host, held)),
        asked.memory.and_then(|memory| memory_line(memory, host, held)),
        asked.shm_size.and_then(|shm_size| shm_line(shm_size, host)),
        // Below the others its own lines stand further to the right.
        missing_gpus.map(|words| format!("gpu: {}", words.replace('\n', "\n  "))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if lines.is_empty() { Ok(()) } else { Err(Unmet { lines }) }
}

fn cpu_line(asked: f64, host: &HostResources, held: &[Held]) -> Option<String> {
    let holders: Vec<(&RunName, f64)> = held.iter().filter_map(|held| Some((&held.run, held.cpus?))).collect();
    let reserved: f64 = holders.iter().map(|(_, cpus)| cpus).sum();
    if asked + reserved <= f64::from(host.cpus) + CPU_TOLERANCE {
        return None;
    }
    let reserved = reserved_in_words(&cpus_in_words(reserved), &holders, |cpus| cpus_in_words(*cpus));
    Some(format!("cpu: asked {}, this machine has {}{reserved}", cpus_in_words(asked), host.cpus))
}

fn memory_line(asked: ByteSize, host: &HostResources, held: &[Held]) -> Option<String> {
    let holders: Vec<(&RunName, ByteSize)> = held.iter().filter_map(|held| Some((&held.run, held.memory?))).collect();
    let reserved = holders.iter().fold(0, |sum: u64, (_, memory)| sum.saturating_add(memory.0));
    if asked.0.saturating_add(reserved) <= host.memory.0 {
        return None;
    }
    let reserved = reserved_in_words(&size_in_words(ByteSize(reserved)), &holders, |memory| size_in_words(*memory));
    Some(format!("memory: asked {}, {}{reserved}", size_in_words(asked), memory_of(host)))
}

fn shm_line(asked: ByteSize, host: &HostResources) -> Option<String> {
    (asked > host.memory).then(|| format!("shm_size: asked {}, {} of memory", size_in_words(asked), memory_of(host)))
}

fn memory_of(host: &HostResources) -> String {
    if host.memory_is_limited {
        format!("this process may use {} (the limit of its cgroup)", host.memory)
    } else {
        format!("this machine has {}", host.memory)
    }
}

/// Continues a line with who holds how much; nothing when nobody holds anything.
fn reserved_in_words<T>(sum: &str, holders: &[(&RunName, T)], words: impl Fn(&T) -> String) -> String {
    let named = holders.iter().take(MAX_NAMED_RUNS).map(|(run, amount)| format!("{} by run `{run}`", words(amount)));
    let mut named: Vec<String> = named.collect();
    match holders.len() {
        0 => return String::new(),
        1 => return format!(", {sum} of it reserved by run `{}`", holders[0].0),
        more if more > MAX_NAMED_RUNS => named.push(format!("the rest by {} more", more - MAX_NAMED_RUNS)),
        _ => {}
    }
    format!(", {sum} of it reserved: {}", named.join(", "))
}

/// At most two decimals, as many as are needed.
fn cpus_in_words(cpus: f64) -> String {
    format!("{cpus:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A size as people have written it: decimal when it is round in decimal units only.
#[must_use]
pub fn size_in_words(size: ByteSize) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let is_binary = size.0.is_multiple_of(1 << 20);
    let decimal = UNITS.iter().find(|(unit, _)| !is_binary && size.0 >= *unit && size.0.is_multiple_of(*unit));
    decimal.map_or_else(|| size.to_string(), |(unit, name)| format!("{} {name}", size.0 / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host() -> HostResources {
        HostResources { cpus: 8, memory: ByteSize(24 * GIB - GIB / 2), memory_is_limited: false }
    }

    fn cpus(cpus: f64) -> Asked {
        Asked { cpus: Some(cpus), ..Asked::default() }
    }

    fn memory(bytes: u64) -> Asked {
        Asked { memory: Some(ByteSize(bytes)), ..Asked::default() }
    }

    fn holds(run: &str, cpus: f64, gib: u64) -> Held {
        let memory = (gib > 0).then_some(ByteSize(gib * GIB));
        Held { run: run.parse().unwrap(), cpus: (cpus > 0.0).then_some(cpus), memory }
    }

    fn lines(asked: &Asked, host: &HostResources, held: &[Held]) -> Vec<String> {
        check(asked, host, held, None).err().map_or_else(Vec::new, |unmet| unmet.lines().to_vec())
    }

    #[test]
    fn what_fits_is_given() {
        let held = [holds("a", 4.0, 10), holds("b", 0.0, 0)];
        for (asked, held) in [
            (Asked::default(), &held[..]),
            (cpus(8.0), &[]),
            (cpus(4.0), &held),
            (memory(23 * GIB), &[]),
            (memory(13 * GIB), &held),
            (Asked { shm_size: Some(ByteSize(23 * GIB)), ..Asked::default() }, &held),
        ] {
            assert_eq!(check(&asked, &host(), held, None), Ok(()), "{asked:?}");
        }
        // Thirds and tenths are no exact numbers.
        let tenths: Vec<Held> = (0..70).map(|number| holds(&format!("r{number}"), 0.1, 0)).collect();
        assert_eq!(check(&cpus(1.0), &host(), &tenths, None), Ok(()));
    }

    #[test]
    fn each_line_says_what_is_missing() {
        let some = [holds("calm-fox-1", 4.0, 20)];
        let many: Vec<Held> = (0..7).map(|number| holds(&format!("r{number}"), 1.0, 0)).collect();
        let limited = HostResources { memory_is_limited: true, ..host() };
        for (asked, host, held, line) in [
            (cpus(8.5), host(), &[][..], "cpu: asked 8.5, this machine has 8"),
            (cpus(4.25), host(), &some, "cpu: asked 4.25, this machine has 8, 4 of it reserved by run `calm-fox-1`"),
            (
                cpus(2.0),
                host(),
                &many,
                "cpu: asked 2, this machine has 8, 7 of it reserved: 1 by run `r0`, 1 by run `r1`, 1 by run `r2`, \
                 1 by run `r3`, 1 by run `r4`, the rest by 2 more",
            ),
            (memory(32_000_000_000), host(), &[], "memory: asked 32 GB, this machine has 23.5 GiB"),
            (
                memory(16_000_000_000),
                host(),
                &some,
                "memory: asked 16 GB, this machine has 23.5 GiB, 20 GiB of it reserved by run `calm-fox-1`",
            ),
            (
                memory(24 * GIB),
                limited,
                &[],
                "memory: asked 24 GiB, this process may use 23.5 GiB (the limit of its cgroup)",
            ),
            (
                memory(u64::MAX),
                host(),
                &some,
                "memory: asked 16383.9 PiB, this machine has 23.5 GiB, 20 GiB of it reserved by run `calm-fox-1`",
            ),
            (
                Asked { shm_size: Some(ByteSize(64 * GIB)), ..Asked::default() },
                host(),
                &[],
                "shm_size: asked 64 GiB, this machine has 23.5 GiB of memory",
            ),
        ] {
            assert_eq!(lines(&asked, &host, held), [line]);
        }
    }

    #[test]
    fn missing_gpus_are_one_of_the_lines() {
        let missing = Some("asked for 2 x A100, and 1 would do\n  GPU 0: NVIDIA H200, another model".to_owned());
        let unmet = check(&cpus(16.0), &host(), &[], missing).unwrap_err().to_string();
        let lines: Vec<&str> = unmet.lines().collect();
        assert_eq!(
            lines[1..4],
            [
                "  cpu: asked 16, this machine has 8",
                "  gpu: asked for 2 x A100, and 1 would do",
                "    GPU 0: NVIDIA H200, another model"
            ]
        );
    }

    fn record(name: &str, limits: &serde_json::Value) -> RunRecord {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "name": name, "id": name, "image": "app", "layers": [], "command": [], "limits": limits,
            "state": "submitted", "rootfs": "", "boot_id": "", "created": "", "remove": false, "keep": false
        }))
        .unwrap()
    }

    #[test]
    fn runs_that_start_at_once_share_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(dir.path()).unwrap();
        let start = |number: usize| {
            let name: RunName = format!("run-{number}").parse().unwrap();
            let reservation = store.create_run(&name).unwrap();
            let lock = store.lock_resources(|_| {}).unwrap();
            let held = held(&store.live_runs().unwrap(), &name);
            let given = check(&cpus(2.0), &host(), &held, None).is_ok();
            if given {
                let record = record(name.as_str(), &serde_json::json!({ "cpus": 2 }));
                reservation.dir().write_passing_record(&record).unwrap();
            }
            drop(lock);
            given.then_some(reservation)
        };
        let start = &start;
        let given: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..9).map(|number| scope.spawn(move || start(number))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(given.len(), 4, "of 8 processors 2 for each");
        // What an ended run held is free.
        drop(given);
        assert!(start(9).is_some());
    }

    #[test]
    fn runs_with_limits_hold_them() {
        let mut ended = record("ended", &serde_json::json!({ "cpus": 4 }));
        ended.state = crate::store::RunState::Done;
        let records = [
            ended,
            record("one", &serde_json::json!({ "cpus": 1.5, "memory": 1 << 30 })),
            record("shm", &serde_json::json!({ "shm_size": 1 << 30 })),
            record("own", &serde_json::json!({ "cpus": 2 })),
            record("free", &serde_json::json!({})),
        ];
        assert_eq!(held(&records, &"own".parse().unwrap()), [holds("one", 1.5, 1)]);
    }

    #[test]
    fn one_error_has_all_lines() {
        let asked = Asked { cpus: Some(16.0), ..memory(64_000_000_000) };
        let unmet = check(&asked, &host(), &[], None).unwrap_err();
        assert_eq!(
            unmet.to_string(),
            "this machine cannot give what was asked for\n  cpu: asked 16, this machine has 8\n  \
             memory: asked 64 GB, this machine has 23.5 GiB\n\
             hint: ask for less, wait for other runs, or go on without this check: `--ignore-host-check`"
        );
        assert!(!unmet.warning().contains("hint:") && unmet.warning().contains("\n  memory: asked 64 GB"));
    }
}
