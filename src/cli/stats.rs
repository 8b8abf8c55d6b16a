//! `stats`: what runs use at the moment, as a table that is drawn anew every second, or as lines of JSON.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::args::{Format, StatsArgs, TalkArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::{print_frame, terminal_height, terminal_width};
use super::table::table;
use crate::container::{Cgroup, Sample, host_resources};
use crate::engine::{ControlError, Engine, EngineError};
use crate::image::ByteSize;
use crate::store::{RunDir, RunRecord, RunState};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between the two looks that one answer takes.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// What a run used between two looks; `docs/json.md` describes the keys.
#[derive(Debug, Serialize)]
struct Stats {
    run: String,
    time: String,
    cpu_percent: f64,
    memory: u64,
    memory_limit: u64,
    memory_percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_sent: Option<u64>,
    block_read: u64,
    block_written: u64,
    pids: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shm: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shm_size: Option<u64>,
}

/// One look at a run, by its id: a name may be given again.
type Looks = BTreeMap<String, (String, Instant, Sample)>;

pub(super) fn stats(context: &Context, args: &StatsArgs) -> Result<u8, CliError> {
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let runs = args.runs.iter().map(|name| engine.store().find_run(name)).collect::<Result<Vec<_>, _>>()?;
    for run in &runs {
        let record = run.record()?;
        if record.state.is_final() {
            let (run, how) = (record.name, format!("it has ended (`{}`)", record.state));
            return Err(EngineError::from(ControlError::NotRunning { run, how }).into());
        }
    }
    let memory = host_resources(Path::new("/")).map_err(EngineError::from)?.memory;
    let mut screen = Screen { format: args.format, lines_up: 0 };
    let mut before = look(&engine, &runs)?;
    // Nobody wants to look at nothing for a second.
    if args.format == Format::Table && !args.no_stream && !screen.show(&[]) {
        return Ok(0);
    }
    let mut interval = FIRST_INTERVAL;
    loop {
        sleep(interval);
        interval = INTERVAL;
        let now = look(&engine, &runs)?;
        let shown: Vec<Stats> = now
            .iter()
            .map(|(id, (name, at, sample))| {
                let first = before.get(id).map(|(_, at, sample)| (*at, sample));
                between(name, first, (*at, sample), memory)
            })
            .collect();
        // Whoever asked for some has seen their end, unless they are about to be started once more.
        let is_waiting = |run: &RunDir| run.record().is_ok_and(|record| record.state == RunState::Restarting);
        let is_over = !runs.is_empty() && now.is_empty() && !runs.iter().any(is_waiting);
        if !screen.show(&shown) || args.no_stream || is_over {
            return Ok(0);
        }
        before = now;
    }
}

/// Looks at these runs, or at all that go on.
fn look(engine: &Engine, runs: &[RunDir]) -> Result<Looks, CliError> {
    let records: Vec<RunRecord> = if runs.is_empty() {
        engine.store().live_runs()?
    } else {
        // One that was removed has ended.
        runs.iter().filter_map(|run| run.record().ok()).collect()
    };
    let mut looks = Looks::new();
    for record in records.into_iter().filter(|record| matches!(record.state, RunState::Running | RunState::Paused)) {
        let sample = Cgroup::of_run(&record).map_err(EngineError::from)?.sample(record.pid.unwrap_or(0));
        if let Some(sample) = sample {
            looks.insert(record.id, (record.name.to_string(), Instant::now(), sample));
        }
    }
    Ok(looks)
}

#[expect(clippy::cast_precision_loss, reason = "a share of bytes need not be exact")]
fn between(name: &str, first: Option<(Instant, &Sample)>, (at, sample): (Instant, &Sample), host: ByteSize) -> Stats {
    let cpu = first.map_or(0.0, |(before, first)| {
        let elapsed = at.duration_since(before).as_secs_f64();
        let used = sample.cpu.saturating_sub(first.cpu).as_secs_f64();
        if elapsed > 0.0 { used / elapsed * 100.0 } else { 0.0 }
    });
    let limit = sample.memory_limit.filter(|limit| *limit < host).unwrap_or(host).0;
    Stats {
        run: name.to_owned(),
        time: format!("{:.9}", Timestamp::now()),
        cpu_percent: hundredths(cpu),
        memory: sample.memory,
        memory_limit: limit,
        memory_percent: hundredths(sample.memory as f64 / limit.max(1) as f64 * 100.0),
        network_received: sample.network.map(|(received, _)| received),
        network_sent: sample.network.map(|(_, sent)| sent),
        block_read: sample.block_read,
        block_written: sample.block_written,
        pids: sample.pids,
        shm: sample.shm.map(|(used, _)| used),
        shm_size: sample.shm.map(|(_, size)| size),
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Where it is shown. On a terminal each table takes the place of the one before, in one write and without clearing
/// anything first, so that it does not flicker.
struct Screen {
    format: Format,
    /// Of the table that stands there.
    lines_up: usize,
}

impl Screen {
    /// False when nobody looks any more.
    fn show(&mut self, stats: &[Stats]) -> bool {
        if self.format == Format::Json {
            let lines: String =
                stats.iter().map(|stats| serde_json::to_string(stats).unwrap_or_default() + "\n").collect();
            return print_frame(&lines);
        }
        let header = ["RUN", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "SHM", "PIDS"];
        let text = table(header, stats.iter().map(row).collect(), terminal_width());
        if !io::stdout().is_terminal() {
            return print_frame(&text);
        }
        let height = terminal_height().unwrap_or(usize::MAX).saturating_sub(1).max(1);
        let lines: Vec<&str> = text.lines().take(height).collect();
        let frame = drawn_over(self.lines_up, &lines);
        self.lines_up = lines.len();
        print_frame(&frame)
    }
}

/// The lines in place of the last `lines_up` ones (ECMA-48: CUU, EL, ED).
fn drawn_over(lines_up: usize, lines: &[&str]) -> String {
    let up = if lines_up > 0 { format!("\x1b[{lines_up}A\r") } else { String::new() };
    let lines: String = lines.iter().flat_map(|line| [line, "\x1b[K\n"]).collect();
    format!("{up}{lines}\x1b[J")
}

fn row(stats: &Stats) -> [String; 8] {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let pair = |pair: Option<(u64, u64)>| {
        pair.map_or_else(|| "-".to_owned(), |(one, other)| format!("{} / {}", size(one), size(other)))
    };
    [
        stats.run.clone(),
        format!("{:.2}%", stats.cpu_percent),
        pair(Some((stats.memory, stats.memory_limit))),
        format!("{:.2}%", stats.memory_percent),
        pair(stats.network_received.zip(stats.network_sent)),
        pair(Some((stats.block_read, stats.block_written))),
        pair(stats.shm.zip(stats.shm_size)),
        stats.pids.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_second() {
        let start = Instant::now();
        let sample = |millis| Sample { cpu: Duration::from_millis(millis), memory: 256, ..Sample::default() };
        let (before, after) = (sample(1000), sample(1500));
        let stats = between("x", Some((start, &before)), (start + Duration::from_secs(2), &after), ByteSize(1024));
        assert!((stats.cpu_percent - 25.0).abs() < 1e-9 && (stats.memory_percent - 25.0).abs() < 1e-9, "{stats:?}");
        assert_eq!(stats.memory_limit, 1024);
        // The first look knows no share; a counter that went back is none.
        for first in [None, Some((start, &after))] {
            let stats = between("x", first, (start + Duration::from_secs(1), &before), ByteSize(0));
            assert!(stats.cpu_percent.abs() < 1e-9);
        }
    }

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        assert_eq!(drawn_over(0, &["a"]), "a\x1b[K\n\x1b[J");
        assert_eq!(drawn_over(3, &["a", "b"]), "\x1b[3A\ra\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
