//! `top`: the processes of a run.

mod columns;

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use self::columns::{Column, Surroundings, columns};
use super::args::{Format, TalkArgs, TopArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::{print_data, print_list, terminal_width};
use super::table::table_of;
use crate::container::{Cgroup, Process, host_resources};
use crate::engine::{ControlError, Engine, EngineError, Names};
use crate::image::ByteSize;
use crate::store::RunDir;

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
    let columns = columns(&args.columns)?;
    if !columns.is_empty() && args.format == Format::Json {
        return Err(CliError::Usage("`--format json` always has the same keys, so no columns can be named".to_owned()));
    }
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let run = engine.store().find_run(&args.run)?;
    let record = run.record()?;
    let processes = Cgroup::of_run(&record).map_err(EngineError::from)?.processes();
    if processes.is_empty() {
        let how = format!("it has no processes (`{}`)", record.state);
        return Err(EngineError::from(ControlError::NotRunning { run: record.name, how }).into());
    }
    if !columns.is_empty() {
        show(&columns, &processes, &surroundings(&engine, &run, &processes));
        return Ok(0);
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

fn surroundings(engine: &Engine, run: &RunDir, processes: &[Process]) -> Surroundings {
    Surroundings {
        container: engine.names_in(run),
        machine: Names::of_machine(),
        memory_bytes: host_resources(Path::new("/")).map_or(0, |host| host.memory.0),
        now: Timestamp::now(),
        inner_pids: processes.iter().map(|process| (process.pid, process.container_pid)).collect(),
    }
}

fn show(columns: &[Column], processes: &[Process], surroundings: &Surroundings) {
    let row = |process: &Process| columns.iter().map(|column| surroundings.cell(column, process)).collect();
    let header: Vec<&str> = columns.iter().map(|column| column.header.as_str()).collect();
    print_data(&table_of(&header, processes.iter().map(row).collect(), terminal_width()));
}

fn line(process: Process) -> Line {
    let Process { pid, container_pid, parent, uid, state, memory, cpu, command, .. } = process;
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
