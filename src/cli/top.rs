//! `top`: the processes of a run.

use serde::Serialize;

use super::args::{TalkArgs, TopArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::print_list;
use crate::container::{Cgroup, Process};
use crate::engine::{ControlError, EngineError};
use crate::image::ByteSize;

/// One line; `docs/json.md` describes the keys.
#[derive(Debug, Serialize)]
struct Line {
    pid: i32,
    container_pid: i32,
    parent: i32,
    uid: u32,
    state: char,
    memory: u64,
    cpu_seconds: f64,
    command: String,
}

pub(super) fn top(context: &Context, args: &TopArgs) -> Result<u8, CliError> {
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let record = engine.store().find_run(&args.run)?.record()?;
    let processes = Cgroup::of_run(&record).map_err(EngineError::from)?.processes();
    if processes.is_empty() {
        let how = format!("it has no processes (`{}`)", record.state);
        return Err(EngineError::from(ControlError::NotRunning { run: record.name, how }).into());
    }
    let lines: Vec<Line> = processes.into_iter().map(line).collect();
    let header = ["PID", "CPID", "PPID", "UID", "STATE", "RSS", "TIME", "COMMAND"];
    print_list(args.format, header, &lines, |line| {
        [
            line.pid.to_string(),
            line.container_pid.to_string(),
            line.parent.to_string(),
            line.uid.to_string(),
            line.state.to_string(),
            ByteSize(line.memory).to_string(),
            time(line.cpu_seconds),
            line.command.clone(),
        ]
    });
    Ok(0)
}

fn line(process: Process) -> Line {
    let Process { pid, container_pid, parent, uid, state, memory, cpu, command } = process;
    Line { pid, container_pid, parent, uid, state, memory, cpu_seconds: cpu.as_secs_f64(), command }
}

/// As ps(1) has it: `00:01:02`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds, never below zero")]
fn time(seconds: f64) -> String {
    let seconds = seconds as u64;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_as_ps_has_it() {
        assert_eq!(
            (time(0.9), time(62.0), time(360_000.0)),
            ("00:00:00".into(), "00:01:02".into(), "100:00:00".into())
        );
    }
}
