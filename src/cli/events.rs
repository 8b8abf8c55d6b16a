//! `events`: what happens to runs, as it happens.

use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;

use super::args::{EventsArgs, Format};
use super::context::Context;
use super::exit::CliError;
use super::printer::print_data;
use super::time::moment;
use crate::store::{FeedLine, Happening, JOURNAL, Journal};
use crate::words::printable;

/// How long after it was told an event is seen, at most.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn show(context: &Context, args: &EventsArgs) -> Result<u8, CliError> {
    let now = Timestamp::now();
    let since = args.since.as_deref().map(|text| moment("--since", text, now)).transpose()?;
    let until = args.until.as_deref().map(|text| moment("--until", text, now)).transpose()?;
    let filter = Filter::new(&args.filter)?;
    let path = context.state.join(JOURNAL);
    let read = |source| CliError::Read { path: path.clone(), source };
    let from_now = since.is_none() && args.stream && until.is_none_or(|until| until > now);
    let mut journal = Journal::open(&context.state, from_now).map_err(read)?;
    loop {
        // Asked before reading, so that what is told by then is read in this round.
        let goes_on = args.stream && until.is_none_or(|until| Timestamp::now() <= until);
        while let Some(line) = journal.next_line().map_err(read)? {
            let time = line.time.parse::<Timestamp>().ok();
            let is_in_time = time
                .is_none_or(|time| since.is_none_or(|since| time >= since) && until.is_none_or(|until| time <= until));
            if is_in_time && filter.has(&line) {
                print_data(&as_text(&line, args.list.format));
            }
        }
        if !goes_on {
            return Ok(0);
        }
        sleep(PAUSE);
    }
}

/// Which events are shown.
struct Filter {
    runs: Vec<String>,
    types: Vec<String>,
}

impl Filter {
    fn new(texts: &[String]) -> Result<Self, CliError> {
        let mut filter = Self { runs: Vec::new(), types: Vec::new() };
        for text in texts {
            match text.split_once('=') {
                Some(("run" | "container", name)) => filter.runs.push(name.to_owned()),
                Some(("type" | "event", name)) => filter.types.push(name.to_owned()),
                _ => {
                    let expected = "expected `run=NAME` or `type=TYPE`";
                    return Err(CliError::Usage(format!("`--filter {text}` is unknown, {expected}")));
                }
            }
        }
        Ok(filter)
    }

    fn has(&self, line: &FeedLine) -> bool {
        let any = |wanted: &[String], names: &[&str]| {
            wanted.is_empty() || wanted.iter().any(|wanted| names.contains(&wanted.as_str()))
        };
        any(&self.runs, &[line.run.as_str(), &line.id]) && any(&self.types, &[&kind(&line.happening)])
    }
}

/// The word for it in JSON.
fn kind(happening: &Happening) -> String {
    let value = serde_json::to_value(happening).unwrap_or_default();
    value.get("type").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned()
}

fn as_text(line: &FeedLine, format: Format) -> String {
    if format == Format::Json {
        return serde_json::to_string(line).unwrap_or_default() + "\n";
    }
    let details = details(&line.happening);
    let gap = if details.is_empty() { "" } else { "  " };
    format!("{}  {:<15}  {}{gap}{}\n", printable(&line.time), kind(&line.happening), line.run, printable(&details))
}

/// What there is to say beside the kind of event.
fn details(happening: &Happening) -> String {
    match happening {
        Happening::PullLayer { digest, existed, .. } if *existed => format!("{digest} (was there)"),
        Happening::PullLayer { digest, .. } => digest.to_string(),
        Happening::PullDone { image, .. } => image.clone(),
        Happening::Created | Happening::Cleaned => String::new(),
        Happening::Started { pid } => format!("process {pid}"),
        Happening::Oom { oom_kills, victim } => {
            let victim = victim.as_ref().map(|victim| format!(", the last one `{}`", victim.command));
            format!("{oom_kills} killed in all{}", victim.unwrap_or_default())
        }
        Happening::Health { status } => status.clone(),
        Happening::Renamed { from } => format!("before: {from}"),
        Happening::Signal { signal } => format!("signal {signal}"),
        Happening::Restarting { restarts, delay_ms, exit } => {
            format!("for the {restarts}. time in {delay_ms} ms, after exit code {}", exit.code)
        }
        Happening::Exited { exit } => match &exit.message {
            Some(message) => format!("exit code {}: {}", exit.code, message.lines().next().unwrap_or_default()),
            None => format!("exit code {}", exit.code),
        },
        Happening::ArtifactsSaved { files, size_bytes } => format!("{files} files, {size_bytes}"),
    }
}
