//! Our terminal as the terminal of a container: raw, with the keys that leave it, and its size.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::exit::CliError;
use crate::supervisor::MaskedStream;
use crate::sys::{RawTerminal, WindowSize, is_terminal, window_size};

/// How much is passed on at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The keys that leave a container and let it go on: `ctrl-p,ctrl-q` unless others were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DetachKeys(Vec<u8>);

/// Why a text names no keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` names no keys, expected them with commas between: a single character, or `ctrl-` and one of a-z @ [ \\ ] ^ _"
)]
pub(super) struct DetachKeysError(String);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = |word: &str| match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([byte], _) if byte.is_ascii_graphic() => Some(*byte),
            (_, Some([letter])) if letter.is_ascii_lowercase() => Some(letter - b'a' + 1),
            (_, Some(b"@")) => Some(0),
            (_, Some([sign @ b'['..=b'_'])) => Some(sign - b'[' + 0x1b),
            _ => None,
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| DetachKeysError(text.to_owned()))
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |key: &u8| match key {
            0 => "ctrl-@".to_owned(),
            1..=26 => format!("ctrl-{}", char::from(key - 1 + b'a')),
            0x1b..=0x1f => format!("ctrl-{}", char::from(key - 0x1b + b'[')),
            _ => char::from(*key).to_string(),
        };
        f.write_str(&self.0.iter().map(name).collect::<Vec<_>>().join(","))
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
struct KeyWatch {
    keys: Vec<u8>,
    /// How many of them were the last ones typed.
    typed: usize,
}

impl KeyWatch {
    /// What is to be passed on, and whether the keys have come. Keys that may be the beginning are held back.
    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(*byte == self.keys[0]);
            if self.typed == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// What our terminal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has another size.
    Resized(WindowSize),
    /// The keys that leave have been pressed.
    Left,
}

/// How a container is shown in our terminal.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Ours becomes raw when the workload starts.
    wants_raw: bool,
    raw: Option<RawTerminal>,
    keys: Option<mpsc::Receiver<()>>,
    sizes: Option<Signal>,
}

impl Shown {
    /// For a container with a terminal; `left` hears of the keys that leave it.
    pub(super) fn terminal(left: Option<mpsc::Receiver<()>>) -> Result<Self, CliError> {
        let sizes = signal(SignalKind::window_change())
            .map_err(|source| CliError::Process("listen to the terminal's size", source))?;
        let wants_raw = left.is_some() && stdin_is_terminal();
        Ok(Self { wants_raw, raw: None, keys: left, sizes: Some(sizes) })
    }

    /// The workload runs: from now on the terminal is its.
    pub(super) fn begin(&mut self) -> Result<(), CliError> {
        if self.wants_raw && self.raw.is_none() {
            let raw = RawTerminal::enter().map_err(|source| CliError::Process("make the terminal raw", source))?;
            self.raw = Some(raw);
        }
        Ok(())
    }

    /// What our terminal has to say. Safe to cancel.
    pub(super) async fn next(&mut self) -> Heard {
        let Self { keys, sizes, .. } = self;
        let left = async {
            if let Some(keys) = keys
                && keys.recv().await.is_some()
            {
                return Heard::Left;
            }
            // The end of the input closes the channel, and is no wish to leave.
            std::future::pending().await
        };
        let resized = async {
            let Some(sizes) = sizes else { return std::future::pending().await };
            loop {
                sizes.recv().await;
                if let Some(size) = own_size() {
                    return Heard::Resized(size);
                }
            }
        };
        tokio::select! {
            heard = left => heard,
            heard = resized => heard,
        }
    }
}

/// The size of our terminal, whichever of our streams it is.
pub(super) fn own_size() -> Option<WindowSize> {
    window_size(io::stdout().as_fd()).or_else(|| window_size(io::stdin().as_fd()))
}

/// Whether somebody types.
pub(super) fn stdin_is_terminal() -> bool {
    is_terminal(io::stdin().as_fd())
}

/// docker's rule: who wants to type into a terminal needs one.
pub(super) fn check_input() -> Result<(), CliError> {
    if stdin_is_terminal() {
        return Ok(());
    }
    let hint = "hint: leave `-t` out where standard input is a pipe or a file";
    Err(CliError::Usage(format!("the input device is not a TTY\n{hint}")))
}

/// A pipe that carries our standard input, so that the container never holds a descriptor of ours; the second value hears
/// when `keys` are pressed.
///
/// The thread ends with the input, with the other end of the pipe, with the keys, or with us.
pub(super) fn relay_stdin(keys: Option<DetachKeys>) -> Result<(OwnedFd, mpsc::Receiver<()>), CliError> {
    let pipe = |source| CliError::Process("relay standard input", source);
    let (reader, writer) = io::pipe().map_err(pipe)?;
    let receiver = pump_stdin(File::from(OwnedFd::from(writer)), keys)?;
    Ok((reader.into(), receiver))
}

/// The same into a file that is there already.
pub(super) fn pump_stdin(mut target: File, keys: Option<DetachKeys>) -> Result<mpsc::Receiver<()>, CliError> {
    let (sender, receiver) = mpsc::channel(1);
    let mut watch = keys.map(|keys| KeyWatch { keys: keys.0, typed: 0 });
    let pump = move || {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut stdin = io::stdin().lock();
        while let Ok(read @ 1..) = stdin.read(&mut buffer) {
            let (passed, leaves) = match &mut watch {
                Some(watch) => watch.feed(&buffer[..read]),
                None => (buffer[..read].to_vec(), false),
            };
            if target.write_all(&passed).is_err() {
                break;
            }
            if leaves {
                let _ = sender.blocking_send(());
                // The end of this pipe would be the end of the container's input.
                loop {
                    std::thread::park();
                }
            }
        }
    };
    let spawned = std::thread::Builder::new().name("stdin".to_owned()).spawn(pump);
    spawned.map_err(|source| CliError::Process("relay standard input", source))?;
    Ok(receiver)
}

/// Where the output of a container comes to us.
#[derive(Debug)]
pub(super) struct Outlet(std::thread::JoinHandle<()>);

impl Outlet {
    /// Passes on what comes out of `source` through `masked`, in a thread of its own.
    pub(super) fn open(mut source: File, target: &impl AsFd, mut masked: MaskedStream) -> Result<Self, CliError> {
        let failed = |source| CliError::Process("show the container's output", source);
        // Not the buffered streams of the library, which would wait for the end of a line.
        let mut target = File::from(target.as_fd().try_clone_to_owned().map_err(failed)?);
        let pump = move || {
            let (mut buffer, mut shown) = (vec![0; BUFFER_BYTES], Vec::new());
            // The master of a terminal ends with an error.
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                masked.push(&buffer[..read], &mut shown);
                if target.write_all(&shown).is_err() {
                    return;
                }
                shown.clear();
            }
            masked.finish(&mut shown);
            let _ = target.write_all(&shown);
        };
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(pump).map_err(failed)?;
        Ok(Self(thread))
    }

    /// Waits until all has been shown, but no longer than this: somebody in the container may keep the pipe.
    pub(super) fn finish(self, patience: std::time::Duration) {
        let until = std::time::Instant::now() + patience;
        while !self.0.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_dockers_names() {
        for (text, keys) in [
            ("ctrl-p,ctrl-q", &[16, 17][..]),
            ("a", b"a"),
            ("ctrl-@,ctrl-[,ctrl-_,ctrl-\\", &[0, 0x1b, 0x1f, 0x1c]),
            ("ctrl-a,b,Z", &[1, b'b', b'Z']),
        ] {
            let parsed: DetachKeys = text.parse().unwrap();
            assert_eq!(parsed.0, keys);
            assert_eq!(parsed.to_string(), text);
        }
        for bad in ["", "ctrl-", "ctrl-P", "ctrl-1", "ab", "a,,b", "ctrl-ab", "ä"] {
            let error = bad.parse::<DetachKeys>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{bad}` names no keys")), "{error}");
        }
        assert_eq!(DetachKeys::default().to_string(), "ctrl-p,ctrl-q");
    }

    #[test]
    fn keys_are_found_however_they_are_cut() {
        for (typed, passed, leaves) in [
            (&[&b"ab"[..]][..], &b"ab"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"\x10", b"x"], b"\x10x", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11\x10"], b"\x11", false),
        ] {
            let mut watch = KeyWatch { keys: DetachKeys::default().0, typed: 0 };
            let mut all = Vec::new();
            let mut has_left = false;
            for piece in typed {
                let (bytes, leaves) = watch.feed(piece);
                all.extend(bytes);
                has_left |= leaves;
            }
            assert_eq!((all.as_slice(), has_left), (passed, leaves), "{typed:?}");
        }
    }
}
