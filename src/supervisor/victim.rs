//! Whom the kernel killed for want of memory, from its own log.
//!
//! `mm/oom_kill.c` writes one line for each kill: `oom-kill:constraint=…,task_memcg=/dockless/RUN,task=NAME,pid=N,uid=N`. The
//! path holds the run's unique id, so that nobody else's line is taken for ours.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::O_NONBLOCK;

use crate::store::Victim;

/// The longest record (`CONSOLE_EXT_LOG_MAX` of the kernel); a shorter buffer gets an error.
const MAX_RECORD_BYTES: usize = 8192;
/// Most records that are read: the kernel's own buffer holds fewer.
const MAX_RECORDS: usize = 200_000;

/// The last victim in the cgroup `/…/<id>`; `None` where the log cannot be read or does not say.
pub(super) fn last_victim(id: &str) -> Option<Victim> {
    let mut log = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut record = vec![0; MAX_RECORD_BYTES];
    let mut found = None;
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(read @ 1..) => found = victim(&String::from_utf8_lossy(&record[..read]), id).or(found),
            // What was overwritten meanwhile is skipped.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            _ => break,
        }
    }
    found
}

/// The victim that one record tells of, if it is one of ours.
fn victim(record: &str, id: &str) -> Option<Victim> {
    let (_, line) = record.split_once(";oom-kill:")?;
    let line = line.lines().next()?;
    let (before, task) = line.split_once(",task=")?;
    let (_, cgroup) = before.rsplit_once("task_memcg=")?;
    cgroup.split('/').any(|component| component == id).then_some(())?;
    // The name is the workload's own and may hold anything; what follows it is the kernel's.
    let (task, _uid) = task.rsplit_once(",uid=")?;
    let (command, pid) = task.rsplit_once(",pid=")?;
    Some(Victim { pid: pid.parse().ok()?, command: command.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let line = |cgroup: &str, task: &str| {
            format!(
                "6,1234,5678,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=run-1,mems_allowed=0,\
                 oom_memcg=/dockless/run-1,task_memcg={cgroup},task={task},pid=42,uid=0\n SUBSYSTEM=x\n"
            )
        };
        let found = victim(&line("/dockless/run-1", "hog"), "run-1").unwrap();
        assert_eq!(found, Victim { pid: 42, command: "hog".to_owned() });
        assert!(victim(&line("/dockless/run-1/child", "hog"), "run-1").is_some());
        assert_eq!(victim(&line("/dockless/run-1", "a,pid=1,uid=2"), "run-1").unwrap().command, "a,pid=1,uid=2");
        assert!(victim(&line("/dockless/run-11", "hog"), "run-1").is_none());
        assert!(victim("6,1,2,-;Memory cgroup out of memory: Killed process 42 (hog)", "run-1").is_none());
    }
}
