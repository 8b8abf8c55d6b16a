//! What `top` can show of a process, under the names that ps(1) and podman have for it.
//!
//! docker hands options of ps(1) on: numbers and users are those of the machine then, and headers are those of ps. podman
//! takes names of its own: numbers and users are those of the container, and with an `h` before them those of the machine.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::exit::CliError;
use super::time;
use crate::container::Process;
use crate::engine::Names;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    field: Field,
    /// Its header.
    pub(super) header: String,
    /// Numbers and users are those of the container.
    inside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Args,
    Command,
    Group,
    GroupNumber,
    Memory,
    MemoryShare,
    Nice,
    ParentPid,
    Pid,
    ProcessGroup,
    ProcessorShare,
    RealGroup,
    RealUser,
    Resident,
    Seccomp,
    Since,
    Start,
    State,
    Terminal,
    Threads,
    Time,
    User,
    UserNumber,
}

/// Names of ps(1) and their headers.
const PS: [(&str, &str, Field); 36] = [
    ("args", "COMMAND", Field::Args),
    ("cmd", "CMD", Field::Args),
    ("command", "COMMAND", Field::Args),
    ("comm", "COMMAND", Field::Command),
    ("ucmd", "CMD", Field::Command),
    ("cputime", "TIME", Field::Time),
    ("time", "TIME", Field::Time),
    ("egid", "EGID", Field::GroupNumber),
    ("gid", "GID", Field::GroupNumber),
    ("egroup", "EGROUP", Field::Group),
    ("group", "GROUP", Field::Group),
    ("rgroup", "RGROUP", Field::RealGroup),
    ("etime", "ELAPSED", Field::Since),
    ("euid", "EUID", Field::UserNumber),
    ("uid", "UID", Field::UserNumber),
    ("euser", "EUSER", Field::User),
    ("user", "USER", Field::User),
    ("ruser", "RUSER", Field::RealUser),
    ("ni", "NI", Field::Nice),
    ("nice", "NI", Field::Nice),
    ("nlwp", "NLWP", Field::Threads),
    ("thcount", "THCNT", Field::Threads),
    ("%cpu", "%CPU", Field::ProcessorShare),
    ("pcpu", "%CPU", Field::ProcessorShare),
    ("%mem", "%MEM", Field::MemoryShare),
    ("pmem", "%MEM", Field::MemoryShare),
    ("pgid", "PGID", Field::ProcessGroup),
    ("pid", "PID", Field::Pid),
    ("ppid", "PPID", Field::ParentPid),
    ("rss", "RSS", Field::Resident),
    ("s", "S", Field::State),
    ("state", "S", Field::State),
    ("stat", "STAT", Field::State),
    ("stime", "STIME", Field::Start),
    ("tty", "TT", Field::Terminal),
    ("vsz", "VSZ", Field::Memory),
];

/// Names of podman, which are their headers too, but for those that are in [`DIFFERENT`].
const PODMAN: [(&str, Field, bool); 22] = [
    ("args", Field::Args, true),
    ("comm", Field::Command, true),
    ("etime", Field::Since, true),
    ("group", Field::Group, true),
    ("hgroup", Field::Group, false),
    ("hpid", Field::Pid, false),
    ("huser", Field::User, false),
    ("nice", Field::Nice, true),
    ("pcpu", Field::ProcessorShare, true),
    ("pgid", Field::ProcessGroup, false),
    ("pid", Field::Pid, true),
    ("ppid", Field::ParentPid, true),
    ("rgroup", Field::RealGroup, true),
    ("rss", Field::Resident, true),
    ("ruser", Field::RealUser, true),
    ("seccomp", Field::Seccomp, true),
    ("state", Field::State, true),
    ("stime", Field::Start, true),
    ("time", Field::Time, true),
    ("tty", Field::Terminal, true),
    ("user", Field::User, true),
    ("vsz", Field::Memory, true),
];

/// Headers that are not the name in capitals.
const DIFFERENT: [(&str, &str); 5] =
    [("args", "COMMAND"), ("comm", "COMMAND"), ("etime", "ELAPSED"), ("nice", "NI"), ("pcpu", "%CPU")];

/// What ps(1) shows with these options.
const PRESETS: [(&[&str], &str); 4] = [
    (&["aux", "-aux", "axu", "u"], "user,pid,%cpu,%mem,vsz,rss,tty,stat,stime,time,command"),
    (&["-ef", "ef", "-f", "-eF"], "user,pid,ppid,pcpu,stime,tty,time,cmd"),
    (&["-e", "-A", "ax"], "pid,tty,time,comm"),
    (&["-el", "-l", "l"], "state,uid,pid,ppid,pcpu,ni,vsz,tty,time,comm"),
];

/// The columns that these words ask for: options of ps(1), or podman's names.
pub(super) fn columns(words: &[String]) -> Result<Vec<Column>, CliError> {
    // As both tools take it: `top web "-o pid,comm"` in one word.
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    let is_ps = words.first().is_some_and(|word| word.starts_with('-') || preset(word).is_some());
    if !is_ps {
        return words.iter().flat_map(|word| word.split(',')).map(podman_column).collect();
    }
    let (mut found, mut usual) = (Vec::new(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let list = match word.strip_prefix("-eo").or_else(|| word.strip_prefix("-o")) {
            Some("") => Some(words.next().ok_or_else(|| unknown("-o", "a list of columns after it"))?),
            Some(list) => Some(list),
            None => word.strip_prefix("--format="),
        };
        match (list, preset(word)) {
            (Some(list), _) => found.extend(list.split(',').map(ps_column).collect::<Result<Vec<_>, _>>()?),
            (None, Some(list)) => usual = Some(list),
            (None, None) => {
                let known: Vec<&str> = PRESETS.iter().map(|(names, _)| names[0]).collect();
                return Err(unknown(word, &format!("`-o COLUMN,…`, {}", quoted(&known))));
            }
        }
    }
    match usual {
        Some(list) if found.is_empty() => list.split(',').map(ps_column).collect(),
        _ => Ok(found),
    }
}

fn preset(word: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(names, _)| names.contains(&word)).map(|(_, list)| *list)
}

fn unknown(word: &str, expected: &str) -> CliError {
    CliError::Usage(format!("`{word}` is unknown to `top`, expected {expected}"))
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// `pid`, or `pid=NUMBER` with a header of one's own.
fn ps_column(text: &str) -> Result<Column, CliError> {
    let (name, header) = text.split_once('=').map_or((text, None), |(name, header)| (name, Some(header)));
    let found = PS.iter().find(|(known, ..)| *known == name.to_lowercase());
    let Some((_, usual, field)) = found else {
        return Err(unknown(text, &format!("with `-o` one of {}", quoted(&PS.map(|(name, ..)| name)))));
    };
    Ok(Column { field: *field, header: header.unwrap_or(usual).to_owned(), inside: false })
}

fn podman_column(text: &str) -> Result<Column, CliError> {
    let found = PODMAN.iter().find(|(known, ..)| *known == text.to_lowercase());
    let Some((name, field, inside)) = found else {
        let hint = "\nhint: options of ps work as well: `-o pid,comm`, `aux`, `-ef`";
        return Err(unknown(text, &format!("one of {}{hint}", quoted(&PODMAN.map(|(name, ..)| name)))));
    };
    let different = DIFFERENT.iter().find(|(known, _)| known == name);
    let header = different.map_or_else(|| name.to_uppercase(), |(_, header)| (*header).to_owned());
    Ok(Column { field: *field, header, inside: *inside })
}

/// What cells are made with.
pub(super) struct Surroundings {
    /// Names in the container.
    pub(super) container: Names,
    /// Names on the machine.
    pub(super) machine: Names,
    pub(super) memory_bytes: u64,
    pub(super) now: Timestamp,
    /// Numbers in the container by those on the machine.
    pub(super) inner_pids: HashMap<i32, i32>,
}

impl Surroundings {
    /// What stands in this column for this process.
    pub(super) fn cell(&self, column: &Column, process: &Process) -> String {
        let inside = column.inside;
        let user = |machine: u32, container: u32| {
            if inside { self.container.user(container) } else { self.machine.user(machine) }
        };
        let group = |machine: u32, container: u32| {
            if inside { self.container.group(container) } else { self.machine.group(machine) }
        };
        let ids = &process.ids;
        match column.field {
            Field::Args => process.command.clone(),
            Field::Command => process.name.clone(),
            Field::Group => group(ids.gid, ids.inner_gid),
            Field::GroupNumber => ids.gid.to_string(),
            Field::Memory => (process.virtual_memory / 1024).to_string(),
            Field::MemoryShare => share(as_number(process.memory), as_number(self.memory_bytes)),
            Field::Nice => process.nice.to_string(),
            Field::ParentPid if inside => self.inner_pids.get(&process.parent).copied().unwrap_or(0).to_string(),
            Field::ParentPid => process.parent.to_string(),
            Field::Pid => if inside { process.container_pid } else { process.pid }.to_string(),
            Field::ProcessGroup => process.group.to_string(),
            Field::ProcessorShare => share(process.cpu.as_secs_f64(), process.age.as_secs_f64()),
            Field::RealGroup => group(ids.real_gid, ids.inner_real_gid),
            Field::RealUser => user(ids.real_uid, ids.inner_real_uid),
            Field::Resident => (process.memory / 1024).to_string(),
            Field::Seccomp => process.seccomp.to_owned(),
            Field::Since => since(process.age),
            Field::Start => self.start(process.age),
            Field::State => process.state.to_string(),
            Field::Terminal => process.terminal.clone().unwrap_or_else(|| "?".to_owned()),
            Field::Threads => process.threads.to_string(),
            Field::Time => time(process.cpu.as_secs_f64()),
            Field::User => user(process.uid, ids.inner_uid),
            Field::UserNumber => process.uid.to_string(),
        }
    }

    /// `15:04` or, of another day, `Nov24`; UTC, as all times of ours.
    fn start(&self, age: Duration) -> String {
        const DAY: i64 = 86_400;
        let age = SignedDuration::try_from(age).unwrap_or_default();
        let Ok(then) = self.now.checked_sub(age) else { return "?".to_owned() };
        let is_today = then.as_second() / DAY == self.now.as_second() / DAY;
        then.strftime(if is_today { "%H:%M" } else { "%b%d" }).to_string()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage with one digit after the point")]
const fn as_number(bytes: u64) -> f64 {
    bytes as f64
}

fn share(part: f64, whole: f64) -> String {
    format!("{:.1}", if whole > 0.0 { part / whole * 100.0 } else { 0.0 })
}

/// `[[days-]hours:]minutes:seconds` (ps(1), `etime`).
fn since(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, rest) =
        (seconds / 86_400, seconds / 3600 % 24, format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60));
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        columns(&words).unwrap().iter().map(|column| column.header.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_ways_to_ask() {
        assert_eq!(headers(&["-o", "pid,comm", "-o", "user=WHO"]), "PID COMMAND WHO");
        assert_eq!(headers(&["-opid"]), headers(&["-eo", "pid"]));
        assert_eq!(headers(&["-o pid,%cpu"]), "PID %CPU");
        assert_eq!(headers(&["aux"]), "USER PID %CPU %MEM VSZ RSS TT STAT STIME TIME COMMAND");
        assert_eq!(headers(&["-ef", "-o", "pid"]), "PID");
        assert_eq!(headers(&["pid", "hpid", "huser", "args", "etime"]), "PID HPID HUSER COMMAND ELAPSED");
        assert_eq!(headers(&["pid,comm"]), "PID COMMAND");
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        for (words, said) in [
            (&["-o", "pid,colour"][..], "`colour` is unknown to `top`, expected with `-o` one of `args`"),
            (&["-o"], "expected a list of columns"),
            (&["--forest"], "`--forest` is unknown to `top`, expected `-o COLUMN,…`, `aux`, `-ef`"),
            (&["pid", "capeff"], "`capeff` is unknown to `top`, expected one of `args`, `comm`"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let message = columns(&words).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn times_and_shares() {
        let since = |seconds| since(Duration::from_secs(seconds));
        assert_eq!([since(61), since(3661), since(90_061)], ["01:01", "01:01:01", "1-01:01:01"]);
        assert_eq!((share(1.0, 3.0), share(1.0, 0.0)), ("33.3".to_owned(), "0.0".to_owned()));
    }
}
