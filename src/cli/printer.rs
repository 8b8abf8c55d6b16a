//! What the user sees: standard output carries data only, everything else goes to standard error.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::{Format, TalkArgs};
use super::table::table;
use crate::image::{ByteSize, Digest, Observer, PullEvent};
use crate::words::printable;

/// How much is said, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    quiet: bool,
    verbose: u8,
}

impl Printer {
    pub(super) const fn new(talk: TalkArgs, v: u8) -> Self {
        let verbose = if talk.verbose > v { talk.verbose } else { v };
        Self { quiet: talk.quiet, verbose }
    }

    /// Talk, unless quiet.
    pub(super) fn say(self, text: &str) {
        if !self.quiet {
            stderr_line(text);
        }
    }

    /// Talk for those who asked for more.
    pub(super) fn detail(self, text: &str) {
        if self.verbose > 0 && !self.quiet {
            stderr_line(text);
        }
    }

    /// Something is not as it should be.
    pub(super) fn warn(self, text: &str) {
        if !self.quiet {
            stderr_line(&format!("warning: {text}"));
        }
    }

    /// Shows a pull: bars on a terminal, lines elsewhere, nothing when quiet.
    pub(super) fn progress(self) -> Progress {
        let bars = (!self.quiet && io::stderr().is_terminal()).then(MultiProgress::new);
        Progress { printer: self, bars, layers: Mutex::default() }
    }
}

/// What is said while another process is in the way.
pub(super) fn waiting(holder_pid: Option<u32>) -> String {
    let whose = holder_pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    format!("waiting for another command to finish{whose}")
}

/// What kept data from being written.
static OUTPUT_ERROR: Mutex<Option<io::Error>> = Mutex::new(None);

/// Why data is missing from standard output, if some is: half a document must not look like success.
pub(super) fn output_error() -> Option<io::Error> {
    OUTPUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Data, to standard output. A reader that has gone away is nobody's fault; another error is told at the end
/// ([`output_error`]).
pub(super) fn print_data(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        OUTPUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Data as one JSON document.
pub(super) fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    print_data(&(text + "\n"));
}

/// A list, as it was asked for.
pub(super) fn print_list<T: Serialize, const N: usize>(
    format: Format,
    header: [&str; N],
    items: &[T],
    row: impl Fn(&T) -> [String; N],
) {
    match format {
        Format::Json => print_json(&items),
        Format::Table => print_data(&table(header, items.iter().map(row).collect(), terminal_width())),
    }
}

/// Data that is printed again and again, in one write. False when nobody reads it any more.
pub(super) fn print_frame(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    let goes_on = written.is_ok();
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        OUTPUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
    goes_on
}

/// Lines of the terminal that standard output is, if it is one that knows.
pub(super) fn terminal_height() -> Option<usize> {
    let stdout = io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(usize::from(size.ws_row)).filter(|rows| *rows > 0)
}

/// Columns of the terminal that standard output is, if it is one that knows.
pub(super) fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// An error, to standard error whatever was asked for.
pub(super) fn print_error(text: &str) {
    stderr_line(&format!("dockless: {text}"));
}

/// Errors and talk quote what images, archives and registries say, some of it by way of other people's errors.
fn stderr_line(text: &str) {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    drop(writeln!(io::stderr().lock(), "{}", lines.join("\n")));
}

/// Shows a pull as it goes.
#[derive(Debug)]
pub(super) struct Progress {
    printer: Printer,
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Progress {
    /// The bar of a layer, made at its first event; none without a terminal.
    fn bar(&self, digest: &Digest, total: u64, verb: &'static str) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = layers.entry(digest.clone()).or_insert_with(|| {
            let template = "{prefix} {msg:11} [{bar:30}] {bytes:>10} / {total_bytes:10} {bytes_per_sec}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = bars.add(ProgressBar::new(total).with_style(style.progress_chars("=> ")));
            bar.set_prefix(digest.short().to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        bar.set_length(total);
        bar.set_message(verb);
        Some(bar.clone())
    }

    fn done(&self, digest: &Digest, word: &'static str) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match (layers.get(digest), &self.bars) {
            (Some(bar), _) => bar.finish_with_message(word),
            (None, None) => self.printer.say(&format!("{}: {word}", digest.short())),
            (None, Some(_)) => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => self.printer.say(text),
        }
    }
}

impl Observer for Progress {
    fn waiting(&self, text: &str) {
        text.lines().for_each(|line| self.line(&printable(line)));
    }

    fn pull(&self, event: &PullEvent<'_>) {
        match event {
            PullEvent::Resolved { reference, manifest, layers } => {
                let total = ByteSize(layers.iter().map(|(_, size)| size).sum());
                let count = match layers.len() {
                    1 => "1 layer".to_owned(),
                    count => format!("{count} layers"),
                };
                self.line(&format!("{}: {manifest}, {count}, {total}", reference.familiar()));
            }
            PullEvent::LayerExists { digest } => self.done(digest, "already there"),
            PullEvent::Waiting { digest, holder_pid } => {
                let whose = holder_pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                self.line(&format!("{}: waiting for {whose}, which is fetching it", digest.short()));
            }
            PullEvent::Downloading { digest, done, total } => {
                if let Some(bar) = self.bar(digest, *total, "downloading") {
                    bar.set_position(*done);
                }
            }
            PullEvent::Downloaded { digest } => {
                if self.bars.is_none() {
                    self.printer.detail(&format!("{}: downloaded", digest.short()));
                }
            }
            PullEvent::Retrying { what, delay_ms } => {
                self.line(&format!("{}; trying again in {delay_ms} ms", printable(what)));
            }
            PullEvent::Unpacking { digest, done, total } => {
                if let Some(bar) = self.bar(digest, *total, "unpacking") {
                    bar.set_position(*done);
                }
            }
            PullEvent::Unpacked { digest } => self.done(digest, "done"),
        }
    }
}
